"""``edgeopt targets``: which targets there are, and one with all its settings."""

from typing import Annotated

import typer

from edgeopt.cli import completion
from edgeopt.cli.endings import Debug, reported


def show_targets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Show this target's settings.", show_default=False, autocompletion=completion.targets
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the targets, or one with all its settings."""
    with reported(debug):
        from edgeopt.report.target_view import print_target, print_targets
        from edgeopt.targets import loader

        if name is None:
            print_targets([loader.load(known) for known in loader.names()])
        else:
            print_target(loader.load(name))
