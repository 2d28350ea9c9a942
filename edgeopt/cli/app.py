"""The command line: every command, each from its own file."""

from typing import Annotated

import typer

from edgeopt import __version__
from edgeopt.cli import advise, bench, blame, compress, devices, doctor, export, init, plan, process, targets
from edgeopt.cli.endings import Commands

PROGRAM = "edgeopt"

app = typer.Typer(
    cls=Commands,
    help="From a trained PyTorch model to proven artifacts for real devices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would take longer than everything else
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(export.export)
app.command()(plan.plan)
app.command()(blame.blame)
app.command("targets")(targets.show_targets)
app.command("doctor")(doctor.show_doctor)
app.command()(init.init)
app.command()(advise.advise)
app.command()(compress.compress)
app.command()(bench.bench)
app.add_typer(devices.app, name="devices")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgeopt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From a trained PyTorch model to proven artifacts for real devices."""


def main() -> None:
    """The entry point ``edgeopt``."""
    process.run(app, PROGRAM)
