"""``edgeopt bench``: artifacts measured on devices."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeopt.cli import completion
from edgeopt.cli.endings import Debug, for_devices, interrupted_exit_code, leave_threads

if TYPE_CHECKING:
    from edgeopt.bench.run import Benchmark, Request
    from edgeopt.bench.types import BenchSettings, DeviceRun
    from edgeopt.core import TensorSpec

FORMATS = ("table", "json", "csv", "markdown")

Artifact = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", help="A bundle's folder, or a bare .onnx, .tflite, .mlpackage or .pt2; with --layers a model."
    ),
]
DeviceNames = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME|URL",
        help="local, a name of devices.toml, ssh://..., adb://...  [default: local]",
        autocompletion=completion.devices,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Only these targets; repeatable.  [default: the device's own, or all]",
        autocompletion=completion.targets,
    ),
]
MOST_THREADS = 1024
"""A runtime starts as many as it is told: far beyond its processors a device is lost."""
Threads = Annotated[
    list[int] | None, typer.Option("--threads", metavar="N", min=1, max=MOST_THREADS, help="Repeatable.  [default: 1]")
]
Cpus = Annotated[str | None, typer.Option(metavar="LIST", help="Only these CPUs, such as 4-7 for the big cores.")]
Accelerator = Annotated[
    str, typer.Option(metavar="NAME", help="cpu, gpu, nnapi, npu, cuda, tensorrt, cpu_and_ne, all, delegate.")
]
Delegate = Annotated[
    str | None, typer.Option("--delegate", metavar="PATH", help="A LiteRT delegate there, for bench --accelerator delegate.")
]
Launches = Annotated[int, typer.Option(metavar="N", min=1, help="Processes per configuration.")]
Runs = Annotated[int, typer.Option(metavar="N", min=1, help="At least so many timed runs per launch.")]
Seconds = Annotated[str, typer.Option(metavar="TIME", help="At least so long per launch: 2, 30s, 5m.")]
MaxSeconds = Annotated[str, typer.Option(metavar="TIME", help="At most so long per launch.")]
Sustained = Annotated[str, typer.Option(metavar="TIME", help="Then go on for so long, to see the device slow down: 10m.")]
Evaluate = Annotated[str | None, typer.Option(metavar="REF", help="Accuracy from the device's own predictions.")]
LockClocks = Annotated[bool, typer.Option("--lock-clocks", help="Steady clocks where permitted; put back afterwards.")]
FailOnFallback = Annotated[bool, typer.Option("--fail-on-fallback", help="Fail where operators leave the accelerator.")]
Operators = Annotated[bool, typer.Option("--operators", help="Times of each operator too, in a run of their own.")]
Wait = Annotated[str, typer.Option(metavar="TIME", help="How long to wait for somebody else's benchmark.")]
Timeout = Annotated[str, typer.Option(metavar="TIME", help="Longest time of one launch.")]
Layers = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="Add the times of the model's layers as --target to TABLE.json, for a search."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where results go.")]
Format = Annotated[str, typer.Option("--format", metavar="NAME", help="table, json, csv or markdown.")]
Samples = Annotated[bool, typer.Option("--samples", help="With --format json: every raw sample too.")]


def bench(
    context: typer.Context, artifact: Artifact, device: DeviceNames = None, target: Targets = None, threads: Threads = None,
    cpus: Cpus = None, accelerator: Accelerator = "cpu", launches: Launches = 3, runs: Runs = 100, seconds: Seconds = "2",
    max_seconds: MaxSeconds = "60", sustained: Sustained = "0", evaluate: Evaluate = None, lock_clocks: LockClocks = False,
    fail_on_fallback: FailOnFallback = False, operators: Operators = False, wait: Wait = "15m", timeout: Timeout = "10m",
    layers: Layers = None, out: Out = Path("runs"), form: Format = "table", samples: Samples = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Measure artifacts on devices."""
    with for_devices(debug):
        if layers is not None:
            _check_alone(context)
            return _layers(str(artifact), device or ["local"], target or [], threads or [1], layers)
        from edgeopt.bench.types import BenchSettings
        from edgeopt.errors import UsageError, did_you_mean
        from edgeopt.support.durations import cpu_list, seconds_of

        if form not in FORMATS:
            raise UsageError(f"there is no format {form!r}", fix=did_you_mean(form, FORMATS) or f"one of {', '.join(FORMATS)}")
        if samples and form != "json":
            raise UsageError(f"--samples with --format {form}", why="only JSON holds every sample", fix="--format json")
        settings = BenchSettings(
            threads=tuple(dict.fromkeys(threads or (1,))), cpus=cpu_list(cpus) if cpus else None, accelerator=accelerator,
            launches=launches, min_runs=runs, min_seconds=seconds_of(seconds), max_seconds=seconds_of(max_seconds),
            sustained_seconds=seconds_of(sustained), timeout_s=seconds_of(timeout), wait_s=seconds_of(wait),
            lock_clocks=lock_clocks, fail_on_fallback=fail_on_fallback, operators=operators,
        )  # fmt: skip
        found, benchmark = _run(_request(artifact, device or ["local"], target or [], evaluate, out, settings))
        _show(found, benchmark.folders, form, samples)
        if benchmark.unwritten:
            raise benchmark.unwritten[0]
        raise typer.Exit(_exit_code(found))


def _check_alone(context: typer.Context) -> None:
    """Layers are measured in one way: raises UsageError for an option that would not be heeded."""
    from edgeopt.errors import UsageError

    heeded = ("artifact", "device", "target", "threads", "layers", "debug")
    for name in context.params:
        source = context.get_parameter_source(name)  # by its name: typer may bring a click of its own
        if name not in heeded and source is not None and source.name == "COMMANDLINE":
            option = "--" + {"form": "format"}.get(name, name).replace("_", "-")
            raise UsageError(f"{option} does not go with --layers", fix="leave it out")


def _layers(model: str, devices: list[str], targets: list[str], threads: list[int], path: Path) -> None:
    """Fills the table of layers in ``path``, and says how well it foretells the whole model."""
    from dataclasses import replace

    from edgeopt.errors import ModelError, UsageError

    for name, given in (("device", devices), ("target", targets), ("threads", threads)):
        if len(given) != 1:
            why = f"a table is for one, and {len(given)} were given"
            raise UsageError(f"--layers needs one --{name}", why=why, fix=f"give --{name} once")
    from edgeopt.pipeline.selection import select
    from edgeopt.support.files import make_folder
    from edgeopt.support.log_diversion import diverted

    select(targets)  # a target that cannot be made here is told before anything is measured
    from edgeopt.report.layers_view import print_layers
    from edgeopt.report.progress import progress

    make_folder(path.parent)
    with progress() as listen, diverted(path.with_suffix(".log")):
        from torch import nn

        from edgeopt.latency.modules import SETTINGS, layer_latency, on_device
        from edgeopt.model.references import load_model

        loaded = load_model(model)
        module, example = loaded.module, loaded.example_inputs
        if not isinstance(module, nn.Module):
            raise ModelError(f"{model} is an exported program", fix="give the nn.Module itself: its layers are looked for")
        settings = replace(SETTINGS, threads=tuple(threads))
        times = layer_latency(
            [(module, example)], target=targets[0], device=devices[0], path=path, settings=settings, listen=listen
        )
        whole = on_device(target=targets[0], device=devices[0], settings=settings, listen=listen)(module, example)
        prediction = times.predict(module, example)
    print_layers(times.table, prediction, whole, path)


def _request(
    artifact: Path, devices: list[str], targets: list[str], evaluate: str | None, out: Path, settings: "BenchSettings"
) -> "Request":
    from edgeopt.bench.artifacts import load
    from edgeopt.bench.run import Request
    from edgeopt.devices.devices_toml import resolve_all
    from edgeopt.model.references import load_evaluate
    from edgeopt.report.prompt import ask

    specs = resolve_all(devices)
    function = load_evaluate(evaluate) if evaluate else None
    return Request(
        artifacts=load(artifact), devices=specs, settings=settings, out=out, ask=ask, targets=tuple(targets),
        evaluate=function, specs=_inputs(artifact) if evaluate else (),
    )  # fmt: skip


def _inputs(artifact: Path) -> "tuple[TensorSpec, ...]":
    """The model's inputs as a bundle says them; none for a bare artifact."""
    from edgeopt.bench.artifacts import is_bundle
    from edgeopt.bench.interface import check_interface
    from edgeopt.bundle.bundle import Bundle

    if not is_bundle(artifact):
        return ()
    inputs = Bundle.load(artifact).manifest.model.inputs
    check_interface(f"the manifest of {artifact}", inputs, ())
    return inputs


def _run(request: "Request") -> "tuple[tuple[DeviceRun, ...], Benchmark]":
    from dataclasses import replace

    from edgeopt.bench.run import Benchmark
    from edgeopt.report.progress import progress

    with progress() as listen:
        benchmark = Benchmark(replace(request, listen=listen))
        try:
            return benchmark.run(), benchmark
        except KeyboardInterrupt:
            if benchmark.left_behind:
                leave_threads(interrupted_exit_code())
            typer.echo("\nwhat was measured is in " + ", ".join(map(str, benchmark.folders)), err=True)
            raise


def _show(runs: "tuple[DeviceRun, ...]", folders: list[Path], form: str, samples: bool) -> None:
    from edgeopt.report import bench_formats
    from edgeopt.report.bench_table import print_runs

    if form == "table":
        print_runs(runs, folders)
    elif form == "json":
        sys.stdout.write(bench_formats.as_json(runs, samples))
    else:
        sys.stdout.write((bench_formats.as_csv if form == "csv" else bench_formats.as_markdown)(runs))


def _exit_code(runs: "tuple[DeviceRun, ...]") -> int:
    """0, or the exit code of the worst failure; where all was skipped, nothing that was asked for was measured either."""
    from edgeopt.errors import RunFailed, worst_of

    results = [result for run in runs for result in run.results]
    names = [name for name in (*(run.error for run in runs), *(result.error for result in results)) if name]
    if not names and not any(result.status == "ok" for result in results):
        return RunFailed.exit_code
    return worst_of(names)
