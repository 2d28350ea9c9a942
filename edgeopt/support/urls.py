"""Passwords have no place in a device's URL: shells, process lists, tables and results would keep them."""

from edgeopt.errors import UsageError, redacted


def refuse_password(url: str, where: str = "the device's URL") -> None:
    """Raises UsageError where ``url`` has a password, and does not repeat it."""
    if redacted(url) != url:
        why = "a password stands in it, where shells, process lists and logs would keep it"
        raise UsageError(f"{where} {redacted(url)!r} is wrong", why=why, fix="leave it out; it is asked for")
