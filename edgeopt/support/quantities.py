"""Sizes and times as people write them on a command line (``4MB``, ``512 KiB``, ``20ms``), and numbers as they read them."""

import re

from edgeopt.errors import UsageError

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def bytes_of(text: str) -> int:
    """Bytes: powers of ten, or of two with an i. Raises UsageError for anything but a number above 0 with its unit."""
    return max(1, round(_quantity(text, _BYTES, "a size", "4MB, 500kB or 512KiB")))


def milliseconds_of(text: str) -> float:
    """Milliseconds. Raises UsageError as :func:`bytes_of` does."""
    return _quantity(text, _MILLISECONDS, "a time", "20ms, 800us or 1.5s")


def written(value: float, unit: str, digits: str = ".4g") -> str:
    """``value`` with its unit, as far as ``digits`` go; bytes are counted, and written out."""
    return f"{value:{',.0f' if unit == 'bytes' else digits}}{f' {unit}' if unit else ''}"


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]{1,3})\s*", text, re.ASCII)
    if match is None or match[2].lower() not in units or float(match[1]) == 0:
        raise UsageError(f"{text!r} is not {what}", fix=f"write it as {example}")
    return float(match[1]) * units[match[2].lower()]
