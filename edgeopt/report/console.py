"""The consoles that everything is printed on: results on standard output, progress and errors on standard error."""

import shutil

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edgeopt.report.text import plain

PIPE_WIDTH = 120


def output() -> Console:
    """Standard output; a pipe or a log file is wide, unless COLUMNS says otherwise. rich honours NO_COLOR."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = shutil.get_terminal_size((PIPE_WIDTH, 25)).columns
    return console


def paragraph(console: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """Prints ``text``, whatever it holds, wrapped and indented as one block."""
    console.print(Padding(Text(plain(text), style=style), (0, 0, 0, indent), expand=False))


def headed(console: Console, heading: str, style: str, notes: dict[str, list[str]]) -> None:
    """Prints ``heading`` and the notes below what they concern; nothing where there are no notes."""
    if not notes:
        return
    console.print()
    paragraph(console, heading, style=style)
    together: dict[tuple[str, ...], list[str]] = {}
    for note, labels in notes.items():
        together.setdefault(tuple(labels), []).append(note)
    for concerned, said in together.items():
        paragraph(console, ", ".join(concerned), indent=2, style="bold")
        for note in said:
            paragraph(console, note, indent=4)
