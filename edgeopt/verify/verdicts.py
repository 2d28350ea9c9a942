"""Proof that an artifact computes what it should: its numbers, their limits, the verdicts. docs/trust.md says what they mean.

SQNR is 10 log10(sum reference^2 / sum (reference - candidate)^2) in dB over all samples of one output; of several outputs,
and of channels with scales of their own (:mod:`edgeopt.verify.parts`), the worst counts, and the verdict names it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import field

import numpy as np

from edgeopt.core import SPEED_LIMIT, Plan, Verdict, data_class
from edgeopt.support.proportions import wilson
from edgeopt.support.quantities import written
from edgeopt.targets.schema import Checks
from edgeopt.verify import parts
from edgeopt.verify.agreement import Counts
from edgeopt.verify.parts import MAX_SQNR_DB, Array, Outputs, OutputScales, constant

LOW_SQNR_DB = 10.0
"""Below it a tenth of the output's power is noise: shown as a warning, since only the user's ``evaluate`` can judge it."""
LOW_AGREEMENT = 0.5
"""Below it an artifact chooses another class than its model more often than not: a warning."""
LOWERING_ROOM_DB = 3.0
"""Twice the noise power of quantization: kernels round differently, and a few samples measure it roughly."""
EXACT_DB = 60.0
"""From this limit on an artifact is float32, and its channels are judged as such."""
CHANNEL_ROOM_DB = 20.0
"""What a channel of a float32 artifact may be farther than its output: where large numbers cancel, less is left of the small.
In fewer bits a channel must not be lost, no more: what is rounded is measured by the loud ones."""
UNLIKE_ROOM_DB = 20.0
"""What inputs unlike the example may cost: sums over numbers of another scale round otherwise."""
STEADY_ROOM_DB, LEAST_STEADY_DB = 12.0, 20.0
"""How much farther from a model than that is from itself, moved by one rounding, a float32 artifact may be: 16 times as many
values that fall the other way; and what is asked of it even so."""
LOSES_TO_THE_GATE = ("sqnr_float", "sqnr_float_channel", "constant")
"""Checks that only the user's own numbers can overrule: ``evaluate`` and ``--max-drop`` say that it is good enough."""
CONSTANT_SPREAD = 0.1
"""An output that varies by less of its own scale may well be one integer: then it is a warning."""
ELSEWHERE = "this CPU is not of the target's kind"
MOSTLY_RIGHT_DB = 20.0
"""From here on an output is right on the inputs that it is compared on."""
MOSTLY = 0.5
"""Share of weights and of work below which an artifact does not carry its integer label without a word."""


@data_class
class Proof:
    """What was found out about one artifact.

    ``compared``: what computed the artifact's side. ``numbers``: by check. ``parts``: the output or channel each number is of.
    ``difference``: why this CPU's kernels were not used, and ``here`` the numbers with them. ``steady``: how near the model
    stays to itself (:mod:`edgeopt.verify.steadiness`), where that was asked. ``samples``: of the user's data, those on which
    agreement was counted, and ``rows``: of class scores in them; both 0 where the data is none of the user's.
    """

    compared: str
    numbers: dict[str, float | None] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    constant: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    difference: str = ""
    here: dict[str, float | None] = field(default_factory=dict)
    steady: float | None = None
    samples: int = 0
    rows: int = 0


def compare(
    scales: OutputScales, reference: Outputs, candidate: Outputs, counts: Counts | None = None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Numbers and parts of an artifact's outputs against the model's; ``counts``: of classes on these and on more samples."""
    ratios = parts.sqnr(scales, reference, candidate)
    names = scales.names
    numbers: dict[str, float | None] = {}
    found: dict[str, str] = {}
    for check, is_channel in (("sqnr_float", False), ("sqnr_float_channel", True)):
        chosen = {key: values for key, values in ratios.items() if (key[1] is not None) == is_channel}
        if chosen:
            numbers[check], part = parts.worst(scales, chosen)
            if is_channel or len(names) > 1:
                found[check] = str(part)
    numbers["cosine_float"] = cosine(reference, candidate)
    numbers["max_abs_error"] = max_abs_error(reference, candidate)
    agreement, output = (counts or Counts.of(reference, candidate)).numbers(names)
    return numbers | agreement, found | output


def drowned(names: tuple[str, ...], reference: Outputs, candidate: Outputs) -> Iterator[str]:
    """A warning for each output in which an offset hides that what varies is lost."""
    for name in parts.drowned(names, reference, candidate):
        yield f"what changes in output {name} from input to input is smaller than the artifact's error"


def lowered(
    scales: OutputScales, model: Outputs, program: Outputs, artifact: Outputs
) -> tuple[dict[str, float | None], dict[str, str]]:
    """What lowering cost, and what quantization had cost before, of the output where the former stands out most."""
    whole = OutputScales(scales.names)
    quantization, lowering = parts.sqnr(whole, model, program), parts.sqnr(whole, program, artifact)
    outputs = [key for key in lowering if key[1] is None]

    def room(key: tuple[int, int | None]) -> float:
        limit = min(Checks().program_sqnr_db, float(quantization[key][0]) - LOWERING_ROOM_DB)
        return float(lowering[key][0]) - limit

    key = min(outputs, key=room)
    numbers: dict[str, float | None] = {
        "sqnr_program": float(lowering[key][0]),
        "sqnr_quantization": float(quantization[key][0]),
    }
    part = f"output {scales.names[key[0]]}"
    return numbers, dict.fromkeys(numbers, part) if len(outputs) > 1 else {}


def never_changing(names: tuple[str, ...], seen: tuple[Outputs, Outputs], unlike: tuple[Outputs, Outputs]) -> dict[str, float]:
    """Outputs that are the same in an artifact for every input, and by how much of their scale they vary in the model.

    ``seen`` and ``unlike``: outputs of model and artifact on held-out inputs and on others. Where only the latter make an
    output vary, and it is right on the former, it varies as much as there: integers end where calibration ended.
    """
    found = dict(constant(names, [*seen[0], *unlike[0]], [*seen[1], *unlike[1]]))
    for index, name in enumerate(names):
        if name in found:
            pair = ([(sample[index],) for sample in outputs] for outputs in seen)
            usual = dict(constant((name,), *(one := tuple(pair)))).get(name, 0.0)
            found[name] = usual if usual < CONSTANT_SPREAD and sqnr_db(*one) >= MOSTLY_RIGHT_DB else found[name]
    return found


def sqnr_db(reference: Outputs, candidate: Outputs) -> float:
    """The lowest SQNR of all outputs, in dB; NaN or infinity in the candidate alone counts as no signal at all."""
    ratios = parts.sqnr(OutputScales(tuple(map(str, range(len(reference[0]))))), reference, candidate)
    return min(float(values.min()) for (_, axis), values in ratios.items() if axis is None)


def ordered(inputs: Outputs, reference: Outputs, candidate: Outputs) -> tuple[Outputs, Outputs]:
    """Both sides' outputs, but for integers where all inputs are zero: equal numbers have no order, their places may differ."""

    def kept(sample: tuple[Array, ...], outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        tied = not any(np.any(array) for array in sample)
        return tuple(np.zeros_like(each) if tied and np.issubdtype(each.dtype, np.integer) else each for each in outputs)

    own, other = ([kept(*pair) for pair in zip(inputs, outputs, strict=True)] for outputs in (reference, candidate))
    return own, other


def worst_part_db(reference: Outputs, candidate: Outputs) -> float:
    """The lowest SQNR of all outputs, and of channels whose scales differ, in dB."""
    scales = OutputScales.of(tuple(map(str, range(len(reference[0])))), reference)
    return parts.worst(scales, parts.sqnr(scales, reference, candidate))[0]


def cosine(reference: Outputs, candidate: Outputs) -> float:
    """The lowest cosine similarity of all outputs, each as one vector; 0 where one of them is zero or not finite."""
    return min(
        (_cosine([(r[i], c[i]) for r, c in _pairs(reference, candidate)]) for i in range(len(reference[0]))), default=1.0
    )


def _cosine(pairs: list[tuple[Array, Array]]) -> float:
    with np.errstate(all="ignore"):
        both = [parts.unmasked(one, other) for one, other in pairs]
        product = sum(float(np.vdot(one, other)) for one, other in both)
        lengths = [float(np.sqrt(sum(float(np.vdot(side, side)) for side in sides))) for sides in zip(*both, strict=True)]
        length = lengths[0] * lengths[1]
        value = product / length if length else float(not any(lengths))
    return value if np.isfinite(value) else 0.0


def max_abs_error(reference: Outputs, candidate: Outputs) -> float | None:
    """The largest difference of one element; None where the candidate is not finite."""
    worst = 0.0
    with np.errstate(all="ignore"):
        for sample, other in _pairs(reference, candidate):
            for one, two in zip(sample, other, strict=True):
                left, right = parts.unmasked(one, two)
                worst = max(worst, float(np.max(np.abs(left - right), initial=0.0)), key=_nan_first)
    return worst if np.isfinite(worst) else None


def _nan_first(value: float) -> float:
    return np.inf if np.isnan(value) else value


def _pairs(reference: Outputs, candidate: Outputs) -> Iterator[tuple[tuple[Array, ...], tuple[Array, ...]]]:
    return zip(reference, candidate, strict=True)


def judge(proof: Proof | None, checks: Checks) -> tuple[Verdict, ...]:
    """Verdicts for what is known of one artifact (none where it could not run here).

    ``sqnr_program`` compares with the PyTorch program it was lowered from: the same integers, so only rounding may differ. A
    rounding that falls the other way grows through a deep network just as quantization itself does; so lowering may cost as
    much as quantization did (``sqnr_quantization``, program against float model), or up to the profile's limit.
    ``sqnr_float``, ``sqnr_float_channel`` (the worst channel, where channels differ in scale), ``sqnr_unlike`` (float32, on
    inputs unlike the example) and the rest compare with the user's own module.
    """
    if proof is None:
        return ()
    quantization = proof.numbers.get("sqnr_quantization")
    lowering = checks.program_sqnr_db if quantization is None else min(checks.program_sqnr_db, quantization - LOWERING_ROOM_DB)
    unlike = checks.float_sqnr_db - UNLIKE_ROOM_DB
    limits = {
        "sqnr_program": lowering,
        "sqnr_float": checks.float_sqnr_db,
        "sqnr_float_channel": _channel_limit(checks),
        "sqnr_unlike": unlike if unlike > 0 else None,
    }
    if proof.steady is not None:
        allowed = max(LEAST_STEADY_DB, proof.steady - STEADY_ROOM_DB)
        limits = {check: None if limit is None else min(limit, allowed) for check, limit in limits.items()}
    verdicts = [_verdict(proof, check, limits.get(check)) for check in _known(proof)]
    for name, spread in proof.constant.items():
        note = "the same on every input tried, though the model's own varies"
        passed = spread < CONSTANT_SPREAD
        verdicts.append(
            Verdict(check="constant", value=spread, passed=passed, note=note, part=f"output {name}", compared=proof.compared)
        )
    return tuple(verdicts)


def _channel_limit(checks: Checks) -> float:
    exact = checks.float_sqnr_db >= EXACT_DB
    return checks.float_sqnr_db - CHANNEL_ROOM_DB if exact else min(checks.float_sqnr_db, Checks().float_sqnr_db)


def _known(proof: Proof) -> list[str]:
    judged = ("sqnr_program", "sqnr_float")
    others = ("sqnr_float_channel", "sqnr_unlike", "sqnr_quantization", "cosine_float", "max_abs_error", "top1_agreement")
    return [*judged, *(check for check in others if proof.numbers.get(check) is not None)]


def _verdict(proof: Proof, check: str, limit: float | None) -> Verdict:
    value = proof.numbers.get(check)
    rows = proof.rows if check == "top1_agreement" and value is not None else 0
    return Verdict(
        check=check,
        rows=rows or None,
        interval=wilson(round((value or 0) * rows), rows) if rows else None,
        value=value,
        unit="dB" if check.startswith("sqnr") else "",
        limit=limit,
        passed=limit is None or (value is not None and value >= limit),
        part=proof.parts.get(check, ""),
        compared=proof.compared,
    )


def failures(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that fail an artifact: not speed, and not what the user's own gate has accepted."""
    accepted = any(verdict.check == "accuracy_drop" and verdict.limit is not None and verdict.passed for verdict in verdicts)
    lesser = ("speed", *(LOSES_TO_THE_GATE if accepted else ()))
    return [verdict for verdict in verdicts if not verdict.passed and verdict.check not in lesser]


def is_far(proof: Proof | None, verdicts: Sequence[Verdict]) -> bool:
    """Whether an artifact is so far from its model that one has to know where that is lost."""
    numbers = {} if proof is None else proof.numbers
    limits = {"sqnr_float": LOW_SQNR_DB, "top1_agreement": LOW_AGREEMENT}
    low = [check for check, least in limits.items() if (value := numbers.get(check)) is not None and value < least]
    return bool(low) or any(not verdict.passed and verdict.check in LOSES_TO_THE_GATE for verdict in verdicts)


def warnings(proof: Proof | None, verdicts: Sequence[Verdict], evaluated: bool = False, blamed: str = "") -> Iterator[str]:
    """What a person should know of an artifact beyond its verdicts; ``evaluated``: whether the user's numbers stand beside.

    ``blamed``: where it is lost, as far as that is known.
    """
    if proof is None:
        return
    yield from proof.findings
    where = f"; {blamed}" if blamed else ""
    sqnr = proof.numbers.get("sqnr_float")
    if sqnr is not None and sqnr < LOW_SQNR_DB and not evaluated and not failures(verdicts):
        yield f"far from the float model ({sqnr:.1f} dB): give --evaluate to see what it costs{where}"
    agreement = proof.numbers.get("top1_agreement")
    if agreement is not None and agreement < LOW_AGREEMENT:
        part = f" ({proof.parts['top1_agreement']})" if "top1_agreement" in proof.parts else ""
        yield f"chooses the model's class in {agreement:.1%} of the samples{part}: give --evaluate to see what it costs{where}"
    for verdict in verdicts:
        if verdict.check == "constant" and verdict.passed:
            yield f"{verdict.part} is {verdict.note}"
    failing = failures(verdicts)
    for verdict in verdicts:
        if not verdict.passed and verdict.check in LOSES_TO_THE_GATE and verdict not in failing:
            yield f"{describe(verdict)}: accepted, since --max-drop is met"
    if proof.steady is not None and not failing:
        yield (
            f"moved by one rounding the model differs from itself ({proof.steady:.1f} dB), as where a floor or a comparison "
            f"falls the other way: the artifact may be {STEADY_ROOM_DB:g} dB farther from it"
        )
    if proof.difference:
        yield f"compared as written, since {proof.difference}; run on this CPU, {_loss(proof)}"


def _loss(proof: Proof) -> str:
    """What this CPU's own kernels make of the artifact, beside what it is as written."""
    told = []
    for check, unit in (("sqnr_float", " dB"), ("top1_agreement", "")):
        here, there = proof.here.get(check), proof.numbers.get(check)
        if there is not None:
            told.append(f"{check} {'not finite' if here is None else f'{here:.3g}{unit}'} instead of {there:.3g}{unit}")
    return ", ".join(told)


def speed(ratio: float, own_kind: bool = True) -> Verdict:
    """Time over the fp32 twin's: it warns and does not fail. ``own_kind``: this CPU is of the kind that the target is for; else
    nothing is judged, since the target may well be faster there.
    """
    if not own_kind:
        return Verdict(check="speed", value=ratio, note=f"time here over the fp32 twin's; {ELSEWHERE}")
    note = "time here, on a CPU of the target's kind, over the fp32 twin's"
    return Verdict(check="speed", value=ratio, limit=SPEED_LIMIT, passed=ratio <= SPEED_LIMIT, note=note)


def mostly_float(plan: Plan) -> list[str]:
    """A warning where less than half of an integer artifact's weights or work is computed in integers."""
    weights, macs = plan.integer_weights, plan.integer_macs
    if weights is None or macs is None or min(weights, macs) >= MOSTLY:
        return []
    return [f"{plan.scheme.describe()} holds for {weights:.0%} of the weights and {macs:.0%} of the work: the rest is in float"]


def describe(verdict: Verdict) -> str:
    """One failed or passed check in words, with both numbers and the part that it is of."""
    value = "not finite" if verdict.value is None else written(verdict.value, verdict.unit)
    limit = "" if verdict.limit is None else f", limit {written(verdict.limit, verdict.unit, 'g')}"
    notes = ", ".join(filter(None, (verdict.part, verdict.note)))
    return f"{verdict.check} {value}{limit}" + (f" ({notes})" if notes else "")


__all__ = ["MAX_SQNR_DB", "OutputScales", "Outputs", "Proof", "constant"]
