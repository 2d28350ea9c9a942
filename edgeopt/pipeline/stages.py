"""One export from the model to its manifest, stage by stage. Data goes one way; nothing is printed."""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from edgeopt import __version__, registry
from edgeopt.bundle.bundle import BundleWriter
from edgeopt.capture import capture
from edgeopt.capture.macs import macs_by_layer
from edgeopt.core import Manifest, ModelFacts, TargetResult
from edgeopt.errors import EdgeoptError
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.convert import Made, convert, promise
from edgeopt.pipeline.evaluate import evaluate_model
from edgeopt.pipeline.jobs import Job, jobs_of
from edgeopt.pipeline.judge import failed_result, judge
from edgeopt.pipeline.mixed import Settled
from edgeopt.pipeline.program import Programs
from edgeopt.pipeline.references import write_references
from edgeopt.pipeline.replan import Replanner
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.pipeline.schemes import settle
from edgeopt.pipeline.tables import costed
from edgeopt.pipeline.timing import Timer, told
from edgeopt.quantize.calibrate import Calibrated
from edgeopt.support.cache import Cache
from edgeopt.support.files import sha256_of
from edgeopt.support.patches import in_place, torch_archives, torch_graphs, torch_provenance
from edgeopt.support.progress import Listener, event, reading
from edgeopt.support.scratch import scratch
from edgeopt.targets.schema import TargetProfile
from edgeopt.verify import gates
from edgeopt.verify.agreement import MODEL_SECONDS, SECONDS, TIMEOUT_PARTS
from edgeopt.worker.client import WorkerHost

PATCHES = (*torch_archives.PATCHES, *torch_graphs.PATCHES, *torch_provenance.PATCHES)
"""Of libraries, in the main process."""


def make(
    model: Model,
    options: Options,
    listen: Listener,
    profiles: list[TargetProfile],
    host: WorkerHost,
    writer: BundleWriter,
    cache: Cache,
) -> tuple[Manifest, dict[str, str]]:
    """Fills ``writer``'s folders; the manifest to commit, and the cache's key of each artifact by its path in the bundle.

    ``host`` is started and closed.
    """
    started = time.monotonic()
    with scratch() as folder, host, in_place(PATCHES):
        listen(event("model", "capture"))
        captured = capture(model)
        run = ExportRun(
            captured=captured,
            model=captured.sha256(),
            programs=Programs(captured, folder),
            host=host,
            writer=writer,
            cache=cache,
            options=options,
            listen=listen,
            evaluate=model.evaluate,
            model_numbers=evaluate_model(model.evaluate, captured, options.max_slice_drop, listen),
        )
        jobs = costed(_jobs(profiles, options), captured.program, options.latency_table)
        shipped: dict[str, Made] = {}
        results, data = _make_all(run, model, jobs, folder, shipped)
        timer = Timer(run, results, profiles, data)
        replanner = Replanner(run, data, timer, folder / "slower", started)
        final = []
        for job, result in zip(jobs, results, strict=True):
            if result.artifact is not None:
                path = result.artifact.path
                result, shipped[path] = replanner.faster(result, shipped[path], job)
            final.append(told(result, options))
        return _manifest(model, run, data, final), {path: made.key for path, made in shipped.items()}


def _jobs(profiles: list[TargetProfile], options: Options) -> list[Job]:
    return jobs_of(profiles, options.io_float, options.strict_scheme, options.quality)


def _make_all(
    run: ExportRun, model: Model, jobs: list[Job], folder: Path, shipped: dict[str, Made]
) -> tuple[list[TargetResult], Data]:
    """Artifacts that need no data are lowered while the main thread calibrates; the others follow.

    Their programs are made one after the other in a thread of its own, ahead of the workers that lower them.
    """
    groups = _groups(jobs)
    with _pool(run) as pool, _ahead() as ahead:
        early: dict[str, Future[Made]] = {}
        for name, (first, *_) in groups.items():
            if not first.needs_data:
                promise(run, first, None, ahead)
                early[name] = pool.submit(convert, run, first, None)
        data = _data(run, _calibrate(run, model, jobs), folder / "references.npz", len(groups))
        for name in (later := _longest_first(groups, early)):
            promise(run, groups[name][0], data, ahead)
        done = [name for name, future in early.items() if future.done()]
        # What is still being lowered is judged last: a thread that waited for another one's work would leave its core idle.
        order = dict.fromkeys((*done, *later, *early))
        lowered = {name: future.result for name, future in early.items()}
        finished = [pool.submit(_finish, run, groups[name], data, shipped, lowered.get(name)) for name in order]
        made = {(r.target, r.format): r for future in finished for r in future.result()}
    return [made[job.profile.name, job.format] for job in jobs], data


def _data(run: ExportRun, calibrated: Calibrated, references: Path, artifacts: int) -> Data:
    with run.programs.turn():
        compared = write_references(references, run.captured, calibrated)
    kept, share = len(calibrated.held_out), (SECONDS - MODEL_SECONDS) / max(artifacts, 1)
    further_s = min(share, run.options.timeout_s / TIMEOUT_PARTS)
    calibrated.held_out.clear()  # they are in the file, and memory is for programs from here on
    return Data(calibrated, references, sha256_of(references), compared, kept, further_s)


@contextmanager
def _pool(run: ExportRun) -> Iterator[ThreadPoolExecutor]:
    """Threads that drive workers; on any exception their workers are killed first, so that none keeps its thread waiting."""
    pool = ThreadPoolExecutor(max_workers=max(1, run.options.jobs), thread_name_prefix="edgeopt")
    try:
        yield pool
    except BaseException:
        run.host.close()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _ahead() -> Iterator[ThreadPoolExecutor]:
    """A thread that makes programs; on any exception nothing that it has not begun is made."""
    ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgeopt-programs")
    try:
        yield ahead
    finally:
        ahead.shutdown(wait=True, cancel_futures=True)


def _groups(jobs: list[Job]) -> dict[str, list[Job]]:
    """Jobs by what their bytes depend on, checks that may lead to another scheme included: the first of each is converted."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr((job.conversion(), job.alternatives)), []).append(job)
    return groups


def _longest_first(groups: dict[str, list[Job]], but: Collection[str]) -> list[str]:
    """Names of groups ``but`` for these; what takes long is begun first, so that none is left for one core at the end."""
    left = (name for name in groups if name not in but)
    return sorted(left, key=lambda name: not registry.converter(groups[name][0].format).takes_long)


def _finish(
    run: ExportRun, group: list[Job], data: Data, shipped: dict[str, Made], early: Callable[[], Made] | None
) -> list[TargetResult]:
    """Converts where that is still to do, proves, evaluates and judges; an error fails the whole group with its cause."""
    try:
        settled = settle(run, group[0], data, early)
    except EdgeoptError as error:
        return [_told(run, failed_result(job, error)) for job in group]
    made = settled.proven.made
    shipped.update({f"{job.profile.name}/{made.path.name}": made for job in group})
    return [_told(run, _judged(run, settled, job, data)) for job in group]


def _judged(run: ExportRun, settled: Settled, job: Job, data: Data) -> TargetResult:
    try:
        return judge(run, settled.proven, job, settled.evaluated, data, settled.missed)
    except EdgeoptError as error:
        return failed_result(job, error)


def _told(run: ExportRun, result: TargetResult) -> TargetResult:
    subject = f"{result.target}/{result.format}"
    if not run.host.closed:  # else the export is being stopped, and what is half made has not failed
        run.listen(event(subject, "done" if result.status == "ok" else result.status, result.reason))
    return result


def _calibrate(run: ExportRun, model: Model, jobs: list[Job]) -> Calibrated:
    run.listen(event("model", "calibrate"))
    return run.programs.calibrate(model.calibration, jobs, reading(run.listen))


def _manifest(model: Model, run: ExportRun, data: Data, results: list[TargetResult]) -> Manifest:
    captured, program, numbers = run.captured, run.captured.program, run.model_numbers
    runnable = program.module(check_guards=False)
    facts = ModelFacts(
        name=model.name,
        sha256=run.model,
        parameters=sum(value.numel() for value in program.parameters()),
        macs=sum(macs_by_layer(runnable, lambda: runnable(*captured.example)).values()),
        inputs=captured.signature.specs,
        outputs=captured.outputs,
        accuracy=numbers.found,
        accuracy_interval=gates.interval(numbers.found, numbers.choices.rows) if numbers.steady else None,
    )
    return Manifest(
        edgeopt_version=__version__, model=facts, calibration=data.calibrated.described, results=tuple(results)
    )  # fmt: skip
