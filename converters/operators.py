"""Which of an artifact's operators a device cannot run, by its profile's limits and the table that it names."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from edgeopt.errors import ConfigError
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of an artifact. ``dtype``: of its first input; ``same_range``: its data inputs and its outputs, where
    quantized, have one scale and zero point."""

    name: str
    dtype: str
    rank: int
    version: int = 1
    same_range: bool = True


def unsupported(operators: Iterable[Operator], profile: TargetProfile) -> tuple[str, ...]:
    """Operators that the device cannot run, sorted, each with the limit it breaks, such as ``DIV (int8)``.

    Raises ConfigError where the profile's table is missing or no table.
    """
    rows = _table(profile.operators.table) if profile.operators.table else None
    found = set()
    for operator in operators:
        if profile.limits.max_rank is not None and operator.rank > profile.limits.max_rank:
            found.add(f"{operator.name} (rank {operator.rank})")
        if operator.name in profile.operators.cpu:
            found.add(f"{operator.name} (left to the CPU)")
        if rows is not None and (broken := _broken(operator, rows)) is not None:
            found.add(operator.name + broken)
    return tuple(sorted(found))


def _broken(operator: Operator, rows: dict[str, dict[str, Any]]) -> str | None:
    """The limit of its row that ``operator`` breaks; empty where it has no row, None where it breaks none."""
    row = rows.get(operator.name)
    if row is None:
        return ""
    if operator.dtype not in row.get("dtypes", (operator.dtype,)):
        return f" ({operator.dtype})"
    if operator.version > row.get("max_version", operator.version):
        return f" (version {operator.version})"
    if row.get("same_range", False) and not operator.same_range:
        return " (input and output ranges differ)"
    return None


@cache
def _table(name: str) -> dict[str, dict[str, Any]]:
    try:
        text = files("edgeopt.targets").joinpath("operators", name).read_text("utf-8")  # a plain name: the schema sees to it
        return {row["name"]: row for row in tomllib.loads(text)["operator"]}
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the operator table {name} cannot be read", why=str(error)) from error
