"""Plans: what would be made, or was made, of a model for each target, and the reason for every choice."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import GraphModule

from edgeopt import registry
from edgeopt.capture import Captured, capture
from edgeopt.core import Decision, Format, KeptFloat, Plan, Quality, SparseLayer
from edgeopt.errors import MissingExtra
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.jobs import DENSE, Job, jobs_of
from edgeopt.pipeline.selection import asked
from edgeopt.pipeline.tables import costed
from edgeopt.pipeline.torch_threads import one_torch_thread
from edgeopt.quantize import sparse24
from edgeopt.quantize.calibrate import calibrate
from edgeopt.quantize.gradients import Weighed
from edgeopt.quantize.opening import opened
from edgeopt.quantize.palettized import left_whole
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.rounding import LEAST_SAMPLES
from edgeopt.quantize.shares import Left, Shares
from edgeopt.quantize.statistics import Statistics
from edgeopt.quantize.weights import left_float
from edgeopt.support.log_diversion import dropped
from edgeopt.support.progress import Listener, event, ignore

BORDERS = ("input ", "output ")
"""How the subjects of decisions begin that concern one input or output."""


QUALITIES: dict[Quality, str] = {
    "fast": "ranges from the data, every weight rounded to the nearest, nothing equalized",
    "balanced": "activations are equalized, ranges chosen by what outputs feel, and weights rounded against the data",
    "best": "as balanced, and ranges are chosen by what they do to the outputs",
}
"""What is done for integer targets at each."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen while a program was quantized: the part of a plan that needs the program."""

    kept_float: tuple[KeptFloat, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """Inputs and outputs that stay float although the target asks for integers."""
    shares: Shares | None = None
    float_macs: float | None = None
    """Share of the work that belongs to ``kept_float``."""


def plan(
    model: Model, options: Options, listen: Listener = ignore, captured: Captured | None = None
) -> tuple[Plan, ...]:  # fmt: skip
    """What an export would make for each target, and why; makes nothing. Ranges come from the example input alone.

    Needs the extra ``torch`` alone: that a format's own is not installed is a decision of its plans.
    ``captured``: the capture of ``model``, where the caller has it.
    """
    with dropped(), one_torch_thread():
        if captured is None:
            listen(event("model", "capture"))
            captured = capture(model)
        module = captured.program.module(check_guards=False)
        statistics = calibrate({DENSE: module}, captured.signature, captured.example, None).statistics[DENSE]
        plans = []
        jobs = jobs_of(asked(options.targets), options.io_float, options.strict_scheme, options.quality)
        for job in costed(jobs, captured.program, options.latency_table):
            listen(event(job.name, "plan"))
            plans.append(plan_of(job, captured, chosen(job, captured, module, statistics)))
        return tuple(plans)


def plan_of(job: Job, captured: Captured, chosen: Chosen) -> Plan:
    """The plan of ``job`` with every decision and its reason."""
    sparsity = job.profile.sparsity
    layers: tuple[SparseLayer, ...] = sparse24.considered(captured.program, sparsity) if sparsity else ()
    return Plan(
        target=job.profile.name,
        format=job.format,
        scheme=job.scheme,
        io_float=job.io_float,
        refused=job.refused,
        kept_float=chosen.kept_float,
        sparse_layers=layers,
        decisions=(*captured.decisions, *_scheme_decisions(job), *_decisions(job, layers), *chosen.decisions),
        integer_weights=chosen.shares.weights if chosen.shares else None,
        integer_macs=chosen.shares.macs if chosen.shares else None,
        float_macs=chosen.float_macs,
    )


def chosen_by(decided: Quantization, captured: Captured, others: tuple[Decision, ...] = ()) -> Chosen:
    """The planner's choices with the model's own names for inputs and outputs, and what was decided besides."""
    names = {"input": captured.signature.specs, "output": captured.outputs}
    decisions = tuple(
        Decision(subject=f"{one.side} {names[one.side][one.position].name}", choice="float32", reason=one.reason)
        for one in decided.float_border
    )
    ranked = what_is_ranked(decided, [captured.outputs[one.position].name for one in decided.kept_apart])
    return Chosen(decided.kept_float, (*decisions, *ranked, *others), decided.shares, 1 - decided.shares.macs)


def what_is_ranked(decided: Quantization, apart: Sequence[str]) -> tuple[Decision, ...]:
    """What was done so that nothing ties where outputs are ranked; ``apart``: the names of ``decided.kept_apart``."""
    found = [
        _decision(f"parts of output {name}", "kept apart, in float", one.reason)
        for name, one in zip(apart, decided.kept_apart, strict=True)
    ]
    if decided.float_last:
        reason = "outputs are made of their results, and in 256 levels what is ranked would tie; weights stay 8-bit"
        found.append(_decision("last layers", f"float results: {', '.join(decided.float_last)}", reason))
    if decided.ranked:
        reason = "cut off, the greatest would tie just where outputs are ranked"
        choice = f"up to the greatest value seen, for {len(decided.ranked)} values that outputs are made of"
        found.append(_decision("ranges", choice, reason))
    return tuple(found)


def remedies(decided: Quantization, values: int, samples: int, weighed: Weighed | None = None) -> tuple[Decision, ...]:
    """What was done for accuracy: ``values`` equalized, ranges ``weighed``, and weights rounded against ``samples`` samples."""
    found = []
    if values:
        reason = "channels that share an 8-bit scale fill it; weights before and behind are scaled, and the model is the same"
        found.append(Decision(subject="activations", choice=f"{values} values equalized", reason=reason))
    if weighed is not None and weighed.samples:
        reason = f"an error counts by how much outputs feel it: by the gradients of {weighed.samples} samples"
        found.append(Decision(subject="errors of activations", choice="weighed by the outputs", reason=reason))
    elif weighed is not None and samples > 1:
        found.append(Decision(subject="errors of activations", choice="all alike", reason=weighed.unknown))
    if decided.range_samples:
        reason = f"they hurt the outputs least, by {decided.range_samples} samples of which half only judge"
        choice = f"chosen by their outputs for {decided.ranges_changed} of {decided.ranges_tried} groups of values"
        found.append(Decision(subject="ranges of activations", choice=choice, reason=reason))
    layers = sum(op.weight is not None for op in decided.integer)
    if decided.rounded:
        reason = "it leaves less error in what the layers give, on samples apart; elsewhere the nearest does as well"
        choice = f"rounded against {samples} samples in {decided.rounded} of {layers} layers"
        found.append(Decision(subject="weights", choice=choice, reason=reason))
    elif layers and 1 < samples < LEAST_SAMPLES:
        reason = f"{samples} calibration samples are too few to round against: {LEAST_SAMPLES} at least"
        found.append(Decision(subject="weights", choice="rounded to the nearest", reason=reason))
    return tuple(found)


def chosen_of(left: Left) -> Chosen:
    """What is chosen where weights alone are quantized."""
    return Chosen(left.kept, float_macs=left.macs)


def border_decisions(plan: Plan) -> tuple[Decision, ...]:
    """Of the plan's decisions those about single inputs and outputs."""
    return tuple(decision for decision in plan.decisions if decision.subject.startswith(BORDERS))


def chosen(job: Job, captured: Captured, module: GraphModule, statistics: Statistics) -> Chosen:
    """What quantizing for ``job`` would choose; nothing for a floating-point scheme. ``module`` is that of the program."""
    if job.scheme.integer:
        whole, observed = opened(module, statistics, job.profile)
        return chosen_by(decide(whole, observed, job.profile, job.scheme, job.io_float), captured)
    if job.scheme.palette_bits:
        return chosen_of(left_whole(captured.program, job.scheme))
    return chosen_of(left_float(module)) if job.scheme.quantized else Chosen()


def _scheme_decisions(job: Job) -> list[Decision]:
    """The scheme with its source, or each one that took the place of a refused one; and that none may, where it is so."""
    schemes = [*(one.scheme for one in job.refused), job.scheme]
    found = [
        _decision("scheme", taken.describe(), f"{one.scheme.describe()} was refused: {one.reason}")
        for one, taken in zip(job.refused, schemes[1:], strict=True)
    ]
    found = found or [_decision("scheme", job.scheme.describe(), job.profile.sources.get("schemes", ""))]
    return [*found, _decision("if that is refused", "nothing else", "--strict-scheme")] if job.strict and job.left else found


def _decisions(job: Job, layers: tuple[SparseLayer, ...]) -> tuple[Decision, ...]:
    profile, sources = job.profile, job.profile.sources
    io = "float" if job.io_float else profile.io.float_type
    reason = sources.get("io.float_type", "") if job.io_float == profile.io.float_type.startswith("float") else "asked for"
    found = [_decision("inputs and outputs", io, reason)]
    if profile.limits.opset is not None and job.format == "onnx":
        found.append(_decision("opset", str(profile.limits.opset), sources.get("limits.opset", "")))
    if profile.limits.minimum_os is not None:
        found.append(_decision("minimum OS", profile.limits.minimum_os, sources.get("limits.minimum_os", "")))
    if job.scheme.integer and profile.costs.measured is not None:
        found.append(_decision("costs", "measured", profile.costs.measured.source))
    if job.scheme.integer:
        found.append(_decision("quality", job.quality, QUALITIES[job.quality]))
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
