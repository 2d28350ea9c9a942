"""The judgement of an artifact: its verdicts against the target's limits and the gate, and the result that says all of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeopt.capture import dynamic_shapes
from edgeopt.core import TWIN, Artifact, Decision, Status, TargetResult, Verdict
from edgeopt.errors import EdgeoptError, EvaluationError, GateFailed, NotApplicable, UnknownOperator, VerificationFailed
from edgeopt.model.choices import Evaluated
from edgeopt.model.options import Options
from edgeopt.model.slices import slices
from edgeopt.pipeline.blamed import blamed
from edgeopt.pipeline.convert import Made
from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.plan import Chosen, border_decisions, plan_of
from edgeopt.pipeline.prove import Proven, exact
from edgeopt.pipeline.requests import Facts, InspectRequest
from edgeopt.pipeline.run import Data, ExportRun
from edgeopt.quantize.calibrate import outside
from edgeopt.quantize.held_out import HELD_OUT_BYTES, MOST
from edgeopt.support.files import copy_tree, sha256_of, size_of
from edgeopt.verify import gates, verdicts
from edgeopt.verify.agreement import MODEL_SECONDS, SECONDS


def failures(run: ExportRun, proven: Proven, evaluated: Evaluated) -> list[Verdict]:
    """What the artifact fails of its own target's checks and of the gate."""
    return verdicts.failures(_verdicts(run, proven, proven.made.job, evaluated))


def judge(
    run: ExportRun, proven: Proven, job: Job, evaluated: Evaluated, data: Data, missed: str = ""
) -> TargetResult:  # fmt: skip
    """The result of ``job``, which may share the artifact of another target's job; that is copied to its own folder then.

    ``missed``: what was tried in vain for a gate that the artifact fails.
    """
    made = proven.made
    job = replace(job, scheme=made.job.scheme)
    path, facts = made.path, made.facts
    if job.profile.name != made.job.profile.name:
        path = run.writer.folder(job.profile.name) / made.path.name
        copy_tree(made.path, path)
    if job.profile.operators.table is not None:
        request = InspectRequest(format=job.format, profile=job.profile, out=path)
        facts = run.ask("inspect", job.profile.name, request, Facts)
    found, numbers = _verdicts(run, proven, job, evaluated), evaluated.numbers
    lost = blamed(run.programs, job) if job.scheme.integer and verdicts.is_far(proven.proof, found) else ""
    result = TargetResult(
        target=job.profile.name,
        format=job.format,
        status="ok",
        plan=replace(made.plan, target=job.profile.name, decisions=(*_decisions(run, made, job), *_samples(proven, data))),
        artifact=_artifact(job, path, facts),
        verdicts=tuple(found),
        accuracy=numbers,
        accuracy_interval=gates.interval(numbers, evaluated.paired.rows) if evaluated.paired else None,
        warnings=(
            *_warnings(run, made, job, facts, data),
            *verdicts.warnings(proven.proof, found, bool(numbers), lost),
            *(_unsteady(run) if numbers else ()),
            *(said for verdict in found if not exact(job) for said in gates.unsure(verdict, evaluated.paired)),
        ),
        calibrated=not job.scheme.integer or data.calibrated.real,
    )
    return replace(_with_status(result, job, missed, lost), **_unproven(proven))


def failed_result(job: Job, error: EdgeoptError) -> TargetResult:
    """The result of a job that ended in ``error``: skipped where there was nothing to do."""
    status: Status = "skipped" if isinstance(error, NotApplicable) else "failed"
    name = "" if status == "skipped" else type(error).__name__
    return TargetResult(target=job.profile.name, format=job.format, status=status, reason=error.message(), error=name)


def _verdicts(run: ExportRun, proven: Proven, job: Job, evaluated: Evaluated) -> list[Verdict]:
    found = list(verdicts.judge(proven.proof, job.profile.checks))
    if proven.proof is not None:
        found += gates.nearness(proven.proof, run.options.min_sqnr, run.options.min_agreement)
    if run.options.max_size is not None and (job.profile.name != TWIN or TWIN in run.options.targets):
        found.append(gates.size(size_of(proven.made.path), run.options.max_size, job.format, proven.made.job.scheme.integer))
    if not evaluated.numbers:
        return found
    compared = proven.proof.compared if proven.proof else ""
    return [*found, *_gates(run.model_numbers.found, evaluated, run.options, compared)]


def _gates(model: dict[str, float], evaluated: Evaluated, options: Options, compared: str) -> list[Verdict]:
    """The gates' verdicts. Raises EvaluationError where the numbers that they need are not there."""
    metric, artifact = next(iter(model)), evaluated.numbers
    if metric not in artifact:
        raise EvaluationError(f"evaluate gave {metric} for the model, not for the artifact", fix="always return the same names")
    odd = sorted(set(slices(model, metric)) ^ set(slices(artifact, metric)))
    if odd and options.max_slice_drop is not None:
        one, other = ("model", "artifact") if odd[0] in model else ("artifact", "model")
        why = f"{len(odd)} of its slices stand on one side alone, and --max-slice-drop cannot judge these"
        fix = "always return the same names: slices of the data, not of what was predicted"
        raise EvaluationError(f"evaluate gave {odd[0]} for the {one}, not for the {other}", why=why, fix=fix)
    whole = gates.accuracy_drop(metric, model[metric], artifact[metric], options.max_drop, compared, evaluated.paired)
    worst = gates.slice_drop(metric, model, artifact, options.max_slice_drop, compared)
    return [whole] if worst is None else [whole, worst]


def _decisions(run: ExportRun, made: Made, job: Job) -> tuple[Decision, ...]:
    if made.job.profile.name == job.profile.name:
        return made.plan.decisions
    reason = "both profiles ask for the same bytes"
    shared = Decision(subject="conversion", choice=f"shared with {made.job.profile.name}", reason=reason)
    own = plan_of(replace(job, refused=made.job.refused), run.captured, Chosen()).decisions
    subjects = {decision.subject for decision in own}
    return (*own, *(decision for decision in made.plan.decisions if decision.subject not in subjects), shared)


def _samples(proven: Proven, data: Data) -> Iterator[Decision]:
    """Why not all samples that were held out are compared."""
    held_out, proof = data.calibrated.held_out_of, proven.proof
    if proof is None or not proof.samples or proof.samples >= held_out:
        return
    if not proof.rows:
        reason = "no output has class scores, and only how many rows agree is told better by more"
    elif proof.samples < data.compared:
        reason = f"more would not end within its share of the {SECONDS:g} s that all artifacts have, or of --timeout"
    elif proof.samples < data.kept:
        reason = f"the model itself would not end with more within {MODEL_SECONDS:g} s"
    else:
        reason = f"at most {MOST} are kept, and at most {HELD_OUT_BYTES >> 20} MiB"
    yield Decision(subject="agreement", choice=f"on {proof.samples} of {held_out} held-out samples", reason=reason)


def _artifact(job: Job, path: Path, facts: Facts) -> Artifact:
    return Artifact(
        path=f"{job.profile.name}/{path.name}",
        format=job.format,
        sha256=sha256_of(path),
        bytes=size_of(path),
        inputs=facts.inputs,
        outputs=facts.outputs,
        structure=facts.structure,
        tool_versions=facts.tool_versions,
    )


def _warnings(run: ExportRun, made: Made, job: Job, facts: Facts, data: Data) -> tuple[str, ...]:
    found = dynamic_shapes.warnings(run.captured.decisions)
    if job.scheme.integer and not data.calibrated.real:
        found.append("UNCALIBRATED: ranges come from the example input alone; give --calibration before you ship this")
    if job.scheme.integer:
        found += outside(data.calibrated, run.captured)
    if made.job.refused:
        refused = "; ".join(f"{one.scheme.describe()} was refused: {one.reason}" for one in made.job.refused)
        found.append(f"made as {made.plan.scheme.describe()}: {refused}{_where(run, made)}")
    found += [f"{one.subject} stays {one.choice}: {one.reason}" for one in border_decisions(made.plan)]
    found += verdicts.mostly_float(made.plan)
    if facts.structure.unsupported:
        found.append(f"{job.profile.name} does not support: {', '.join(facts.structure.unsupported)}")
    if job.profile.status == "legacy":
        found.append(f"legacy target: {job.profile.status_note}")
    return tuple(found)


def _where(run: ExportRun, made: Made) -> str:
    """Where the integers that gave way lost what they were refused for."""
    first = made.job.refused[0]
    is_lost = any(first.reason.startswith(check) for check in verdicts.LOSES_TO_THE_GATE)
    if not (first.scheme.integer and is_lost):
        return ""
    return f"; {blamed(run.programs, replace(made.job, scheme=first.scheme, refused=()))}"


def _unsteady(run: ExportRun) -> Iterator[str]:
    return gates.unsteady(run.model_numbers, run.options.max_drop, run.options.max_slice_drop)


def _with_status(result: TargetResult, job: Job, missed: str, lost: str) -> TargetResult:
    """``result`` with the status that its verdicts give it; the gate's failure wins over others."""
    failed = verdicts.failures(result.verdicts)
    if not failed:
        return result
    gate = any(verdict.check in gates.GATES for verdict in failed)
    error = GateFailed if gate else VerificationFailed
    reason = "; ".join(filter(None, (*map(verdicts.describe, failed), missed)))
    if all(verdict.check in verdicts.LOSES_TO_THE_GATE for verdict in failed):
        reason += "; where --evaluate finds it good enough, --max-drop accepts it"
    if lost and any(verdict.check in verdicts.LOSES_TO_THE_GATE for verdict in failed):
        reason += f"; {lost}"
    if job.strict and job.left:
        reason = f"the scheme {job.scheme.describe()} was refused: {reason}; {job.without_strict}"
    return replace(result, status="failed", reason=reason, error=error.__name__)


def _unproven(proven: Proven) -> dict[str, Any]:
    """What becomes of the result of an artifact that nothing here could run."""
    if not proven.unproven:
        return {}
    return {"status": "unverified", "reason": f"not verified: {proven.unproven}", "error": UnknownOperator.__name__}
