"""The release gates: what the user's own numbers lose, judged where a limit is given, and whether they can be told at all."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from edgeopt.core import Format, Verdict
from edgeopt.errors import EvaluationError
from edgeopt.model.choices import Paired
from edgeopt.model.repeated import Change, Numbers
from edgeopt.model.slices import falls, is_slice, slices
from edgeopt.support import proportions
from edgeopt.support.proportions import Interval
from edgeopt.verify.verdicts import Proof

GATES = ("accuracy_drop", "slice_drop", "min_sqnr", "min_agreement", "max_size")
"""Checks whose failure is the gate's, not the proof's."""
_ROOM = 1e-9
"""0.9 - 0.8 is more than 0.1 in floats."""


def accuracy_drop(
    metric: str, model: float, artifact: float, max_drop: float | None, compared: str = "", paired: Paired | None = None
) -> Verdict:
    """The release gate: what the first number of ``evaluate`` loses against the float model, judged where a limit is given.

    With ``paired`` rows, and where the number can be the share of them whose class is right, the interval of what it loses.
    """
    drop = model - artifact
    passed = max_drop is None or drop <= max_drop + _ROOM
    note = f"{metric}: model {model:.4f}, artifact {artifact:.4f}"
    verdict = Verdict(check="accuracy_drop", value=drop, limit=max_drop, passed=passed, note=note, compared=compared)
    lost = None if paired is None else _lost(model, artifact, paired)
    if paired is None or lost is None:
        return verdict
    note += f", {paired.differing} of {paired.rows} rows got another class"
    sure = proportions.drop(lost, paired.differing, paired.rows)
    return replace(verdict, note=note, rows=paired.rows, interval=sure)


def interval(numbers: Mapping[str, float], rows: int) -> Interval | None:
    """Of the first number of ``evaluate``, where it can be the share of ``rows`` whose class is right; else None."""
    found = proportions.hits(next(iter(numbers.values())), rows) if numbers and rows else None
    return None if found is None else proportions.wilson(found, rows)


def unsure(verdict: Verdict, paired: Paired | None) -> Iterator[str]:
    """A warning where a gate is passed by what was found, and a drop that fails it is as likely as its interval says."""
    limit, value, sure = verdict.limit, verdict.value, verdict.interval
    if limit is None or value is None or sure is None or paired is None or not verdict.passed or sure[1] <= limit + _ROOM:
        return
    lost = round(value * paired.rows)
    needed = proportions.rows_to_exclude(limit, lost, paired.differing, paired.rows)
    more = f"about {needed:,} would, if they are like these" if needed else "a million more would not"
    yield (
        f"{verdict.check} {value:.3g} is within --max-drop {limit:g}, but {paired.rows:,} rows do not exclude a drop of"
        f" {sure[1]:.3g} (95 %): {more}; let evaluate predict more"
    )


def _lost(model: float, artifact: float, paired: Paired) -> int | None:
    """How many rows less are right; None where the numbers can be no such shares: no more are lost than got another class."""
    before, after = (proportions.hits(value, paired.rows) for value in (model, artifact))
    return None if before is None or after is None or abs(before - after) > paired.differing else before - after


def slice_drop(
    metric: str, model: Mapping[str, float], artifact: Mapping[str, float], max_drop: float | None, compared: str = ""
) -> Verdict | None:
    """What the slice of ``metric`` that lost the most loses, judged where a limit is given; None without slices."""
    fell = falls(model, artifact, slices(model, metric))
    if not fell:
        return None
    worst = fell[0]
    note = f"{worst.name}, the worst of {len(fell)} slices: model {worst.before:.4f}, artifact {worst.after:.4f}"
    passed = max_drop is None or worst.lost <= max_drop + _ROOM
    return Verdict(check="slice_drop", value=worst.lost, limit=max_drop, passed=passed, note=note, compared=compared)


def nearness(proof: Proof, min_sqnr: float | None, min_agreement: float | None) -> Iterator[Verdict]:
    """Whether an artifact is as near to the model as the user asks. Raises EvaluationError where nothing chooses a class."""
    if min_sqnr is not None:
        yield _least(proof, "min_sqnr", "sqnr_float", min_sqnr, "dB")
    if min_agreement is not None:
        if proof.numbers.get("top1_agreement") is None:
            fix = "take min_agreement away, or give min_sqnr or a max_drop of evaluate's number"
            why = "no output of the model is scores of classes, one row for each input"
            raise EvaluationError("--min-agreement has nothing to judge", why=why, fix=fix)
        yield _least(proof, "min_agreement", "top1_agreement", min_agreement, "")


def size(count: int, max_size: int, fmt: Format, integer: bool) -> Verdict:
    """Whether a file of ``count`` bytes is within ``max_size``, with what else there is where it is not."""
    passed = count <= max_size
    fix = "compress the model (edgeopt compress)" if integer else f"an integer target of {fmt} has about a quarter"
    note = "" if passed else fix
    return Verdict(check="max_size", value=float(count), unit="bytes", limit=float(max_size), passed=passed, note=note)


def _least(proof: Proof, gate: str, check: str, limit: float, unit: str) -> Verdict:
    value = proof.numbers.get(check)
    passed = value is not None and value >= limit - _ROOM
    part = proof.parts.get(check, "")
    return Verdict(check=gate, value=value, unit=unit, limit=limit, passed=passed, part=part, compared=proof.compared)


def unsteady(numbers: Numbers, max_drop: float | None, max_slice_drop: float | None) -> Iterator[str]:
    """A warning where ``evaluate`` gave other numbers for the same predictions, with what the gates cannot tell by them."""
    fix = "fix its random seed, and let it take the same inputs each time"
    if numbers.other_inputs:
        yield f"evaluate asks for other inputs each time: part of every difference is that of the inputs; {fix}"
    if not numbers.changes:
        return
    metric = next(iter(numbers.found))
    first = next((change for change in numbers.changes if change.name == metric), None)
    others = [change for change in numbers.changes if change is not first]
    told = [*filter(None, [first]), *others[:1]]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    blind = []
    if first is not None and max_drop is not None:
        blind.append(_blind("--max-drop", max_drop, first))
    worst = next((change for change in others if is_slice(change.name, metric)), None)
    if worst is not None and max_slice_drop is not None:
        blind.append(_blind("--max-slice-drop", max_slice_drop, worst))
    said = "; ".join([f"{', '.join(map(_described, told))}{more}", *blind, fix])
    yield f"evaluate gave other numbers for the same predictions of the float model: {said}"


def _described(change: Change) -> str:
    first, second = ("nothing" if value is None else f"{value:.6g}" for value in (change.first, change.second))
    return f"{change.name} {first}, then {second}"


def _blind(option: str, limit: float, change: Change) -> str:
    if change.first is None or change.second is None:
        return f"{option} {limit:g} cannot judge {change.name}"
    return f"{option} {limit:g} cannot tell a drop of {change.name} below {change.size:.3g}"
