"""Asks a device what it is and how it is: runs ``facts.sh`` there, and cuts what it prints into bounded, plain values."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal, Protocol

from edgeopt.devices.transport import QUICK_S, Finished
from edgeopt.errors import BadAnswer

MAX_BYTES = 256 * 1024
MAX_LINES = 4096
MAX_VALUE = 400
MAX_UNREADABLE = 32
_NUMBER = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,19})?")

Part = Literal["facts", "environment"]


class Runs(Protocol):
    """Whatever runs a command on a device: every :class:`edgeopt.devices.transport.Transport` does."""

    def run(self, command: Sequence[str], *, timeout_s: float, limit: int) -> Finished: ...


@dataclass(frozen=True, slots=True)
class Lines:
    """What ``facts.sh`` printed: the values of each key in their order. What makes no sense is named in ``unreadable``."""

    values: dict[str, list[str]]
    unreadable: list[str] = field(default_factory=list)

    def all(self, key: str) -> list[str]:
        return self.values.get(key, [])

    def one(self, key: str) -> str:
        """The first value, or an empty text."""
        return next(iter(self.all(key)), "")

    def number(self, key: str, low: float, high: float) -> float | None:
        """The first word of the first value as a number from ``low`` to ``high``; another one is unreadable."""
        words = self.one(key).split()
        return self.plausible(key, words[0], low, high) if words else None

    def whole(self, key: str, low: int, high: int) -> int | None:
        found = self.number(key, low, high)
        return None if found is None else int(found)

    def plausible(self, what: str, word: str, low: float, high: float) -> float | None:
        """``word`` as a number from ``low`` to ``high``; None where it is none, which ``unreadable`` then says."""
        found = float(word) if _NUMBER.fullmatch(word) else math.nan
        if low <= found <= high:
            return found
        self.doubt(what, word)
        return None

    def doubt(self, what: str, value: str) -> None:
        if len(self.unreadable) < MAX_UNREADABLE:
            self.unreadable.append(f"{what}: {value[:40]}")


def ask(device: Runs, part: Part, root: str) -> bytes:
    """What ``facts.sh PART ROOT`` prints there; the device need not have it. Raises BadAnswer where that is not its output."""
    answer = device.run(command(part, root), timeout_s=QUICK_S, limit=MAX_BYTES)
    if not answer.stdout.startswith(b"edgeopt\t1") or answer.exit_code != 0:
        said = (answer.stderr or answer.stdout)[:200].decode("utf-8", "backslashreplace")
        raise BadAnswer(
            "the device does not say what it is",
            why=f"a shell script that only looks gave exit code {answer.exit_code} and {said!r}",
            fix="try  sh -c 'uname -a'  there by hand; its shell must be a POSIX shell",
        )
    return answer.stdout


def command(part: Part, root: str) -> tuple[str, ...]:
    """The command line that runs ``facts.sh`` without a file on the device; ``root`` is edgeopt's folder there."""
    return ("sh", "-c", script(), "facts.sh", part, root)


@cache
def script() -> str:
    """``facts.sh`` without its comments and indents, since it travels on a command line."""
    text = (files(__package__) / "facts.sh").read_text(encoding="utf-8")
    lines = (line.lstrip(" ") for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


def lines(output: bytes) -> Lines:
    """``output`` as keys and values: any bytes give a result, bounded in size and printable."""
    values: dict[str, list[str]] = {}
    text = output[:MAX_BYTES].decode("utf-8", "replace").replace("\r", "")
    for line in text.split("\n")[:MAX_LINES]:
        key, tab, value = line.partition("\t")
        if tab and re.fullmatch(r"[A-Za-z_]{1,40}", key):
            values.setdefault(key, []).append(_printable(value[:MAX_VALUE]))
    found = Lines(values)
    if "end" not in values:
        found.doubt("the end", "the device's answer was cut off")
    return found


def _printable(value: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in value).strip()
