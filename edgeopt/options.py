"""What the user asks of one export, from the command line, edgeopt.toml or Python, and the events that tell its progress."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgeopt.core import data_class

DEFAULT_TIMEOUT_S = 900.0

Phase = Literal[
    "capture", "calibrate", "plan", "quantize", "convert", "evaluate", "time", "write", "done", "unverified",
    "failed", "skipped", "connect", "wait", "push", "measure",
]  # fmt: skip


@data_class
class Options:
    """How to export. Empty ``targets`` means every target; ``max_drop`` is in the unit of ``evaluate``'s numbers."""

    out: Path
    targets: tuple[str, ...] = ()
    max_drop: float | None = None
    io_float: bool = False
    """Floats in and out where the target's default is integers (arm-xnnpack, android-nnapi)."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    jobs: int = 2
    use_cache: bool = True


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
