"""Makes and proves artifacts in worker processes: lower, check, evaluate, time. One instance serves one export, any thread."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeopt import evaluation, registry, verify
from edgeopt.bundle import BundleWriter, log_name
from edgeopt.cache import Cache
from edgeopt.calibrate import Calibrated, outside
from edgeopt.capture import Captured, dynamic_shapes
from edgeopt.converters import proving
from edgeopt.core import (
    Artifact,
    Decision,
    Latency,
    Plan,
    Status,
    Structure,
    TargetResult,
    TensorSpec,
    Verdict,
    from_data,
    from_json,
    to_data,
    to_json,
)
from edgeopt.errors import (
    ConversionError,
    EdgeoptError,
    EvaluationError,
    GateFailed,
    NotApplicable,
    UnknownOperator,
    VerificationFailed,
)
from edgeopt.files import copy_tree, remove, sha256_of, size_of
from edgeopt.fingerprint import own_code
from edgeopt.jobs import Chosen, Job, border_decisions, plan_of
from edgeopt.model import Evaluate
from edgeopt.options import Listener, Options
from edgeopt.programs import Programs
from edgeopt.progress import event
from edgeopt.reference_file import References
from edgeopt.steadiness import steadiness
from edgeopt.untrusted import RECORD_BYTES, read
from edgeopt.verify import Proof
from edgeopt.worker.client import WorkerHost

FACTS = "facts.json"
TIMING_THREADS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A converted artifact before it is judged: where it is, and all that was found out about it."""

    job: Job
    path: Path
    plan: Plan
    facts: dict[str, Any]
    program: Path | None
    """The program it was lowered from; None where the artifact came from the cache."""
    key: str
    proof: Proof | None = None
    """None until it is checked, and where nothing here can run it."""
    unproven: str = ""
    """Why nothing here could run it."""


@dataclass(slots=True)
class Workshop:
    """Everything the stages of one export need."""

    captured: Captured
    programs: Programs
    host: WorkerHost
    writer: BundleWriter
    cache: Cache
    options: Options
    listen: Listener
    evaluate: Evaluate | None
    model_accuracy: dict[str, float]
    calibrated: Calibrated | None = None
    references: Path | None = None
    keys: dict[str, str] = field(default_factory=dict)
    """The cache's key of each artifact, by its path in the bundle."""
    _evaluating: threading.Lock = field(default_factory=threading.Lock)

    def convert(self, job: Job) -> Made:
        """Lowers ``job``; where its scheme is refused and the profile has another, that one, with the refusal recorded."""
        try:
            return self._convert(job)
        except ConversionError as error:
            other = job.fallback(": ".join(filter(None, (error.what, error.why))))
            if other is None:
                raise
            self.listen(event(job.name, "convert", f"falling back to {other.scheme.describe()}"))
            return self.convert(other)

    def _convert(self, job: Job) -> Made:
        out = self.writer.folder(job.profile.name) / f"model{registry.converter(job.format).suffix}"
        key = self._key(job)
        stored = self._stored(key, out)
        if stored is not None:
            self.listen(event(job.name, "convert", "unchanged: from the cache"))
            plan = plan_of(job, self.captured, from_data(Chosen, stored["chosen"]))
            return Made(job=job, path=out, plan=plan, facts=stored["facts"], program=None, key=key)
        self.listen(event(job.name, "quantize" if job.scheme.quantized else "plan", job.scheme.describe()))
        program, chosen = self.programs.saved(job)
        self.listen(event(job.name, "convert"))
        request = {"program": str(program), "io_float": job.io_float, "output_names": [s.name for s in self.captured.outputs]}
        facts = self._run("convert", job, out, request)
        plan = plan_of(job, self.captured, chosen)
        with self.cache.building(key) as folder:
            copy_tree(out, folder / out.name)
            # Not the plan: its reasons belong to the way that led here, which the key does not cover.
            stored = {"facts": facts, "chosen": to_data(chosen), "sha256": sha256_of(out)}
            (folder / FACTS).write_text(to_json(stored))
        return Made(job=job, path=out, plan=plan, facts=facts, program=program, key=key)

    def _stored(self, key: str, out: Path) -> dict[str, Any] | None:
        """What is known of the artifact under ``key``, copied to ``out``; None where it is not there as it was made."""
        entry = self.cache.get(key)
        if entry is None or not self.cache.link(key, out.name, out):
            return None
        try:
            stored = from_json(dict[str, Any], read(entry / FACTS, RECORD_BYTES))
            if stored["sha256"] == sha256_of(out) and isinstance(stored["facts"], dict):
                from_data(Chosen, stored["chosen"])
                return stored
        except (OSError, ValueError, KeyError):  # anybody may have written it: then it counts as missing
            pass
        remove(out)
        return None

    def check(self, made: Made) -> Made:
        """Compares the artifact with its program and the user's own module, where it can run here.

        The numbers depend on what the user's own module gives, and on which inputs; the bytes of the artifact do not.
        So they stand in the cache under a key of their own.
        """
        if not registry.converter(made.job.format).runs_here:
            return replace(made, unproven="its format has no runtime on this machine")
        kernels = proving.kernels(registry.converter(made.job.format))
        key = Cache.key("proof", made.key, sha256_of(made.path), sha256_of(self.references) if self.references else "", kernels)
        if (found := self.cache.get_json(key)) is None:
            scheme = made.job.scheme
            exact = scheme.activation == scheme.weight == "float32"
            real = self.calibrated is not None and self.calibrated.real
            request = {"program": str(self._program(made)), "quantized": scheme.quantized, "exact": exact, "real": real}
            try:
                found = self._run("check", made.job, made.path, request)
            except UnknownOperator as error:
                return replace(made, unproven=error.message())
            if exact:
                found = to_data(self._excused(from_data(Proof, found), made.job))
            self.cache.put_json(key, found)
        return replace(made, proof=from_data(Proof, found))

    def _excused(self, proof: Proof, job: Job) -> Proof:
        """Where a float32 artifact fails, with how near the model stays to itself: nothing can be nearer."""
        if self.references is None or not verify.failures(verify.judge(proof, job.profile.checks)):
            return proof
        excused = replace(proof, steady=steadiness(self.captured, References.read(self.references)))
        return proof if verify.failures(verify.judge(excused, job.profile.checks)) else excused

    def proven(self, made: Made) -> tuple[Made, dict[str, float]]:
        """``made``, checked, and the user's numbers for it.

        Where a check fails and the profile has another scheme, the same of that one, with the failure recorded.
        """
        made = self.check(made)
        accuracy = self.accuracy(made)
        verdicts = (*verify.judge(made.proof, made.job.profile.checks), *self._gate(made, accuracy))
        failed = [verify.describe(verdict) for verdict in verify.failures(verdicts)]
        other = made.job.fallback("; ".join(failed)) if failed else None
        if other is None:
            return made, accuracy
        self.listen(event(made.job.name, "convert", f"{failed[0]}: falling back to {other.scheme.describe()}"))
        return self.proven(self.convert(other))

    def _program(self, made: Made) -> Path:
        """The program of ``made``, written now where the artifact came from the cache without its numbers."""
        return made.program or self.programs.saved(made.job)[0]

    def result(self, made: Made, job: Job, accuracy: dict[str, float]) -> TargetResult:
        """The judged result of ``job``, which may share the artifact of another target's job."""
        facts, path = made.facts, made.path
        if job.profile.name != made.job.profile.name:
            path = self.writer.folder(job.profile.name) / made.path.name
            copy_tree(made.path, path)
        if job.profile.operators.table is not None:
            facts = facts | self._run("inspect", job, path, {})
        verdicts = [*verify.judge(made.proof, job.profile.checks), *self._gate(made, accuracy)]
        structure = from_data(Structure, facts["structure"])
        self.keys[f"{job.profile.name}/{path.name}"] = made.key
        result = TargetResult(
            target=job.profile.name,
            format=job.format,
            status="ok",
            plan=replace(made.plan, target=job.profile.name, decisions=self._decisions(made, job)),
            artifact=self._artifact(job, path, facts, structure),
            verdicts=tuple(verdicts),
            accuracy=accuracy,
            warnings=(*self._warnings(made, job, structure), *verify.warnings(made.proof, verdicts, bool(accuracy))),
            calibrated=not job.scheme.integer or self.calibrated is None or self.calibrated.real,
        )
        return replace(judged(result), **_unproven(made))

    def accuracy(self, made: Made) -> dict[str, float]:
        """The user's numbers for the artifact; empty without ``evaluate`` or where the artifact cannot run here."""
        if self.evaluate is None or made.unproven:
            return {}
        self.listen(event(made.job.name, "evaluate"))
        request = {"format": made.job.format, "out": str(made.path), "threads": 1}
        with self._evaluating, self._session(made.job, request) as session:
            return evaluation.evaluate(self.evaluate, session.call, self.captured.signature.specs, made.job.name)

    def latency(self, result: TargetResult, twin: Path, out: Path) -> Latency:
        """Median times of an artifact and its twin, alone on the machine."""
        self.listen(event(f"{result.target}/{result.format}", "time"))
        request = {"format": result.format, "out": str(out), "twin": str(twin), "references": str(self.references)}
        logs = self._logs(result.target, result.format)
        found = self.host.run("time", request | {"threads": TIMING_THREADS}, timeout_s=self.options.timeout_s, **logs)
        return from_data(Latency, found)

    def _run(self, task: str, job: Job, out: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        profile = replace(job.profile, schemes=(job.scheme,))  # converters take the first
        common = {"format": job.format, "profile": to_data(profile), "out": str(out), "references": str(self.references)}
        logs = self._logs(job.profile.name, job.format)
        return self.host.run(task, common | dict(request), timeout_s=self.options.timeout_s, **logs)

    def _session(self, job: Job, request: dict[str, Any]) -> Any:
        logs = self._logs(job.profile.name, job.format)
        return self.host.session("predict", request, timeout_s=self.options.timeout_s, **logs)

    def _logs(self, target: str, fmt: str) -> dict[str, Path]:
        log = self.writer.log_folder / log_name(target, fmt)
        return {"log": log, "shown_log": self.writer.committed(log)}

    def _key(self, job: Job) -> str:
        data = self.calibrated.digest if job.needs_data and self.calibrated else ""
        tools = registry.converter(job.format).tool_versions()
        return Cache.key(own_code(), self.captured.sha256(), data, job.conversion(), tools)

    def _gate(self, made: Made, accuracy: dict[str, float]) -> list[Verdict]:
        if not accuracy:
            return []
        metric = next(iter(self.model_accuracy))
        if metric not in accuracy:
            raise EvaluationError(
                f"evaluate gave {metric} for the model, not for the artifact", fix="always return the same names"
            )
        compared = made.proof.compared if made.proof else ""
        return [verify.accuracy_drop(metric, self.model_accuracy[metric], accuracy[metric], self.options.max_drop, compared)]

    def _decisions(self, made: Made, job: Job) -> tuple[Decision, ...]:
        if made.job.profile.name == job.profile.name:
            return made.plan.decisions
        shared = Decision(
            subject="conversion", choice=f"shared with {made.job.profile.name}", reason="both profiles ask for the same bytes"
        )
        own = plan_of(replace(job, earlier=made.job.earlier, scheme=made.job.scheme), self.captured, Chosen()).decisions
        return (*own, *border_decisions(made.plan), shared)

    def _artifact(self, job: Job, path: Path, facts: dict[str, Any], structure: Structure) -> Artifact:
        return Artifact(
            path=f"{job.profile.name}/{path.name}",
            format=job.format,
            sha256=sha256_of(path),
            bytes=size_of(path),
            inputs=tuple(from_data(TensorSpec, spec) for spec in facts["inputs"]),
            outputs=tuple(from_data(TensorSpec, spec) for spec in facts["outputs"]),
            structure=structure,
            tool_versions=facts["tool_versions"],
        )

    def _warnings(self, made: Made, job: Job, structure: Structure) -> tuple[str, ...]:
        found = dynamic_shapes.warnings(self.captured.decisions)
        if job.scheme.integer and self.calibrated is not None and not self.calibrated.real:
            found.append("UNCALIBRATED: ranges come from the example input alone; give --calibration before you ship this")
        if job.scheme.integer and self.calibrated is not None:
            found += outside(self.calibrated, self.captured)
        if made.job.earlier:
            found.append(f"made as {made.plan.scheme.describe()}: {made.job.earlier[-1].reason}")
        found += [f"{one.subject} stays {one.choice}: {one.reason}" for one in border_decisions(made.plan)]
        found += verify.mostly_float(made.plan)
        if structure.unsupported:
            found.append(f"{job.profile.name} does not support: {', '.join(structure.unsupported)}")
        if job.profile.status == "legacy":
            found.append(f"legacy target: {job.profile.status_note}")
        return tuple(found)


def judged(result: TargetResult) -> TargetResult:
    """``result`` with the status that its verdicts give it; the gate's failure wins over others."""
    failed = verify.failures(result.verdicts)
    if not failed:
        return result
    gate = any(verdict.check == "accuracy_drop" for verdict in failed)
    error = GateFailed if gate else VerificationFailed
    reason = "; ".join(map(verify.describe, failed))
    if all(verdict.check in verify.LOSES_TO_THE_GATE for verdict in failed):
        reason += "; where --evaluate finds it good enough, --max-drop accepts it"
    return replace(result, status="failed", reason=reason, error=error.__name__)


def _unproven(made: Made) -> dict[str, Any]:
    """What becomes of the result of an artifact that nothing here could run."""
    if not made.unproven:
        return {}
    return {"status": "unverified", "reason": f"not verified: {made.unproven}", "error": UnknownOperator.__name__}


def failed_result(job: Job, error: EdgeoptError) -> TargetResult:
    """The result of a job that ended in ``error``: skipped where there was nothing to do."""
    status: Status = "skipped" if isinstance(error, NotApplicable) else "failed"
    name = "" if status == "skipped" else type(error).__name__
    return TargetResult(target=job.profile.name, format=job.format, status=status, reason=error.message(), error=name)
