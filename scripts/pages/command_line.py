"""The page of the command line: what ``--help`` says of every command, by walking the commands themselves."""

from collections.abc import Iterator
from typing import Any

from scripts.pages.text import code, escaped, table

HEAD = """# Command line

What `edgeopt --help` and `edgeopt COMMAND --help` say. Every failure ends with [an exit code of its own](../exit-codes.md).

"""


def page(root: Any) -> str:
    """Every command of ``root``, a click group, with its arguments and options."""
    return HEAD + "".join(_section(context) for context in contexts(root))


def contexts(root: Any, parent: Any = None, name: str = "edgeopt") -> Iterator[Any]:
    """A click context of each command, the groups before what is in them."""
    context = root.context_class(root, info_name=name, parent=parent)
    yield context
    for inner, command in getattr(root, "commands", {}).items():
        if not command.hidden:
            yield from contexts(command, context, inner)


def _section(context: Any) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = [_row(parameter, context) for parameter in command.get_params(context)]
    return (
        f"## {context.command_path}\n\n```text\n{usage}\n```\n\n{escaped(command.help or '')}\n\n"
        + table(("argument", "what"), [row for row in rows if row and not row[0].startswith("<code>-")])
        + table(("option", "what"), [row for row in rows if row and row[0].startswith("<code>-")])
        + "".join(_within(context))
    )


def _row(parameter: Any, context: Any) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    if record is None:  # hidden
        return None
    name, what = record
    return code(name), escaped(what)


def _within(context: Any) -> Iterator[str]:
    """The commands of a group, each with a link to its section."""
    for name, command in getattr(context.command, "commands", {}).items():
        if not command.hidden:
            path = f"{context.command_path} {name}"
            yield f"- [`{path}`](#{path.replace(' ', '-')}): {escaped(command.get_short_help_str(limit=200))}\n"
    yield "\n"
