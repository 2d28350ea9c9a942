"""Passwords have no place in a device's URL: shells, process lists, tables and results would keep them."""

import re

from edgeopt.errors import UsageError

_PASSWORD = re.compile(r"(^|//)([^/@:\s]*):(?!//)\S*@")


def redacted(url: str) -> str:
    """``url`` with ``...`` in place of a password, as far as it can be told from a port."""
    return _PASSWORD.sub(r"\1\2:...@", url)


def refuse_password(url: str, where: str = "the device's URL") -> None:
    """Raises UsageError where ``url`` has a password, and does not repeat it."""
    if redacted(url) != url:
        why = "a password stands in it, where shells, process lists and logs would keep it"
        raise UsageError(f"{where} {redacted(url)!r} is wrong", why=why, fix="leave it out; it is asked for")
