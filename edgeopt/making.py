"""The work of one export: capture, calibrate, quantize, convert, verify, time. Data goes one way; nothing is printed."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgeopt import __version__, evaluation, registry, verify
from edgeopt.bundle import BundleWriter
from edgeopt.cache import Cache
from edgeopt.calibrate import Calibrated, Sample, calibrate, raising_on
from edgeopt.capture import Captured, capture
from edgeopt.core import TWIN, Manifest, ModelFacts, TargetResult
from edgeopt.errors import EdgeoptError
from edgeopt.jobs import DENSE, Job, calibrated_values, jobs_of
from edgeopt.macs import macs_by_layer
from edgeopt.model import Model
from edgeopt.options import Listener, Options
from edgeopt.programs import Programs
from edgeopt.progress import event, reading
from edgeopt.reference_file import References
from edgeopt.scratch import scratch
from edgeopt.targets.schema import TargetProfile
from edgeopt.worker.client import WorkerHost
from edgeopt.workshop import Made, Workshop, failed_result

PRELOAD_ALWAYS = ("edgeopt.tasks", "torch", "torchao.quantization.pt2e", "edgeopt.converters.warm:programs")
PRELOAD = {
    "onnx": ("onnx", "onnxscript", "onnxruntime", "edgeopt.converters.warm:onnx"),
    "tflite": ("litert_torch", "ai_edge_litert.interpreter"),
    "coreml": ("coremltools",),
    "pt2": (),
}
"""What a worker of each format needs: imported once, before workers are forked."""


def make(
    model: Model, options: Options, listen: Listener, profiles: list[TargetProfile], writer: BundleWriter, cache: Cache
) -> tuple[Manifest, dict[str, str]]:
    """Fills ``writer``'s folders; the manifest to commit, and the cache's key of each artifact by its path in the bundle."""
    formats = dict.fromkeys(fmt for profile in profiles for fmt in profile.formats)
    preload = (*PRELOAD_ALWAYS, *(module for fmt in formats for module in PRELOAD.get(fmt, ())))
    with scratch() as folder, WorkerHost(preload) as host:
        listen(event("model", "capture"))
        captured = capture(model)
        jobs = jobs_of(profiles, options.io_float)
        shop = Workshop(
            captured=captured,
            programs=Programs(captured, folder),
            host=host,
            writer=writer,
            cache=cache,
            options=options,
            listen=listen,
            evaluate=model.evaluate,
            model_accuracy=_model_accuracy(model, captured, listen),
        )
        results = _make_all(shop, model, jobs, folder)
        results = _time_all(shop, results)
        return _manifest(model, shop, results), shop.keys


def _make_all(shop: Workshop, model: Model, jobs: list[Job], folder: Path) -> list[TargetResult]:
    """Artifacts that need no data are lowered while the main thread calibrates; the others follow."""
    groups = _groups(jobs)
    with _pool(shop) as pool:
        early = {name: pool.submit(shop.convert, group[0]) for name, group in groups.items() if not group[0].needs_data}
        shop.calibrated = _calibrate(shop, model, jobs)
        shop.references = folder / "references.npz"
        _write_references(shop.references, shop.captured, shop.calibrated)
        finished = [pool.submit(_finish, shop, group, early.get(name)) for name, group in groups.items()]
        made = {(r.target, r.format): r for future in finished for r in future.result()}
    return [made[job.profile.name, job.format] for job in jobs]


@contextmanager
def _pool(shop: Workshop) -> Iterator[ThreadPoolExecutor]:
    """Threads that drive workers; on any exception their workers are killed first, so that none keeps its thread waiting."""
    pool = ThreadPoolExecutor(max_workers=max(1, shop.options.jobs), thread_name_prefix="edgeopt")
    try:
        yield pool
    except BaseException:
        shop.host.close()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _groups(jobs: list[Job]) -> dict[str, list[Job]]:
    """Jobs by what their bytes depend on, checks that may lead to another scheme included: the first of each is converted."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr((job.conversion(), job.alternatives)), []).append(job)
    return groups


def _finish(shop: Workshop, group: list[Job], early: "Future[Made] | None") -> list[TargetResult]:
    """Converts where that is still to do, checks, evaluates and judges; an error fails the whole group with its cause."""
    try:
        made, accuracy = shop.proven(early.result() if early else shop.convert(group[0]))
    except EdgeoptError as error:
        return [_told(shop, failed_result(job, error)) for job in group]
    return [_told(shop, _result(shop, made, replace(job, scheme=made.job.scheme), accuracy)) for job in group]


def _result(shop: Workshop, made: Made, job: Job, accuracy: dict[str, float]) -> TargetResult:
    try:
        return shop.result(made, job, accuracy)
    except EdgeoptError as error:
        return failed_result(job, error)


def _told(shop: Workshop, result: TargetResult) -> TargetResult:
    subject = f"{result.target}/{result.format}"
    if not shop.host.closed:  # else the export is being stopped, and what is half made has not failed
        shop.listen(event(subject, "done" if result.status == "ok" else result.status, result.reason))
    return result


def _calibrate(shop: Workshop, model: Model, jobs: list[Job]) -> Calibrated:
    captured = shop.captured
    shop.listen(event("model", "calibrate"))
    module = captured.program.module(check_guards=False)
    found = calibrate(
        {DENSE: module},
        captured.signature,
        captured.example,
        model.calibration,
        reading(shop.listen),
        keep=any(job.profile.sparsity for job in jobs),
        wanted=calibrated_values(module, jobs),
    )
    shop.programs.calibrated(found)
    return found


def _write_references(path: Path, captured: Captured, calibrated: Calibrated) -> None:
    """What the user's own module gives on held-out samples, and on inputs unlike the example where it takes them."""
    run = _reference(captured)
    names = tuple(spec.name for spec in captured.outputs)
    references = References(names=names, samples=[], outputs=[])
    for sample in calibrated.held_out:
        with raising_on(captured.program.module(check_guards=False), sample, "a sample of the calibration data"):
            references.outputs.append(run(_arrays(sample)))
        references.samples.append(_arrays(sample))
    masks = not all(_is_finite(output) for outputs in references.outputs for output in outputs)
    for sample in captured.unlike:
        outputs = _given(run, _arrays(sample))
        if outputs is not None and (masks or all(map(_is_finite, outputs))):
            references.unlike.append(_arrays(sample))
            references.unlike_outputs.append(outputs)
    references.write(path)


def _given(run: evaluation.Run, sample: tuple[evaluation.Array, ...]) -> tuple[evaluation.Array, ...] | None:
    """The outputs; None where the module cannot take such inputs (it raises, or gives NaN)."""
    try:
        outputs = run(sample)
    except (Exception, SystemExit):  # the user's code may raise anything on inputs that are none of its own
        return None
    return None if any(np.isnan(np.asarray(output, np.float64)).any() for output in outputs) else outputs


def _is_finite(output: evaluation.Array) -> bool:
    return bool(np.isfinite(np.asarray(output, np.float64)).all())


def _reference(captured: Captured) -> evaluation.Run:
    """The user's own module; where that computes in float16 or bfloat16, its float32 program, which was compared with it."""
    if captured.in_low_precision:
        return _torch_run(captured)

    def run(arrays: tuple[evaluation.Array, ...]) -> tuple[evaluation.Array, ...]:
        return tuple(output.numpy() for output in captured.witness(*map(torch.from_numpy, arrays)))

    return run


def _arrays(sample: Sample) -> tuple[evaluation.Array, ...]:
    return tuple(value.numpy() for value in sample)


def _torch_run(captured: Captured) -> evaluation.Run:
    module = captured.program.module(check_guards=False)

    def run(arrays: tuple[evaluation.Array, ...]) -> tuple[evaluation.Array, ...]:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(*(torch.from_numpy(np.asarray(array)) for array in arrays)))

    return run


def _model_accuracy(model: Model, captured: Captured, listen: Listener) -> dict[str, float]:
    if model.evaluate is None:
        return {}
    listen(event("model", "evaluate"))
    return evaluation.evaluate(model.evaluate, _torch_run(captured), captured.signature.specs, "the float model")


def _time_all(shop: Workshop, results: list[TargetResult]) -> list[TargetResult]:
    """Latencies, one artifact at a time with nothing else running; artifacts with the same bytes are timed once."""
    folder = shop.writer.folder(TWIN).parent
    twins = {r.format: folder / r.artifact.path for r in results if r.target == TWIN and r.artifact and r.status == "ok"}
    known: dict[str, TargetResult] = {}
    timed = []
    for result in results:
        artifact = result.artifact
        if artifact is not None and artifact.format in twins and not registry.converter(artifact.format).stand_in:
            if artifact.sha256 not in known:
                known[artifact.sha256] = _timed(shop, result, twins[artifact.format], folder / artifact.path)
            result = _with_latency(result, known[artifact.sha256])
        timed.append(result)
    return timed


def _timed(shop: Workshop, result: TargetResult, twin: Path, out: Path) -> TargetResult:
    try:
        return replace(result, latency=shop.latency(result, twin, out))
    except EdgeoptError as error:
        return replace(result, warnings=(*result.warnings, f"it could not be timed: {error.message()}"))


def _with_latency(result: TargetResult, timed: TargetResult) -> TargetResult:
    if timed.latency is None:
        return replace(result, warnings=(*result.warnings, *timed.warnings[-1:]))
    if result.target == TWIN:
        return replace(result, latency=timed.latency)
    verdict = verify.speed(timed.latency.ratio)
    slower = () if verdict.passed else (f"slower here than its fp32 twin: {timed.latency.ratio:.2f}x its time",)
    return replace(result, latency=timed.latency, verdicts=(*result.verdicts, verdict), warnings=(*result.warnings, *slower))


def _manifest(model: Model, shop: Workshop, results: list[TargetResult]) -> Manifest:
    captured, calibrated = shop.captured, shop.calibrated
    program = captured.program
    runnable = program.module(check_guards=False)
    facts = ModelFacts(
        name=model.name,
        sha256=captured.sha256(),
        parameters=sum(value.numel() for value in program.parameters()),
        macs=sum(macs_by_layer(runnable, lambda: runnable(*captured.example)).values()),
        inputs=captured.signature.specs,
        outputs=captured.outputs,
        accuracy=shop.model_accuracy,
    )
    described = calibrated.described if calibrated else ""
    return Manifest(edgeopt_version=__version__, model=facts, calibration=described, results=tuple(results))
