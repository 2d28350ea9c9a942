"""The table at the end of ``edgeopt bench``: one over all devices, and below it everything that makes its figures doubtful."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeopt.report.bench_columns import LOUD, Cell, Column, columns
from edgeopt.report.bench_notes import legend, sections
from edgeopt.report.console import headed, output, paragraph
from edgeopt.report.device_words import described
from edgeopt.report.text import cut, one_line

if TYPE_CHECKING:
    from edgeopt.bench.types import DeviceRun

_VERDICT_WIDTH = 15
"""Room for ``ok UNCALIBRATED``; where no more is left, a verdict with more marks goes on below itself."""
_NAMES = ("target", "device")
"""Columns that are shortened, in this order, where leaving columns out does not do."""
_SHORTEST_NAME = 8


def print_runs(runs: "Sequence[DeviceRun]", folders: Sequence[Path], console: Console | None = None) -> None:
    """Prints what every device measured. ``folders`` holds the folder of each run's result, in the same order."""
    console = console or output()
    kept, dropped = fitted(columns(runs), console.width)
    console.print()
    console.print(_table(kept, console.width))
    console.print()
    for sentence in legend(runs, kept):
        paragraph(console, sentence, style="dim")
    if dropped:
        names = ", ".join(column.name for column in dropped)
        paragraph(console, f"no room for: {names} (a wider terminal, or --format csv)", style="dim")
    for heading, style, notes in sections(runs):
        headed(console, heading, style, notes)
    console.print()
    paragraph(console, "Results (raw samples, environment, lines of every run)", style="bold")
    for run, folder in zip(runs, folders, strict=True):
        about = described(run.facts) if run.facts else ""
        paragraph(console, f"{one_line(run.device)}: {folder}" + (f" ({about})" if about else ""), indent=2)


def fitted(all_columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """The columns that fit into ``width`` characters, and those left out, the least important ones. Numbers are never cut."""
    kept, dropped = list(all_columns), list[Column]()
    while _total(kept) > width:
        ranked = [(column.drop, index) for index, column in enumerate(kept) if column.drop is not None]
        if not ranked:
            break
        dropped.append(kept.pop(min(ranked)[1]))
    for name in _NAMES:
        excess = _total(kept) - width
        if excess > 0:
            kept = [_shortened(column, excess) if column.name == name else column for column in kept]
    return kept, [column for column in all_columns if column in dropped]


def _total(shown: Sequence[Column]) -> int:
    return sum(map(_width, shown)) + len(shown) - 1


def _width(column: Column) -> int:
    """What a column needs at least: all of it, but for the verdict, whose words may stand below each other."""
    texts = [cell.words for cell in column.cells]
    if column.name == "verdict":
        longest = max((cell_len(word) for text in texts for word in text.split()), default=0)
        texts = [text[: max(longest, _VERDICT_WIDTH)] for text in texts]
    return max(map(cell_len, (*column.header.split("\n"), *texts)), default=0)


def _shortened(column: Column, excess: int) -> Column:
    room = max(_width(column) - excess, _SHORTEST_NAME)
    cells = tuple(Cell(cut(cell.text, room), cell.style, cell.marks) for cell in column.cells)
    return Column(column.name, column.header, cells, column.drop, column.right)


def _table(shown: Sequence[Column], width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in shown:
        last = column.name == "verdict"
        left = width - _total(shown) + _width(column)
        table.add_column(
            Text(column.header), justify="right" if column.right else "left", no_wrap=not last,
            min_width=None if last else _width(column), max_width=max(left, 1) if last else None,
        )  # fmt: skip
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(_text, cells))
    return table


def _text(cell: Cell) -> Text:
    text = Text(cell.text, style=cell.style)
    for mark in cell.marks:
        text.append(" ")
        text.append(mark, style=LOUD)
    return text
