"""What the generated pages describe: the only place of these scripts that imports edgeopt."""

from typing import Any

import typer.main

from edgeopt import errors
from edgeopt.cli.app import app
from edgeopt.report.target_view import settings, source
from edgeopt.targets import loader

__all__ = ["command", "errors", "profiles", "settings", "source"]


def command() -> Any:
    """The command line as click has it: a group of commands."""
    return typer.main.get_command(app)


def profiles() -> list[Any]:
    """Every target that edgeopt brings, by name."""
    return [loader.load(name) for name in loader.names()]
