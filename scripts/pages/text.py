"""Texts that were not written as Markdown, put into Markdown so that they are shown as they are."""

_SIGNS = str.maketrans({sign: f"&#{ord(sign)};" for sign in "&<>|*_`[]{}\\~#"})


def escaped(text: str) -> str:
    """``text`` on one line, no sign of which means anything in Markdown or HTML."""
    return " ".join(text.translate(_SIGNS).split())


def code(text: str) -> str:
    """``text`` as code, also in a table: backquotes would leave ``|`` to the table."""
    return f"<code>{escaped(text)}</code>"


def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of cells that are Markdown already; nothing where it has no rows."""
    if not rows:
        return ""
    lines = [headers, ("---",) * len(headers), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"
