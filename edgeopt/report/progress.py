"""Progress of an export on standard error: live lines in a terminal, plain lines in a log."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from edgeopt.options import Event, Listener
from edgeopt.report.text import one_line, plain

_FINAL = {"done": ("✓", "green"), "unverified": ("?", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that shows each subject's phase, elapsed time and outcome until the block ends."""
    if sys.stderr.isatty() and not os.environ.get("CI") and not os.environ.get("NO_COLOR"):
        with _live() as bars:
            yield _LiveLines(bars)
    else:
        yield _PlainLines()


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


class _PlainLines:
    """One line per subject and phase; the fractions between are left out."""

    def __init__(self) -> None:
        self._begun, self._last = time.monotonic(), dict[str, str]()

    def __call__(self, event: Event) -> None:
        if self._last.get(event.subject) == event.phase:
            return
        self._last[event.subject] = event.phase
        detail = plain(event.detail).partition("\n")[0]
        line = f"[{time.monotonic() - self._begun:6.1f} s] {one_line(event.subject)}: {event.phase}"
        sys.stderr.write(f"{line}, {detail}\n" if detail else f"{line}\n")  # one write: lines come from several threads
        sys.stderr.flush()
