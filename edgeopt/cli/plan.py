"""``edgeopt plan``: what an export would make, and why."""

from typing import Annotated

import typer

from edgeopt.cli.endings import Debug, reported
from edgeopt.cli.options import (
    Cache,
    Calibration,
    Config,
    Evaluate,
    FloatIo,
    Inputs,
    Jobs,
    LatencyTable,
    MaxDrop,
    MaxSize,
    MaxSliceDrop,
    MinAgreement,
    MinSqnr,
    ModelArgument,
    NeverSlower,
    Out,
    Quality,
    StrictScheme,
    Targets,
    Timeout,
    asked_for,
    load,
)

Verbose = Annotated[bool, typer.Option("--verbose", help="List every layer, not the first few.")]


def plan(
    context: typer.Context, model: ModelArgument = None, targets: Targets = None, calibration: Calibration = None,
    evaluate: Evaluate = None, max_drop: MaxDrop = None, max_slice_drop: MaxSliceDrop = None,
    min_sqnr: MinSqnr = None, min_agreement: MinAgreement = None, max_size: MaxSize = None,
    inputs: Inputs = None, config: Config = None, out: Out = None, io_float: FloatIo = None, strict_scheme: StrictScheme = None,
    never_slower: NeverSlower = None, quality: Quality = None, latency_table: LatencyTable = None,
    timeout: Timeout = None, jobs: Jobs = None, cache: Cache = None, debug: Debug = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Show what export would make, and why; make nothing."""
    with reported(debug):
        from edgeopt.pipeline.selection import asked

        settings = asked_for(context.params)
        asked(settings.targets)  # a wrong one is told before the model is loaded
        loaded, options = load(settings)
        from edgeopt.support.log_diversion import dropped

        with dropped():
            from edgeopt.pipeline.plan import plan as run
        from edgeopt.report.plan_view import print_plans
        from edgeopt.report.progress import progress

        with progress() as listen:
            plans = run(loaded, options, listen)
        print_plans(plans, verbose=verbose)
