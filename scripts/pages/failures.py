"""The page of the errors: the tree of edgeopt/errors.py, and which of several failures gives the exit code."""

from typing import Any

from scripts.exit_codes import rows
from scripts.pages.text import code, escaped, table

HEAD = """# Errors

Everything that edgeopt raises on purpose is an `edgeopt.EdgeoptError`; catch that one, or a class below it. Its `exit_code` is
what the command line ends with ([all of them by number](../exit-codes.md)); `what`, `why` and `fix` are its message.

"""
WORST = """## Which failure gives the exit code

Where several targets or devices failed, the worst one does. From the worst on; a class that is not listed is as bad as its
nearest base:

"""
TAIL = """
## In Python

::: edgeopt.errors.EdgeoptError
    options: {heading_level: 3}

::: edgeopt.errors.worst_of
    options: {heading_level: 3}
"""


def page(errors: Any) -> str:
    """The classes of the module ``errors`` in a table, and their order."""
    said = [(f"`{name}`", _base(errors, name), str(number), escaped(what)) for number, name, what in rows()]
    worst = "".join(f"{place}. `{kind.__name__}`\n" for place, kind in enumerate(errors.WORST_FIRST, 1))
    return HEAD + table(("error", "is a", "code", "when"), said) + WORST + worst + TAIL


def _base(errors: Any, name: str) -> str:
    return code(getattr(errors, name).__base__.__name__)
