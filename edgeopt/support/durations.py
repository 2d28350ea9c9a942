"""Times and lists of CPUs as people write them on the command line."""

import re

from edgeopt.errors import UsageError

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]*)")
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
MAX_CPUS = 1024
MAX_SECONDS = 30 * 86400.0
"""More is a slip of the finger, and more than some clocks can wait."""


def seconds_of(text: str) -> float:
    """``90``, ``90s``, ``1.5m`` or ``2h`` in seconds. Raises UsageError for anything else."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{text!r} is no length of time", fix="write seconds, or 30s, 10m, 1h")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > MAX_SECONDS:
        raise UsageError(f"{text!r} is too long", fix="give at most 30 days")
    return seconds


def cpu_list(text: str) -> tuple[int, ...]:
    """``0,4-7`` as numbers, sorted, each once. Raises UsageError for anything else."""
    cpus: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or last >= MAX_CPUS:
            raise UsageError(f"{text!r} is no list of CPUs", fix="write numbers and ranges, such as 0,4-7")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))
