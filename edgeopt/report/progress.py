"""Progress on standard error: live lines in a terminal, plain lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from edgeopt.report.text import one_line, plain
from edgeopt.support.progress import Event, Listener

_FINAL = {"done": ("✓", "green"), "unverified": ("?", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}
_EACH = ("measure", "wait")
"""Phases of which a log has every step: each launch, and each pause with its reason."""
_shown: "list[_LiveLines | _PlainLines]" = []
"""What shows progress now: one at most."""


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that shows each subject's phase, elapsed time and outcome until the block ends."""
    if sys.stderr.isatty() and not os.environ.get("CI") and not os.environ.get("NO_COLOR"):
        with _live() as bars, _showing(_LiveLines(bars)) as lines:
            yield lines
    else:
        with _showing(_PlainLines()) as lines:
            yield lines


def paused() -> AbstractContextManager[None]:
    """Until the block ends progress writes nothing, so that a question stays on the screen; from any thread, one at a time."""
    return _shown[-1].paused() if _shown else nullcontext()


@contextmanager
def _showing(lines: "_LiveLines | _PlainLines") -> "Iterator[_LiveLines | _PlainLines]":
    _shown.append(lines)
    try:
        yield lines
    finally:
        _shown.remove(lines)


class _Mark(ProgressColumn):
    """A spinner while a subject is at work, then its outcome."""

    def __init__(self) -> None:
        super().__init__()
        self._spinner = SpinnerColumn()

    def render(self, task: Task) -> RenderableType:
        outcome = _FINAL.get(task.fields["phase"])
        return Text(outcome[0], style=outcome[1]) if outcome else self._spinner.render(task)


def _live() -> Progress:
    subject = TextColumn("{task.description}", markup=False)
    phase = TextColumn("{task.fields[phase]}", style="cyan", markup=False)
    detail = TextColumn("{task.fields[detail]}", style="dim", markup=False)
    return Progress(_Mark(), subject, phase, TimeElapsedColumn(), detail, console=Console(stderr=True), transient=True)


class _LiveLines:
    """One line per subject, in the order in which they begin."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._tasks = bars, dict[str, TaskID]()

    def __call__(self, event: Event) -> None:
        detail = plain(event.detail).partition("\n")[0]
        share = "" if event.fraction is None else f"{event.fraction:.0%} "
        shown: dict[str, Any] = {"phase": event.phase, "detail": share + detail}
        if event.subject not in self._tasks:
            self._tasks[event.subject] = self._bars.add_task(one_line(event.subject), total=1, **shown)
        task = self._tasks[event.subject]
        self._bars.update(task, completed=int(event.phase in _FINAL), **shown)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """See :func:`paused`. What is told meanwhile is shown afterwards."""
        self._bars.stop()
        try:
            yield
        finally:
            if self in _shown:  # else the command has ended while the question was open
                self._bars.start()


class _PlainLines:
    """One line per subject and phase, and for every step of a measurement; the fractions between are left out."""

    def __init__(self) -> None:
        self._begun, self._last = time.monotonic(), dict[str, tuple[str, str]]()
        self._lock, self._waiting = threading.Lock(), list[str]()
        self._is_paused = False

    def __call__(self, event: Event) -> None:
        step = event.phase, event.detail if event.phase in _EACH else ""
        if self._last.get(event.subject) == step:
            return
        self._last[event.subject] = step
        detail = plain(event.detail).partition("\n")[0]
        line = f"[{time.monotonic() - self._begun:6.1f} s] {one_line(event.subject)}: {event.phase}"
        with self._lock:
            self._waiting.append(f"{line}, {detail}\n" if detail else f"{line}\n")
            self._write()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """See :func:`paused`. What is told meanwhile is written afterwards."""
        with self._lock:
            self._is_paused = True
        try:
            yield
        finally:
            with self._lock:
                self._is_paused = False
                self._write()

    def _write(self) -> None:
        if not self._is_paused and self._waiting:
            sys.stderr.write("".join(self._waiting))
            sys.stderr.flush()
            self._waiting.clear()
