"""Mutants: of bytes anywhere, of text at its numbers, words and lines."""

import re
from random import Random

EDGES = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00",
    b"\x01\x00\x00\x00",
    b"\x80\x80\x80\x80",
)
NUMBERS = (
    "0", "-1", "1", "-0.0", "2147483648", "9223372036854775808", "1180591620717411303424", "-9223372036854775809", "1e400",
    "-1e400", "1e-320", "nan", "inf", "-inf", "NaN", "Infinity", "1" + "0" * 400, "9" * 5000, "1e18", "0.5", "true",
    '"1"', "[]",
)  # fmt: skip
WORDS = (
    "", "..", "../../../etc/passwd", "/etc/passwd", "logs", "manifest.json", "a" * 300, "\\u001b[31mx", "\\n", "\\u0000",
    "\\ud800", "x" * 100_000, "object", "U2000000000", "complex64", "nonsense", "__import__('os').system('id')", "$(id)", "c:",
    "-rf", "%s%n",
)  # fmt: skip
VALUES = (
    "null", "{}", "[]", "true", '""', "0", "[[]]", '{"a": 1}', "[" * 200 + "]" * 200, "[" * 100_000 + "]" * 100_000,
    "1979-05-27",
)  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_STRING = re.compile(r'"[^"\n]*"')
_LARGEST = 1 << 20


def mutant(content: bytes, rng: Random, text: bool) -> bytes:
    """``content`` with one to sixteen changes; of ``text`` most keep its grammar."""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if text and rng.random() < 0.85:
            content = _text(content.decode("utf-8", "surrogateescape"), rng).encode("utf-8", "surrogateescape")
        else:
            content = _bytes(content, rng)
        content = content[:_LARGEST]
    return content


def _bytes(content: bytes, rng: Random) -> bytes:
    if len(content) < 8:
        return content + rng.randbytes(8)
    data, kind = bytearray(content), rng.randrange(9)
    place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 4000))
    if kind <= 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[place : place + 4] = rng.choice(EDGES)
    elif kind == 4:
        del data[place : place + rng.randrange(1, 200)]
    elif kind == 5:
        data[place:place] = rng.randbytes(rng.randrange(1, 50))
    elif kind == 6:
        del data[max(1, place) :]
    elif kind == 7:
        data[place : place + 8] = data[rng.randrange(len(data)) :][:8]
    else:
        other, length = rng.randrange(len(data)), rng.choice((4, 16, 64, 1024))
        data[place:place] = data[other : other + length]
    return bytes(data)


def _text(text: str, rng: Random) -> str:
    kind = rng.randrange(7)
    if kind <= 1:
        return _at(_NUMBER, text, rng.choice(NUMBERS), rng)
    if kind == 2:
        return _at(_STRING, text, f'"{rng.choice(WORDS)}"', rng)
    if kind == 3:
        return _at(_STRING if rng.random() < 0.5 else _NUMBER, text, rng.choice(VALUES), rng)
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    if kind == 4:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif kind == 5:
        del lines[place]
    else:
        lines[place : place + 1] = [lines[place]] * rng.choice((2, 3, 1000))
    return "\n".join(lines)


def _at(pattern: "re.Pattern[str]", text: str, new: str, rng: Random) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text + new
    place = rng.choice(found)
    return text[: place.start()] + new + text[place.end() :]
