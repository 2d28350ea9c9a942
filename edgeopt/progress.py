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
    """To be called with the number of calibration samples read so far: tells it once a second, and when they are too many."""
    told = time.monotonic()

    def read(count: int) -> None:
        nonlocal told
        if count == _MANY:  # as a phase of its own: a log has one line for each
            what = f"{count} samples so far; if the data has no end, itertools.islice(batches, 300) gives it one"
            listen(event("model", "wait", what))
        elif time.monotonic() - told >= _EVERY_S:
            told = time.monotonic()
            listen(event("model", "calibrate", f"{count} samples"))

    return read
