"""What native benchmark tools print, as clean lines and plausible numbers. It comes from a device: any bytes must do."""

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

MAX_BYTES = 16 * 1024**2
MAX_LINE = 20_000
"""An operator's name lists all that was fused into it."""
MAX_NS = 1e15
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_LOGCAT = re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+ +\d+ +\d+ [VDIWEF] [\w.]+ *: ?")
_LEVEL = re.compile(r"^(?:INFO|WARN|WARNING|VERBOSE): ?")
NUMBER = r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][-+]?[0-9]{1,3})?|nan|NaN|inf|Inf)"

Event = dict[str, Any]
"""One of the runner's events, as its JSON lines have them."""


class Nonsense(Exception):
    """An output that cannot be true."""


def clean_lines(*outputs: bytes) -> list[str]:
    """Lines without carriage returns, terminal escapes, logcat's columns and the levels that some versions put before each."""
    lines: list[str] = []
    for output in outputs:
        text = _ESCAPES.sub("", output[:MAX_BYTES].decode("utf-8", "replace"))
        for line in text.replace("\r", "\n").split("\n"):
            lines.append(_LEVEL.sub("", _LOGCAT.sub("", line[:MAX_LINE])))
    return lines


def number(text: str, *, low: float = 0.0, high: float = MAX_NS) -> float:
    """``text`` as a number. Raises Nonsense where it is not finite, or not between ``low`` and ``high``."""
    try:
        value = float(text)
    except ValueError as error:
        raise Nonsense(f"{text[:40]!r} is no number") from error
    if not math.isfinite(value) or not low <= value <= high:
        raise Nonsense(f"{text[:40]} is not between {low:g} and {high:g}")
    return value


def nanoseconds(text: str, unit_ns: float) -> int:
    """A duration in units of ``unit_ns`` nanoseconds."""
    return round(number(text, high=MAX_NS / unit_ns) * unit_ns)


def check_order(summary: Mapping[str, int | None], *names: str) -> None:
    """Raises Nonsense where those of ``names`` that ``summary`` has do not rise."""
    known = [(name, value) for name in names if (value := summary.get(name)) is not None]
    for (lower, low), (higher, high) in pairwise(known):
        if low > high:
            raise Nonsense(f"{lower} {low} is more than {higher} {high}")


def error(kind: str, message: str) -> Event:
    """The event that ends a run before its time. ``kind``: the runner's, or ``bad_output``."""
    printable = "".join(letter if letter.isprintable() else " " for letter in message)
    return {"event": "error", "kind": kind, "message": printable[:4000].strip()}
