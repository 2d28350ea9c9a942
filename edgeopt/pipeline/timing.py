"""Latencies on this computer, each artifact against its fp32 twin, alone on the machine."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgeopt import registry
from edgeopt.core import SPEED_LIMIT, TWIN, Artifact, Format, Latency, TargetResult, Verdict
from edgeopt.errors import EdgeoptError
from edgeopt.model.options import Options
from edgeopt.pipeline.requests import TimeRequest
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.support import processor
from edgeopt.support.progress import event
from edgeopt.targets.schema import TargetProfile
from edgeopt.verify import verdicts

THREADS = 1


class Timer:
    """Times artifacts of ``run``, one at a time with nothing else running; the same bytes once, but where they seem slow."""

    def __init__(self, run: ExportRun, results: Iterable[TargetResult], profiles: Iterable[TargetProfile], data: Data) -> None:
        self._run, self._data = run, data
        self._folder = run.writer.folder(TWIN).parent
        self._twins: dict[Format, Artifact] = {
            one.format: one.artifact for one in results if one.target == TWIN and one.artifact and one.status == "ok"
        }
        self._own = {profile.name: processor.is_here(profile.processor) for profile in profiles}
        self._known: dict[str, TargetResult] = {}

    def timed(self, result: TargetResult) -> TargetResult:
        """``result`` with its latency and what that means; as it is where nothing here can time it."""
        artifact = result.artifact
        if artifact is None or artifact.format not in self._twins or registry.converter(artifact.format).stand_in:
            return result
        if artifact.sha256 not in self._known:
            twin = self._folder / self._twins[artifact.format].path
            self._known[artifact.sha256] = self._measured(result, twin, self._folder / artifact.path)
        return self._judged(result, self._known[artifact.sha256])

    def _measured(self, result: TargetResult, twin: Path, out: Path) -> TargetResult:
        """With the better of two timings where the first seems slow: something else may have run beside it."""
        self._run.listen(event(f"{result.target}/{result.format}", "time"))
        request = TimeRequest(format=result.format, out=out, twin=twin, references=self._data.references, threads=THREADS)
        try:
            latency = self._run.ask("time", result.target, request, Latency)
            if latency.ratio > SPEED_LIMIT:
                again = self._run.ask("time", result.target, request, Latency)
                latency = min(latency, again, key=lambda one: one.ratio)
        except EdgeoptError as error:
            return replace(result, warnings=(*result.warnings, f"it could not be timed: {error.message()}"))
        return replace(result, latency=latency)

    def _judged(self, result: TargetResult, timed: TargetResult) -> TargetResult:
        if timed.latency is None:
            return replace(result, warnings=(*result.warnings, *timed.warnings[-1:]))
        if result.target == TWIN:
            return replace(result, latency=timed.latency)
        assert result.artifact is not None
        is_twin = result.artifact.sha256 == self._twins[result.format].sha256  # then it is as fast, whatever was measured
        ratio = 1.0 if is_twin else timed.latency.ratio
        verdict = verdicts.speed(ratio, self._own.get(result.target, False))
        return replace(result, latency=timed.latency, verdicts=(*result.verdicts, verdict))


def is_slower(result: TargetResult) -> bool:
    """Whether it was timed on a CPU of its target's kind, and is slower there than its twin."""
    return any(not verdict.passed for verdict in _speed(result))


def ratio(result: TargetResult) -> float | None:
    """Its time here over its twin's; None where it has none."""
    return next((verdict.value for verdict in _speed(result)), None)


def told(result: TargetResult, options: Options) -> TargetResult:
    """``result``, with what to do where it is slower than its twin."""
    taken = ratio(result)
    if taken is None or taken <= SPEED_LIMIT:
        return result
    if is_slower(result):
        instead = "with --never-slower it gives way to what is faster; or ship the twin's file"
        if options.never_slower:
            tried = "its plan says what was tried; ship the twin's file"
            instead = "without --strict-scheme it gives way" if options.strict_scheme else tried
        said = f"slower than its fp32 twin on a CPU of the target's kind, {taken:.2f}x its time: {instead}"
    else:
        there = f"measure it there: edgeopt bench BUNDLE --device NAME --target {result.target}"
        said = f"slower here than its fp32 twin, {taken:.2f}x its time, but {verdicts.ELSEWHERE}: {there}"
    return replace(result, warnings=(*result.warnings, said))


def _speed(result: TargetResult) -> list[Verdict]:
    return [verdict for verdict in result.verdicts if verdict.check == "speed"]
