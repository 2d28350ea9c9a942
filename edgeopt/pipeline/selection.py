"""What an export is about: the targets asked for, their fp32 twins, and what of these can be made with what is installed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt import registry
from edgeopt.core import TWIN, Format, TargetResult
from edgeopt.errors import ConfigError, MissingExtra
from edgeopt.model.latency_table import LatencyTable
from edgeopt.support.untrusted import shown
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class Selection:
    """``profiles`` have only formats that can be made; ``left_out`` says of each other one which extra is missing."""

    profiles: list[TargetProfile]
    left_out: tuple[TargetResult, ...] = ()


def asked(names: Sequence[str]) -> list[TargetProfile]:
    """The profiles of ``names`` (none: every target), and before them the fp32 twins in their formats where there are any.

    Raises ConfigError where two are called the same.
    """
    profiles = [loader.load(name) for name in dict.fromkeys(names or loader.names())]
    _refuse_one_name_twice(profiles)
    if any(profile.name == TWIN for profile in profiles):
        return profiles
    twin = loader.load(TWIN)
    formats = tuple(fmt for fmt in twin.formats if any(fmt in profile.formats for profile in profiles))
    return [replace(twin, formats=formats), *profiles] if formats else profiles


def select(names: Sequence[str]) -> Selection:
    """What of :func:`asked` can be made here. Imports no library.

    A format whose extra is missing is left out. Raises MissingExtra where nothing of a target that was named can be made, or
    nothing at all.
    """
    profiles = asked(names)
    missing = _missing(profiles)
    made, left_out = [], []
    for profile in profiles:
        formats = tuple(fmt for fmt in profile.formats if fmt not in missing)
        if not formats and names:
            raise missing[profile.formats[0]]
        made += [replace(profile, formats=formats)] if formats else []
        left_out += [_left_out(profile, fmt, missing[fmt]) for fmt in profile.formats if fmt in missing]
    if not made:
        raise _nothing(list(missing.values()))
    return Selection(made, tuple(left_out))


def table_of(path: Path, profiles: Iterable[TargetProfile]) -> LatencyTable:
    """The table in ``path``. Raises CompressionError where that is none, ConfigError where it is of none of ``profiles``."""
    table = LatencyTable.load(path)
    known = {f"{one.name}/{form}" for one in profiles for form in one.formats if one.schemes[0].integer}
    if table.runtime in known:
        return table
    why = f"it is of {shown(table.runtime)}, and integers are asked for of {', '.join(sorted(known)) or 'no target'}"
    raise ConfigError(f"{path} is a table of another target", why=why, fix="name the target that it is of, or leave it out")


def _refuse_one_name_twice(profiles: list[TargetProfile]) -> None:
    """They would be made into one folder. Disks of macOS and Windows take large and small letters for the same."""
    seen: set[str] = set()
    for profile in profiles:
        if (name := profile.name.casefold()) in seen:
            why = "each target is a folder of the bundle"
            raise ConfigError(f"two targets are called {profile.name!r}", why=why, fix="rename one, or ask for one of them")
        seen.add(name)


def _missing(profiles: list[TargetProfile]) -> dict[Format, MissingExtra]:
    found: dict[Format, MissingExtra] = {}
    for fmt in dict.fromkeys(fmt for profile in profiles for fmt in profile.formats):
        try:
            registry.check_format(fmt)
        except MissingExtra as error:
            found[fmt] = error
    return found


def _left_out(profile: TargetProfile, fmt: Format, missing: MissingExtra) -> TargetResult:
    return TargetResult(target=profile.name, format=fmt, status="skipped", reason=missing.message())


def _nothing(missing: list[MissingExtra]) -> MissingExtra:
    why = "no format's packages are installed"
    commands = ", or ".join(sorted({error.fix for error in missing}))
    return MissingExtra("no target can be made here", why=why, fix=f"{commands}; pip install 'edgeopt[all]' for everything")
