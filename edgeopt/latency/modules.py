"""Latencies on a device of what is not an artifact yet: of modules, and of a table of layers, lowered and benchmarked.

    measure = on_device(target="arm-xnnpack", device="pixel8")
    measure(module, example)                                    # ms of the target's artifact there
    times = layer_latency([(module, example)], target="arm-xnnpack", device="pixel8", path=Path("pixel8.json"))
    search(build, space, context, latency=times)                # other layers are interpolated between those

Give a table the smallest and the largest network of a family: what lies between is interpolated. Layers of integers are timed
with integers at their edges, as they run inside a network.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from edgeopt import registry
from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.failed import device_error
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import BenchSettings, DeviceRun, Subject
from edgeopt.capture import Captured, capture
from edgeopt.capture.operator_kinds import HEAVY
from edgeopt.compress.search.latency_table import OVERHEAD, LayerLatency, Measure
from edgeopt.core import TWIN, Format, QuantScheme, from_data, to_data
from edgeopt.devices import devices_toml
from edgeopt.errors import ConfigError, ConversionError, NotApplicable
from edgeopt.latency.integer_edges import take_off_float_edges
from edgeopt.model.latency_table import LatencyTable
from edgeopt.model.model import Batch, Model
from edgeopt.model.options import DEFAULT_TIMEOUT_S
from edgeopt.pipeline.convert import one_scheme
from edgeopt.pipeline.hosts import preload
from edgeopt.pipeline.jobs import DENSE, Job, jobs_of
from edgeopt.pipeline.program import Programs
from edgeopt.pipeline.requests import ConvertRequest, Facts
from edgeopt.quantize.calibrate import calibrate
from edgeopt.report.prompt import ask
from edgeopt.support.files import make_folder, sha256_of, size_of
from edgeopt.support.progress import Listener, event, ignore
from edgeopt.support.scratch import scratch
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile
from edgeopt.worker.client import WorkerHost

SETTINGS = BenchSettings(launches=1, min_runs=50, min_seconds=0.3, max_seconds=5.0)
"""Layers are many and short: one launch each."""
NETWORK = "the network"


def layer_latency(
    networks: Iterable[tuple[nn.Module, Batch]],
    *,
    target: str,
    device: str,
    path: Path,
    form: Format | None = None,
    settings: BenchSettings = SETTINGS,
    listen: Listener = ignore,
) -> LayerLatency:
    """The table in ``path``, with every layer of ``networks`` measured as ``target``'s artifact in the format ``form``.

    ``form`` None is the target's first. Only layers that the table lacks are measured; the file is written when they are. A
    layer that the target leaves as it is (there is nothing to quantize) is measured in float; those with weights of a target
    of integers in both. Raises ConfigError for a table of something else, DeviceError where the device does not measure a
    layer.
    """
    profile, form = _lowering(target, form)
    runtime, threads = f"{profile.name}/{form}", settings.threads[0]
    table = LatencyTable(device=device, runtime=runtime, threads=threads)
    if path.exists():
        table = LatencyTable.load(path)
        if (table.device, table.runtime, table.threads) != (device, runtime, threads):
            why = f"it is of {table.runtime} on {table.device} with {table.threads} threads"
            raise ConfigError(f"{path} is another table", why=why, fix="give another path")
    times = LayerLatency(table, path=path)
    missing = {layer.call: layer for module, example in networks for layer in times.missing(module, example)}
    if missing:
        parts = {call: Model(layer.module, layer.example) for call, layer in missing.items()}
        ms = _measured(parts, profile, form, device, settings, listen, inside=True)
        floats = _in_floats(parts, profile, form, device, settings, listen)
        times.add(ms, tuple(missing.values()), floats)
    return times


def _in_floats(
    parts: Mapping[str, Model], profile: TargetProfile, form: Format, device: str, settings: BenchSettings, listen: Listener
) -> dict[str, float]:
    """Median ms of the parts with weights as the target's fp32 twin, where it computes in integers: what these save."""
    twin = loader.load(TWIN)
    heavy = {call: part for call, part in parts.items() if call != OVERHEAD and _has_weights(call)}
    if not heavy or form not in twin.formats or not profile.schemes[0].integer:
        return {}
    return _measured(heavy, twin, form, device, settings, listen, inside=True)


def _has_weights(call: str) -> bool:
    """Whether the layer alone is computed in integers: a light one is not worth its conversions."""
    return call.partition("(")[0] in HEAVY


def on_device(
    *, target: str, device: str, form: Format | None = None, settings: BenchSettings = SETTINGS, listen: Listener = ignore
) -> Measure:
    """A function that gives the median ms of a module's artifact there: ``latency`` of a search, ``time`` of a latency goal.

    Raises what lowering raises, DeviceError where the device does not measure it.
    """
    profile, form = _lowering(target, form)

    def measure(module: nn.Module, example_inputs: Batch) -> float:
        whole = {NETWORK: Model(module, example_inputs)}
        return _measured(whole, profile, form, device, settings, listen, inside=False)[NETWORK]

    return measure


def _lowering(target: str, form: Format | None) -> tuple[TargetProfile, Format]:
    profile = loader.load(target)
    if form is not None and form not in profile.formats:
        raise ConfigError(f"{target} has no artifacts in the format {form}", fix=f"one of {', '.join(profile.formats)}")
    return profile, form or profile.formats[0]


def _measured(
    parts: Mapping[str, Model], profile: TargetProfile, form: Format, device: str, settings: BenchSettings, listen: Listener,
    *, inside: bool,
) -> dict[str, float]:  # fmt: skip
    """Median ms of each part, by ``call``. ``inside``: as it runs inside a network."""
    with scratch() as folder:
        with WorkerHost(preload([form])) as host:
            artifacts = {}
            for number, (call, part) in enumerate(parts.items(), 1):
                listen(event(f"layer {number} of {len(parts)}" if inside else call, "convert", call if inside else ""))
                artifacts[call] = _artifact(part, profile, form, make_folder(folder / str(number)), host, inside)
        request = Request(
            artifacts=list(artifacts.values()), devices=[devices_toml.resolve(device)], settings=settings, out=folder / "runs",
            ask=ask, listen=listen,
        )  # fmt: skip
        (run,) = Benchmark(request).run()
    return {call: _time(run, call, artifact) for call, artifact in artifacts.items()}


def _time(run: DeviceRun, call: str, artifact: Runnable) -> float:
    # By content: artifacts with the same bytes are run once.
    result = next((one for one in run.results if one.subject.sha256 == artifact.subject.sha256), None)
    ms = result.typical_ms if result is not None else None
    if ms is None:
        fix = "see whether edgeopt bench works there"
        raise device_error(f"{run.device} gave no time of {call}", run, result, fix)
    return ms


def _artifact(part: Model, profile: TargetProfile, form: Format, folder: Path, host: WorkerHost, inside: bool) -> Runnable:
    """The part lowered as the target asks; in float where there is nothing in it to quantize."""
    captured = capture(part)
    programs = Programs(captured, folder)
    module = captured.program.module(check_guards=False)
    programs.calibrated(calibrate({DENSE: module}, captured.signature, captured.example, None, keep=True))
    job = _job(profile, form)
    while True:
        try:
            return _lowered(job, captured, programs, folder, host, inside)
        except ConversionError as error:
            other = job.fallback(error.what)
            if other is None and isinstance(error, NotApplicable):
                other = _in_float(job)
            if other is None:
                raise
            job = other


def _in_float(job: Job) -> Job:
    """What becomes of a layer with nothing to quantize, in a network of the target's: it stays in float."""
    twin = loader.load(TWIN)
    if job.format in twin.formats:
        return _job(twin, job.format)
    kind: Literal["float16", "float32"] = "float16" if job.format == "coreml" else "float32"
    return _job(replace(job.profile, schemes=(QuantScheme(activation=kind, weight=kind),)), job.format)


def _job(profile: TargetProfile, form: Format) -> Job:
    return next(job for job in jobs_of([profile], io_float=False) if job.format == form)


def _lowered(job: Job, captured: Captured, programs: Programs, folder: Path, host: WorkerHost, inside: bool) -> Runnable:
    out = folder / f"layer{registry.converter(job.format).suffix}"
    program, _ = programs.saved(job)
    request = ConvertRequest(
        format=job.format, profile=one_scheme(job), program=program, out=out, io_float=job.io_float,
        output_names=tuple(spec.name for spec in captured.outputs),
    )  # fmt: skip
    with _log() as log:
        facts = from_data(Facts, host.run("convert", to_data(request), timeout_s=DEFAULT_TIMEOUT_S, log=log))
    inputs, outputs = facts.inputs, facts.outputs
    if inside and job.format == "onnx":
        take_off_float_edges(out)
        inputs, outputs, _ = registry.converter(job.format).inspect(out, job.profile)
    subject = Subject(path=str(out), target="", format=job.format, sha256=sha256_of(out), bytes=size_of(out))
    return Runnable(subject, out, inputs, outputs)


@contextmanager
def _log() -> Iterator[Path]:
    """A log for one conversion. It stays where that fails, since the error names it."""
    handle, name = tempfile.mkstemp(prefix="edgeopt-", suffix=".log")
    os.close(handle)
    yield Path(name)
    Path(name).unlink()
