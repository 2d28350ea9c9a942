"""Short ways to tell a listener what happens."""

import time
from collections.abc import Callable

from edgeopt.options import Event, Listener, Phase

_EVERY_S = 1.0
_MANY = 10_000
"""Samples beyond which calibration data may well have no end."""


def event(subject: str, phase: Phase, detail: str = "", fraction: float | None = None) -> Event:
    """An event, its fields by position."""
    return Event(subject=subject, phase=phase, detail=detail, fraction=fraction)


def reading(listen: Listener) -> Callable[[int], None]:
    """To be called with the number of calibration samples read so far: tells it once a second."""
    told = time.monotonic()

    def read(count: int) -> None:
        nonlocal told
        if time.monotonic() - told < _EVERY_S:
            return
        told = time.monotonic()
        endless = "; if it has no end, itertools.islice(batches, 300) gives it one" if count >= _MANY else ""
        listen(event("model", "calibrate", f"{count} samples{endless}"))

    return read
