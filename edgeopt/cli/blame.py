"""``edgeopt blame``: which layers lose what INT8 loses, and why."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli import completion
from edgeopt.cli.endings import Debug, reported
from edgeopt.cli.options import Calibration, Config, Evaluate, FloatIo, Inputs, ModelArgument, asked_for, load

if TYPE_CHECKING:
    from edgeopt.diagnosis.findings import Blame

Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME",
        help="The target whose integers are meant, or its TOML file.",
        autocompletion=completion.targets,
    ),
]
Time = Annotated[str, typer.Option("--time", metavar="TIME", help="What it may take; less is measured in less.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all that was found; - is standard output.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the layers, worst first, as an SVG file.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="List every layer, not the worst ones.")]
_OUTPUT = Path("-")


def blame(
    context: typer.Context, target: Target, model: ModelArgument = None, calibration: Calibration = None,
    evaluate: Evaluate = None, inputs: Inputs = None, config: Config = None, io_float: FloatIo = None, limit: Time = "60s",
    json: Json = None, plot: Plot = None, debug: Debug = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Find the layers that lose what INT8 loses, and say what can be done."""
    started = time.monotonic()
    with reported(debug):
        from edgeopt.support import extras
        from edgeopt.support.quantities import milliseconds_of
        from edgeopt.targets import loader

        seconds = milliseconds_of(limit) / 1e3
        loader.load(target)  # a wrong one is told before the model is loaded
        if plot is not None:
            extras.require("compress", "nothing can be drawn here")
        _refuse_missing_folders(json, plot)
        loaded, options = load(asked_for(context.params))
        from edgeopt.support.log_diversion import dropped

        with dropped():
            from edgeopt.pipeline.blame import blame as run
        from edgeopt.report.progress import progress

        with progress() as listen, dropped():
            found = run(loaded, target, seconds, options.io_float, listen, started)
        _show(found, json, plot, verbose)


def _refuse_missing_folders(*files: Path | None) -> None:
    """A minute's work is not to end there."""
    from edgeopt.errors import UsageError

    for file in files:
        if file is not None and not file.resolve().parent.is_dir():
            raise UsageError(f"there is no folder {file.resolve().parent}", fix="make it, or give another name")


def _show(found: "Blame", json: Path | None, plot: Path | None, verbose: bool) -> None:
    from edgeopt.core import to_json
    from edgeopt.report.blame_plot import write_blame
    from edgeopt.report.blame_view import print_blame
    from edgeopt.support.files import write_atomic

    if json == _OUTPUT:
        typer.echo(to_json(found), nl=False)
    else:
        print_blame(found, verbose=verbose)
    if json is not None and json != _OUTPUT:
        write_atomic(json, to_json(found))
        typer.echo(f"all of it is in {json}", err=True)
    if plot is not None:
        write_blame(found, plot)
        typer.echo(f"the layers are drawn in {plot}", err=True)
