"""``edgeopt targets``: the list of targets, and one target with every setting and where it comes from."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeopt.core import to_data
from edgeopt.report.console import output, paragraph
from edgeopt.report.text import plain
from edgeopt.targets.schema import TargetProfile

_OWN_WORDS = ("name", "summary", "sources")


def print_targets(profiles: Iterable[TargetProfile], console: Console | None = None) -> None:
    """One row per target: its formats, schemes and what it is for."""
    console = console or output()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True)
    for header in ("formats", "schemes", "what for"):
        table.add_column(header, overflow="fold")
    for profile in profiles:
        legacy = " (legacy)" if profile.status == "legacy" else ""
        schemes = "\n".join(scheme.describe() for scheme in profile.schemes)
        table.add_row(plain(profile.name), ", ".join(profile.formats), schemes, plain(profile.summary) + legacy)
    console.print(table)


def print_target(profile: TargetProfile, console: Console | None = None) -> None:
    """Every setting of ``profile``, each followed by its source."""
    console = console or output()
    paragraph(console, profile.name, style="bold")
    paragraph(console, profile.summary)
    if profile.status == "legacy":
        paragraph(console, f"legacy: {profile.status_note}", style="yellow")
    for key, value in settings(profile):
        console.print()
        paragraph(console, f"{key} = {value}")
        where = source(profile, key)
        if where:
            paragraph(console, f"source: {where}", indent=4, style="dim")


def settings(profile: TargetProfile) -> Iterator[tuple[str, str]]:
    """Each setting by the dotted name that ``sources`` uses; what says nothing is left out."""
    data: dict[str, Any] = {key: value for key, value in to_data(profile).items() if key not in _OWN_WORDS}
    data["schemes"] = [scheme.describe() for scheme in profile.schemes]
    for key, value in data.items():
        section = value if isinstance(value, dict) else {"": value}
        for inner, setting in section.items():
            if setting not in (None, [], {}, ""):
                yield f"{key}.{inner}" if inner else key, _shown(setting)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} ({_shown(inner)})" for key, inner in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def source(profile: TargetProfile, key: str) -> str:
    """The source of ``key`` itself, else of its section."""
    return profile.sources.get(key) or profile.sources.get(key.partition(".")[0], "")
