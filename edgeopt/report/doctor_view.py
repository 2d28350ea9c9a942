"""``edgeopt doctor``: what was found, and below each thing that is missing the step that mends it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeopt.report.console import output, paragraph
from edgeopt.report.text import counted, plain

if TYPE_CHECKING:
    from edgeopt.starter.doctor import Check


def print_checks(checks: "Iterable[Check]", console: Console | None = None) -> None:
    """One row per check, then every fix in full so that it can be copied."""
    console = console or output()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for header in ("", "what", "found", "needed for"):
        table.add_column(header, overflow="fold")
    missing = []
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("MISSING", style="bold red")
        table.add_row(mark, plain(check.name), plain(check.found), plain(check.needed_for))
        missing += [] if check.ok else [check]
    console.print(table)
    console.print()
    paragraph(console, f"{counted(len(missing), 'thing')} to mend:" if missing else "everything is there", style="bold")
    for fix, names in _fixes(missing).items():
        paragraph(console, f"{', '.join(names)}: {fix}", indent=2)


def _fixes(missing: "list[Check]") -> dict[str, list[str]]:
    """Each fix once, with everything it mends."""
    fixes: dict[str, list[str]] = {}
    for check in missing:
        fixes.setdefault(check.fix, []).append(check.name)
    return fixes
