"""``edgeopt devices``: every known device as it is now, and below the table why one could not be reached."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeopt.report.console import headed, output, paragraph
from edgeopt.report.device_words import clusters, short, system
from edgeopt.report.figures import NONE
from edgeopt.report.text import counted, one_line
from edgeopt.targets.loader import name_of

if TYPE_CHECKING:
    from edgeopt.bench.inventory import DeviceRow

HOT_C = 80.0
"""Where small boards begin to slow down."""
_COLUMNS = {"device": 8, "reachable": 9, "model and system": 12, "CPU": 8, "runtimes": 12, "°C": 3, "targets": 7}
"""Each with the room that it has in the narrowest terminal."""


def print_devices(rows: "Iterable[DeviceRow]", console: Console | None = None) -> None:
    """One row per device, then each failure in full with its next step."""
    console = console or output()
    shown = list(rows)
    table = Table(box=None, padding=(0, 1, 1, 0), pad_edge=False, header_style="bold")
    for header, room in _COLUMNS.items():
        table.add_column(header, overflow="fold", min_width=room)
    for row in shown:
        table.add_row(_name(row), _reachable(row), _system(row), _cpu(row), _runtimes(row), _temperature(row), _targets(row))
    console.print(table)
    failures = {
        row.error: [one_line(other.spec.name) for other in shown if other.error == row.error] for row in shown if row.error
    }
    away = sum(row.facts is None for row in shown)
    paragraph(console, f"{counted(len(shown), 'device')}, {f'{away} not' if away else 'all'} reachable", style="bold")
    headed(console, "Failed", "bold red", failures)
    headed(console, "Notes", "bold", {row.spec.changed: [one_line(row.spec.name)] for row in shown if row.spec.changed})


def _name(row: "DeviceRow") -> Text:
    return Text(one_line(row.spec.name), style="bold").append(f"\n{one_line(row.spec.url)}", style="not bold dim")


def _reachable(row: "DeviceRow") -> Text:
    return Text("NO", style="bold red") if row.facts is None else Text("yes", style="green")


def _system(row: "DeviceRow") -> Text:
    if row.facts is None:
        return Text(NONE)
    return Text("\n".join(part for part in (short(row.facts.model), system(row.facts)) if part) or NONE)


def _cpu(row: "DeviceRow") -> Text:
    return Text("\n".join(clusters(row.facts)) or NONE) if row.facts else Text(NONE)


def _runtimes(row: "DeviceRow") -> Text:
    if row.facts is None:
        return Text(NONE)
    found = [short(f"{name} {version}") for name, version in row.installed.items() if name != "numpy"]
    if found or row.error:
        return Text("\n".join(found) or NONE)
    return Text(f"none: edgeopt devices setup {one_line(row.spec.name)}", style="yellow")


def _temperature(row: "DeviceRow") -> Text:
    if row.hottest is None:
        return Text(NONE)
    return Text(f"{row.hottest[1]:.0f}", style="bold yellow" if row.hottest[1] >= HOT_C else "")


def _targets(row: "DeviceRow") -> Text:
    return Text("\n".join(one_line(name_of(target)) for target in row.spec.targets) or "all")
