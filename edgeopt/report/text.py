"""Text from outside (names, messages, reasons) made safe to print: no control character reaches the terminal."""

import unicodedata


def plain(text: str) -> str:
    """``text`` with control and direction-changing characters shown as escapes, but for line breaks and tabs."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\t":
        return character
    # Cc: escape sequences; Cf: bidirectional overrides; Cs: lone surrogates from undecodable file names.
    return character.encode("unicode_escape").decode() if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def markup(text: str) -> str:
    """:func:`plain` text that rich prints as it is, whatever brackets it holds."""
    from rich.markup import escape

    return escape(plain(text))


def one_line(text: str) -> str:
    """:func:`plain` text for a cell of a table: line breaks and tabs are spaces."""
    return " ".join(plain(text).split())


def cut(line: str, room: int) -> str:
    """``line`` in at most ``room`` columns of a terminal, with an ellipsis where something is missing."""
    from rich.cells import cell_len, set_cell_size

    return line if cell_len(line) <= room else set_cell_size(line, room - 1).rstrip() + "…"


def counted(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """Bytes as people read them: ``512 B``, ``14.0 MB`` (powers of ten, as disks and app stores count)."""
    value, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while value >= 999.5 and unit != "GB":
        value, unit = value / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
