"""Latencies on this computer, each artifact against its fp32 twin, alone on the machine."""

from dataclasses import replace
from pathlib import Path

from edgeopt import registry
from edgeopt.core import TWIN, Latency, TargetResult
from edgeopt.errors import EdgeoptError
from edgeopt.pipeline.requests import TimeRequest
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support.progress import event
from edgeopt.verify import verdicts

THREADS = 1


def time_all(run: ExportRun, results: list[TargetResult], data: Data) -> list[TargetResult]:
    """``results`` with latencies, one artifact at a time with nothing else running; the same bytes are timed once."""
    folder = run.writer.folder(TWIN).parent
    twins = {r.format: folder / r.artifact.path for r in results if r.target == TWIN and r.artifact and r.status == "ok"}
    known: dict[str, TargetResult] = {}
    timed = []
    for result in results:
        artifact = result.artifact
        if artifact is not None and artifact.format in twins and not registry.converter(artifact.format).stand_in:
            if artifact.sha256 not in known:
                known[artifact.sha256] = _timed(run, result, twins[artifact.format], folder / artifact.path, data)
            result = _with_latency(result, known[artifact.sha256])
        timed.append(result)
    return timed


def _timed(run: ExportRun, result: TargetResult, twin: Path, out: Path, data: Data) -> TargetResult:
    run.listen(event(f"{result.target}/{result.format}", "time"))
    request = TimeRequest(format=result.format, out=out, twin=twin, references=data.references, threads=THREADS)
    try:
        return replace(result, latency=run.ask("time", result.target, request, Latency))
    except EdgeoptError as error:
        return replace(result, warnings=(*result.warnings, f"it could not be timed: {error.message()}"))


def _with_latency(result: TargetResult, timed: TargetResult) -> TargetResult:
    if timed.latency is None:
        return replace(result, warnings=(*result.warnings, *timed.warnings[-1:]))
    if result.target == TWIN:
        return replace(result, latency=timed.latency)
    verdict = verdicts.speed(timed.latency.ratio)
    slower = () if verdict.passed else (f"slower here than its fp32 twin: {timed.latency.ratio:.2f}x its time",)
    return replace(result, latency=timed.latency, verdicts=(*result.verdicts, verdict), warnings=(*result.warnings, *slower))
