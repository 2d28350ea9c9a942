"""The work of one export, cut into jobs: one per target and format, each with its plan; equal ones share a conversion."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch.fx import GraphModule

from edgeopt import registry
from edgeopt.capture import Captured
from edgeopt.compress.palettized import left_whole
from edgeopt.compress.sparsity import sparse24
from edgeopt.core import TWIN, Decision, Format, KeptFloat, Plan, QuantScheme, SparseLayer, to_data
from edgeopt.errors import MissingExtra
from edgeopt.quantize.graph import operators
from edgeopt.quantize.opening import opened
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.shares import Shares
from edgeopt.quantize.statistics import Statistics
from edgeopt.quantize.weights import left_float
from edgeopt.targets.schema import TargetProfile

DENSE = "dense"


BORDERS = ("input ", "output ")
"""How the subjects of decisions begin that concern one input or output."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen while a program was quantized: the part of a plan that needs the program."""

    kept_float: tuple[KeptFloat, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """Inputs and outputs that stay float although the target asks for integers."""
    shares: Shares | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One target, one format, one scheme of the profile."""

    profile: TargetProfile
    format: Format
    scheme: QuantScheme
    io_float: bool
    earlier: tuple[Decision, ...] = ()
    """Why schemes before this one were given up."""

    @property
    def name(self) -> str:
        """``target/format``: how progress and messages call it."""
        return f"{self.profile.name}/{self.format}"

    @property
    def variant(self) -> str:
        """Which program it starts from: the dense one, or the one with this sparsity."""
        return DENSE if self.profile.sparsity is None else repr(self.profile.sparsity)

    @property
    def needs_data(self) -> bool:
        """Whether the artifact depends on the calibration data, by its ranges or by the weights that pruning leaves."""
        return self.scheme.integer or self.profile.sparsity is not None

    @property
    def alternatives(self) -> tuple[object, ...]:
        """What may lead to another scheme, and to which: the schemes that are left and the checks; nothing for the last."""
        left = self.profile.schemes[self.profile.schemes.index(self.scheme) + 1 :]
        return (left, self.profile.checks) if left else ()

    def conversion(self) -> dict[str, object]:
        """Everything in the profile that the converted bytes depend on: jobs with equal ones share a conversion."""
        profile = self.profile
        return {
            "format": self.format,
            "scheme": to_data(self.scheme),
            "io_float": self.io_float,
            "io": to_data(profile.io),
            "limits": to_data(profile.limits),
            "operators": to_data(replace(profile.operators, table=None)),
            "costs": to_data(profile.costs),
            "variant": self.variant,
        }

    def fallback(self, refusal: str) -> "Job | None":
        """The same target with the profile's next scheme, where it has one; the refusal becomes a recorded decision."""
        schemes = self.profile.schemes
        position = schemes.index(self.scheme) + 1
        if position == len(schemes):
            return None
        reason = f"{self.scheme.describe()} was refused: {refusal}"
        decision = Decision(subject="scheme", choice=schemes[position].describe(), reason=reason)
        return replace(self, scheme=schemes[position], earlier=(*self.earlier, decision))


def jobs_of(profiles: Iterable[TargetProfile], io_float: bool) -> list[Job]:
    """Every artifact to make, the twins first."""
    ordered = sorted(profiles, key=lambda profile: profile.name != TWIN)
    return [
        Job(profile, fmt, profile.schemes[0], float_io(profile, io_float)) for profile in ordered for fmt in profile.formats
    ]


def float_io(profile: TargetProfile, wanted: bool) -> bool:
    """Whether the artifact takes and gives floats: the profile's own choice, or the user's where it can be chosen."""
    own = profile.io.float_type.startswith("float")
    return own or (wanted and "float32" in profile.io.selectable)


def plan_of(job: Job, captured: Captured, chosen: Chosen) -> Plan:
    """The plan of ``job`` with every decision and its reason."""
    sparsity = job.profile.sparsity
    layers: tuple[SparseLayer, ...] = sparse24.considered(captured.program, sparsity) if sparsity else ()
    return Plan(
        target=job.profile.name,
        format=job.format,
        scheme=job.scheme,
        io_float=job.io_float,
        kept_float=chosen.kept_float,
        sparse_layers=layers,
        decisions=(*captured.decisions, *job.earlier, *_decisions(job, layers), *chosen.decisions),
        integer_weights=chosen.shares.weights if chosen.shares else None,
        integer_macs=chosen.shares.macs if chosen.shares else None,
    )


def chosen(job: Job, captured: Captured, module: GraphModule, statistics: Statistics) -> Chosen:
    """What quantizing for ``job`` would choose; nothing for a floating-point scheme. ``module`` is that of the program."""
    if job.scheme.integer:
        whole, observed = opened(module, statistics, job.profile)
        return chosen_by(decide(whole, observed, job.profile, job.scheme, job.io_float), captured)
    if job.scheme.palette_bits:
        return Chosen(left_whole(captured.program, job.scheme))
    return Chosen(left_float(module)) if job.scheme.quantized else Chosen()


def chosen_by(decided: Quantization, captured: Captured) -> Chosen:
    """The planner's choices with the model's own names for inputs and outputs."""
    names = {"input": captured.signature.specs, "output": captured.outputs}
    decisions = tuple(
        Decision(subject=f"{one.side} {names[one.side][one.position].name}", choice="float32", reason=one.reason)
        for one in decided.float_border
    )
    return Chosen(decided.kept_float, decisions, decided.shares)


def border_decisions(plan: Plan) -> tuple[Decision, ...]:
    """Of the plan's decisions those about single inputs and outputs."""
    return tuple(decision for decision in plan.decisions if decision.subject.startswith(BORDERS))


def calibrated_values(module: GraphModule, jobs: Iterable[Job]) -> set[str]:
    """Names of the values whose ranges some integer job may need: not those inside a pattern that every job fuses."""
    fusings = {frozenset(job.profile.operators.fused) for job in jobs if job.scheme.integer}
    ops = [op for fused in fusings for op in operators(module.graph, fused)]
    values = {node.name for op in ops for node in (*op.operands, op.output)}
    return values | {node.name for node in module.graph.nodes if node.op == "placeholder"}


def _decisions(job: Job, layers: tuple[SparseLayer, ...]) -> tuple[Decision, ...]:
    profile, sources = job.profile, job.profile.sources
    found = [] if job.earlier else [_decision("scheme", job.scheme.describe(), sources.get("schemes", ""))]
    io = "float" if job.io_float else profile.io.float_type
    reason = sources.get("io.float_type", "") if job.io_float == profile.io.float_type.startswith("float") else "asked for"
    found.append(_decision("inputs and outputs", io, reason))
    if profile.limits.opset is not None and job.format == "onnx":
        found.append(_decision("opset", str(profile.limits.opset), sources.get("limits.opset", "")))
    if profile.limits.minimum_os is not None:
        found.append(_decision("minimum OS", profile.limits.minimum_os, sources.get("limits.minimum_os", "")))
    found += _as_installed(job.format)
    if layers:
        pruned = sum(layer.pruned for layer in layers)
        found.append(_decision("sparsity 2:4", f"{pruned} of {len(layers)} layers", sources.get("sparsity.pattern", "")))
    if profile.status == "legacy":
        found.append(_decision("status", "legacy", profile.status_note))
    return tuple(found)


def _as_installed(fmt: Format) -> list[Decision]:
    """What this computer and what is installed on it make of the format."""
    try:
        stand_in = registry.converter(fmt).stand_in
    except MissingExtra as missing:
        return [_decision("made here", "no", f"{missing.why}; {missing.fix}")]
    reason = "the format's own runtime does not exist for this system"
    return [_decision("verification", stand_in, reason)] if stand_in else []


def _decision(subject: str, choice: str, reason: str) -> Decision:
    return Decision(subject=subject, choice=choice, reason=reason)
