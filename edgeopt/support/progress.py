"""The events that tell the progress of long work, and who listens to them."""

import time
from collections.abc import Callable
from typing import Literal

from edgeopt.core import data_class

Phase = Literal[
    "capture", "calibrate", "plan", "quantize", "convert", "evaluate", "time", "write", "done", "unverified",
    "failed", "skipped", "connect", "wait", "push", "measure",
]  # fmt: skip

_EVERY_S = 1.0
_MANY = 10_000
"""Samples beyond which calibration data may well have no end."""


@data_class
class Event:
    """Progress of one subject: ``model``, ``target/format``, a device. ``fraction`` is done work in 0..1 where it is known."""

    subject: str
    phase: Phase
    detail: str = ""
    fraction: float | None = None


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for callers that want no progress."""


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
