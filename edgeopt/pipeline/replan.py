"""Planned again where the user asks for it: an artifact that is slower than its fp32 twin on its target's own kind of CPU.

First its integer islands change, then come the profile's other schemes, small weights beside floats, and floats. The fastest
that passes every check ships, and the plan has every try with its time. All tries together have a part of the export's time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt.capture.operator_kinds import HEAVY, PASS_THROUGH
from edgeopt.core import SPEED_LIMIT, Decision, Format, QuantScheme, RefusedScheme, TargetResult
from edgeopt.errors import EdgeoptError
from edgeopt.pipeline.convert import Made, convert
from edgeopt.pipeline.evaluate import evaluate
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.judge import judge
from edgeopt.pipeline.prove import prove
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.pipeline.timing import Timer, is_slower, ratio
from edgeopt.quantize.graph import Op, operators
from edgeopt.quantize.planner import depthwise_kernel
from edgeopt.support.files import copy_tree, make_folder, remove
from edgeopt.support.progress import event

SHARE = 0.2
"""Of the export's time until then: what all tries together may take. The last, in floats, is made all the same."""
FLOAT = QuantScheme(activation="float32", weight="float32")
SMALL: dict[Format, QuantScheme] = {
    "onnx": QuantScheme(activation="float32", weight="int8"),
    "tflite": QuantScheme(activation="float16", weight="float16"),
}
"""Small weights beside the arithmetic of floats, where a runtime on CPUs has them."""


@dataclass(frozen=True, slots=True)
class _Try:
    """An artifact, how it was made in words, and its result with its time."""

    words: str
    made: Made
    timed: TargetResult
    ratio: float
    """Its time over its twin's."""
    kept: Path
    """A copy of the artifact, since all are made in the same place."""


class Replanner:
    """Makes slow artifacts of ``run`` again, with copies of them in ``folder``; ``started``: by time.monotonic."""

    def __init__(self, run: ExportRun, data: Data, timer: Timer, folder: Path, started: float) -> None:
        self._run, self._data, self._timer, self._folder = run, data, timer, folder
        self._left = SHARE * (time.monotonic() - started)

    def faster(self, result: TargetResult, made: Made, job: Job) -> tuple[TargetResult, Made]:
        """``result`` with the time of its artifact, ``made``, or what took its place since that is slower than its twin.

        ``job``: of the target, whose artifact may be another target's too.
        """
        timed = self._timer.timed(result)
        asked = self._run.options.never_slower
        if not asked or result.status != "ok" or result.plan is None or not is_slower(timed) or made.job.scheme == FLOAT:
            return timed, made
        job = replace(job, scheme=made.job.scheme, refused=made.job.refused, kept=made.job.kept)
        if job.strict:
            reason = f"--strict-scheme keeps it, though it takes {_ratio(timed)} of its fp32 twin's time here"
            return _with(timed, Decision(subject="time", choice=job.scheme.describe(), reason=reason)), made
        return self._best(timed, replace(made, job=job))

    def _best(self, timed: TargetResult, made: Made) -> tuple[TargetResult, Made]:
        assert timed.artifact is not None
        place = self._run.writer.folder(timed.target) / Path(timed.artifact.path).name
        tries = [_Try(made.job.scheme.describe(), made, timed, ratio(timed) or 0.0, self._put_aside(place))]
        said = [f"{tries[0].words} takes {_ratio(timed)} of its fp32 twin's time"]
        untried: list[str] = []
        for words, job in self._ways(made.job, timed):
            if self._left <= 0 and job.scheme != FLOAT:
                untried.append(words)
                continue
            found = self._tried(words, job, place)
            said.append(found if isinstance(found, str) else f"{words} {found.ratio:.2f}")
            tries += [] if isinstance(found, str) else [found]
        if untried:
            said.append(f"not tried, beyond {SHARE:.0%} of the export's time: {', '.join(untried)}")
        best = _chosen(tries)
        copy_tree(best.kept, place)
        for one in tries:
            remove(one.kept)
        choice = best.words if best is not tries[0] else f"{best.words}: nothing else is faster"
        reason = f"timed here, on a CPU of the target's kind: {'; '.join(said)}"
        return _with(best.timed, Decision(subject="time", choice=choice, reason=reason)), best.made

    def _tried(self, words: str, job: Job, place: Path) -> "_Try | str":
        """The artifact of ``job``, or why there is none that counts. Its time is taken from what is left."""
        self._run.listen(event(job.name, "convert", f"slower than its twin: trying {words}"))
        began = time.monotonic()
        try:
            made = convert(self._run, job, self._data)
            proven = prove(self._run, made, self._data)
            result = judge(self._run, proven, job, evaluate(self._run, proven), self._data)
            timed = self._timer.timed(result)
        except EdgeoptError as error:
            if self._run.host.closed:  # the export is being stopped
                raise
            remove(place)
            return f"{words} cannot be made ({error.what})"
        finally:
            self._left -= time.monotonic() - began
        aside = self._put_aside(place)
        taken = ratio(timed)
        if timed.status != "ok" or taken is None:
            remove(aside)
            return f"{words} is not good enough ({timed.reason or 'it could not be timed'})"
        return _Try(words, made, timed, taken, aside)

    def _put_aside(self, artifact: Path) -> Path:
        copy = make_folder(self._folder) / f"{time.monotonic_ns()}{artifact.suffix}"
        copy_tree(artifact, copy)
        remove(artifact)
        return copy

    def _ways(self, job: Job, timed: TargetResult) -> Iterator[tuple[str, Job]]:
        """Other artifacts of the target, in words and as jobs, those that are nearest to what it prefers first."""
        if job.scheme.integer:
            yield from self._islands(job, _ratio(timed))
        reason = f"it takes {_ratio(timed)} of the fp32 twin's time on a CPU of the target's kind"
        others = [scheme for scheme in (*job.left, SMALL.get(job.format), FLOAT) if scheme is not None]
        for scheme in dict.fromkeys(others):
            if scheme == job.scheme or not (scheme.integer or _takes_floats(job)):
                continue
            profile = replace(job.profile, schemes=tuple(dict.fromkeys((*job.profile.schemes, scheme))))
            refused = (*job.refused, RefusedScheme(scheme=job.scheme, reason=reason))
            floats = job.io_float or not scheme.integer
            other = replace(job, profile=profile, scheme=scheme, refused=refused, kept=(), io_float=floats)
            yield scheme.describe(), other

    def _islands(self, job: Job, taken: str) -> Iterator[tuple[str, Job]]:
        module = self._run.captured.program.module(check_guards=False)
        ops = operators(module.graph, frozenset(job.profile.operators.fused))
        able = [op for op in ops if op.kind in job.profile.operators.integer]
        kinds: dict[str, list[Op]] = {
            "depthwise convolutions": [op for op in able if depthwise_kernel(op)],
            "light operators": [op for op in able if op.kind not in HEAVY and op.kind not in PASS_THROUGH],
        }
        for words, those in kinds.items():
            if those and any(op.kind in HEAVY and op not in those for op in able):
                why = f"kept for the time: with them in integers the artifact takes {taken} of its fp32 twin's on such a CPU"
                kept = (*job.kept, *((op.output.name, why) for op in those))
                yield f"{job.scheme.describe()} with {words} in floats", replace(job, kept=kept)


def _chosen(tries: list[_Try]) -> _Try:
    """The fastest; of those that are as fast, as far as timings tell, the first."""
    least = min(one.ratio for one in tries)
    return next(one for one in tries if one.ratio <= least * SPEED_LIMIT)


def _takes_floats(job: Job) -> bool:
    """Whether who calls the target's artifacts can hand over floats."""
    return job.io_float or job.profile.io.float_type == "float32" or "float32" in job.profile.io.selectable


def _ratio(timed: TargetResult) -> str:
    return f"{ratio(timed) or 0.0:.2f}"


def _with(result: TargetResult, decision: Decision) -> TargetResult:
    plan = result.plan
    return result if plan is None else replace(result, plan=replace(plan, decisions=(*plan.decisions, decision)))
