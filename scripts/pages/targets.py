"""The page of the targets: every setting of each with its source, as ``edgeopt targets NAME`` shows them."""

from collections.abc import Callable, Iterable
from typing import Any

from scripts.pages.text import code, escaped, table

HEAD = """# Targets

What `edgeopt targets NAME` shows. A target is one TOML file: [how to write your own](../howto/extend.md). A setting without a
source is a default of every target.

"""


def page(profiles: list[Any], settings: Callable[[Any], Iterable[tuple[str, str]]], source: Callable[[Any, str], str]) -> str:
    """A list of ``profiles``, then a section for each."""
    rows = [(f"[{one.name}](#{one.name})", ", ".join(one.formats), escaped(one.summary)) for one in profiles]
    text = HEAD + table(("target", "formats", "what for"), rows)
    for profile in profiles:
        text += f"## {profile.name}\n\n{escaped(profile.summary)}\n\n"
        if profile.status == "legacy":
            text += f"Legacy: {escaped(profile.status_note)}\n\n"
        said = [(code(key), escaped(value), escaped(source(profile, key))) for key, value in settings(profile)]
        text += table(("setting", "value", "source"), said)
    return text
