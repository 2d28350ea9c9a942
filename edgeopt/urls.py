"""Passwords have no place in a device's URL: shells, process lists, tables and results would keep them.

What stands between ``://`` and the last ``@`` is the user, as whoever types it means it: blanks, slashes and all. A colon there
is followed by a password.
"""

import re

# As they are, in the wide forms that turn into them, and percent-encoded, even twice.
_COLON = "[:\uff1a\ufe55\ufe13]|%(?:25)*3[aA]"
_AT = "[@\uff20\ufe6b]|%(?:25)*40"
_COLONS, _ATS = re.compile(_COLON), re.compile(_AT)
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_MARKS = re.compile(rf"(?P<start>://)|(?P<colon>{_COLON})|(?P<at>{_AT})|(?P<blank>\s)|(?P<mark>[,;'\"(])")
_WORD_WITH_AT = re.compile(rf"\S{{0,300}}?(?:{_AT})")
_NO_PASSWORD = re.compile(r"\s|$|\d{1,5}(?:[\s'\"),;/]|$)")
"""After a colon in a sentence: its next word, or a port."""


def redacted(url: str) -> str:
    """``url`` with ``...`` in place of a password, as far as it can be told from a port."""
    scheme = _SCHEME.match(url)
    start = scheme.end() if scheme else 0
    at = _last_at(url)
    colon = _COLONS.search(url, start, at.start()) if at else None
    return f"{url[: colon.start()]}:...@{url[at.end() :]}" if at and colon else url


def redacted_text(text: str) -> str:
    """``text``, a sentence or a log, with ``...`` in place of passwords in its URLs: rather of too much than of too little."""
    if "://" not in text:
        return text
    return "".join(map(_redacted_line, text.splitlines(keepends=True)))


def refuse_password(url: str, where: str = "the device's URL") -> None:
    """Raises UsageError where ``url`` has a password, and does not repeat it."""
    from edgeopt.errors import UsageError  # whose texts are redacted here

    if redacted(url) != url:
        why = "a password stands in it, where shells, process lists and logs would keep it"
        raise UsageError(f"{where} {redacted(url)!r} is wrong", why=why, fix="leave it out; it is asked for")


def _last_at(text: str) -> re.Match[str] | None:
    found = list(_ATS.finditer(text))
    return found[-1] if found else None


def _redacted_line(line: str) -> str:
    """Up to the last ``@``, which may be the password's or the host's. One pass: a device may have sent the line."""
    if "://" not in line or (last := _last_at(line)) is None:
        return line
    seen: set[str | None] = {"none"}  # since the start of the latest URL
    for found in _MARKS.finditer(line, 0, last.start()):
        kind = found.lastgroup
        nested = kind == "start" and not seen & {"none", "at", "blank", "mark"}  # ssh://pi://secret@host
        plain = kind == "colon" and not seen & {"none", "mark"} and not _NO_PASSWORD.match(line, found.end())
        if plain and "at" in seen:  # behind a host that is no part of a user's name, unless this goes on in the same word
            plain = "blank" not in seen and bool(_WORD_WITH_AT.match(line, found.end()))
        if nested or plain:
            return f"{line[: found.start()]}:...@{line[last.end() :]}"
        seen = set() if kind == "start" else seen | {kind}
    return line
