"""``edgeopt export``: an artifact for every target, made and proven."""

from contextlib import closing
from pathlib import Path

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


def export(
    context: typer.Context, model: ModelArgument = None, targets: Targets = None, calibration: Calibration = None,
    evaluate: Evaluate = None, max_drop: MaxDrop = None, max_slice_drop: MaxSliceDrop = None,
    min_sqnr: MinSqnr = None, min_agreement: MinAgreement = None, max_size: MaxSize = None,
    inputs: Inputs = None, config: Config = None, out: Out = None, io_float: FloatIo = None, strict_scheme: StrictScheme = None,
    never_slower: NeverSlower = None, quality: Quality = None, latency_table: LatencyTable = None,
    timeout: Timeout = None, jobs: Jobs = None, cache: Cache = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Make and prove an artifact for every target."""
    with reported(debug):
        from edgeopt.core import MANIFEST_NAME
        from edgeopt.pipeline.hosts import host_for
        from edgeopt.pipeline.selection import select

        settings = asked_for(context.params)
        with closing(host_for(select(settings.targets).profiles)) as host:
            if settings.out is None or not Path(settings.out, MANIFEST_NAME).exists():
                host.start()  # it imports beside the model; where a bundle stands, all may come from the cache
            loaded, options = load(settings)
            from edgeopt.support.log_diversion import dropped

            with dropped():
                from edgeopt.pipeline.export import export as run
            from edgeopt.report.progress import progress
            from edgeopt.report.table import print_table

            with progress() as listen:
                bundle = run(loaded, options, listen, host)
        print_table(bundle.manifest, options.out)
        raise typer.Exit(exit_code_for(bundle.manifest, options.targets))
