"""Fills a latency table from real artifacts on a device: the layers of some networks, lowered one by one, benchmarked at once.

    times = layer_latency([(module, example)], target="arm-xnnpack", form="tflite", device="pixel8", path=Path("pixel8.json"))
    search(build, space, context, latency=times)        # other layers are interpolated between those

Give it the smallest and the largest network of a family: what lies between is interpolated. For targets in integers with floats
at the edges the sum is too large, since each layer converts its own inputs and outputs; the order of networks holds.
"""

import tempfile
from collections.abc import Iterable
from getpass import getpass
from pathlib import Path
from statistics import median

from torch import nn

from edgeopt import registry
from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import BenchResult, BenchSettings, Subject
from edgeopt.calibrate import calibrate
from edgeopt.capture import Captured, capture
from edgeopt.compress.families.layer_trace import Layer
from edgeopt.compress.latency_table import LatencyTable, LayerLatency
from edgeopt.core import TWIN, Format, TensorSpec, from_data, to_data
from edgeopt.devices import known
from edgeopt.errors import ConfigError, ConversionError, NotApplicable, RunFailed
from edgeopt.files import make_folder, sha256_of, size_of
from edgeopt.jobs import DENSE, Job, jobs_of
from edgeopt.making import PRELOAD, PRELOAD_ALWAYS
from edgeopt.model import Batch, Model
from edgeopt.options import DEFAULT_TIMEOUT_S, Listener, ignore
from edgeopt.programs import Programs
from edgeopt.progress import event
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile
from edgeopt.worker.client import WorkerHost

SETTINGS = BenchSettings(launches=1, min_runs=50, min_seconds=0.3, max_seconds=5.0)
"""Layers are many and short: one launch each."""


def layer_latency(
    networks: Iterable[tuple[nn.Module, Batch]],
    *,
    target: str,
    form: Format,
    device: str,
    path: Path,
    settings: BenchSettings = SETTINGS,
    listen: Listener = ignore,
) -> LayerLatency:
    """The table in ``path``, with every layer of ``networks`` measured as ``target``'s artifact in the format ``form``.

    Only layers that the table lacks are measured; the file is written when they are. A layer that the target leaves as it is
    (there is nothing to quantize) is measured in float. Raises ConfigError for a table of something else, RunFailed where
    the device measured a layer not at all.
    """
    runtime, threads = f"{target}/{form}", settings.threads[0]
    table = LatencyTable(device=device, runtime=runtime, threads=threads)
    if path.exists():
        table = LatencyTable.load(path)
        if (table.device, table.runtime, table.threads) != (device, runtime, threads):
            why = f"it is of {table.runtime} on {table.device} with {table.threads} threads"
            raise ConfigError(f"{path} is another table", why=why, fix="give another path")
    times = LayerLatency(table, path=path)
    missing = {layer.call: layer for module, example in networks for layer in times.missing(module, example)}
    if missing:
        layers = tuple(missing.values())
        with tempfile.TemporaryDirectory() as folder:
            times.add(_measured(layers, target, form, device, Path(folder), settings, listen), layers)
    return times


def _measured(
    layers: tuple[Layer, ...], target: str, form: Format, device: str, folder: Path, settings: BenchSettings, listen: Listener
) -> dict[str, float]:
    """Median ms of each layer, by ``call``."""
    profile = loader.load(target)
    if form not in profile.formats:
        raise ConfigError(f"{target} has no artifacts in the format {form}", fix=f"one of {', '.join(profile.formats)}")
    with WorkerHost((*PRELOAD_ALWAYS, *PRELOAD.get(form, ()))) as host:
        artifacts = {}
        for number, layer in enumerate(layers):
            listen(event(f"layer {number + 1} of {len(layers)}", "convert", layer.call))
            artifacts[layer.call] = _artifact(layer, profile, form, make_folder(folder / str(number)), host)
    request = Request(
        artifacts=list(artifacts.values()), devices=[known.resolve(device)], settings=settings, out=folder / "runs",
        ask=getpass, listen=listen,
    )  # fmt: skip
    (run,) = Benchmark(request).run()
    # By content: artifacts with the same bytes are run once.
    results = {result.subject.sha256: result for result in run.results}
    times = {}
    for call, artifact in artifacts.items():
        result = results.get(artifact.subject.sha256)
        ms = _ms(result)
        if ms is None:
            why = run.reason or (result.reason if result else "it was not run")
            raise RunFailed(f"{device} gave no time of {call}", why=why, fix="see whether edgeopt bench works there")
        times[call] = ms
    return times


def _artifact(layer: Layer, profile: TargetProfile, form: Format, folder: Path, host: WorkerHost) -> Runnable:
    """The layer lowered as the target asks; in float where there is nothing in it to quantize."""
    captured = capture(Model(layer.module, layer.example))
    programs = Programs(captured, folder)
    module = captured.program.module(check_guards=False)
    programs.calibrated(calibrate({DENSE: module}, captured.signature, captured.example, None, keep=True))
    job: Job | None = _job(profile, form)
    while job is not None:
        try:
            return _lowered(job, captured, programs, folder, host)
        except NotApplicable:
            job = _job(loader.load(TWIN), form)
        except ConversionError as error:
            job, last = job.fallback(error.what), error
    raise last


def _job(profile: TargetProfile, form: Format) -> Job:
    return next(job for job in jobs_of([profile], io_float=False) if job.format == form)


def _lowered(job: Job, captured: Captured, programs: Programs, folder: Path, host: WorkerHost) -> Runnable:
    out = folder / f"layer{registry.converter(job.format).suffix}"
    program, _ = programs.saved(job)
    request = {
        "format": job.format, "profile": to_data(job.profile), "out": str(out), "program": str(program),
        "io_float": job.io_float, "output_names": [spec.name for spec in captured.outputs],
    }  # fmt: skip
    facts = host.run("convert", request, timeout_s=DEFAULT_TIMEOUT_S, log=folder / "log")
    subject = Subject(path=str(out), target="", format=job.format, sha256=sha256_of(out), bytes=size_of(out))
    inputs, outputs = (tuple(from_data(TensorSpec, spec) for spec in facts[name]) for name in ("inputs", "outputs"))
    return Runnable(subject, out, inputs, outputs)


def _ms(result: BenchResult | None) -> float | None:
    launches = result.measurement.launches if result is not None and result.measurement is not None else ()
    samples = [sample for launch in launches for sample in launch.samples_ns]
    return median(samples) / 1e6 if samples else None
