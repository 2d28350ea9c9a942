"""``edgeopt export``: an artifact for every target, made and proven."""

import typer

from edgeopt.cli.endings import Debug, exit_code_for, reported
from edgeopt.cli.options import (
    Cache,
    Calibration,
    Config,
    Evaluate,
    FloatIo,
    Inputs,
    Jobs,
    MaxDrop,
    ModelArgument,
    Out,
    Targets,
    Timeout,
    request,
)


def export(
    context: typer.Context, model: ModelArgument = None, targets: Targets = None, calibration: Calibration = None,
    evaluate: Evaluate = None, max_drop: MaxDrop = None, inputs: Inputs = None, config: Config = None, out: Out = None,
    io_float: FloatIo = None, timeout: Timeout = None, jobs: Jobs = None, cache: Cache = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Make and prove an artifact for every target."""
    with reported(debug):
        loaded, options = request(context.params, makes=True)
        from edgeopt.support.log_diversion import dropped

        with dropped():
            from edgeopt.pipeline.export import export as run
        from edgeopt.report.progress import progress
        from edgeopt.report.table import print_table

        with progress() as listen:
            bundle = run(loaded, options, listen)
        print_table(bundle.manifest, options.out)
        raise typer.Exit(exit_code_for(bundle.manifest, options.targets))
