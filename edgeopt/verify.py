"""Proof that an artifact computes what it should: numbers, limits and verdicts. Needs numpy only.

SQNR is 10 log10(sum reference^2 / sum (reference - candidate)^2) in dB over all samples of one output; of several outputs the
worst counts.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import Verdict
from edgeopt.targets.schema import Checks

Array = NDArray[np.generic]
Outputs = Sequence[tuple[Array, ...]]
"""Outputs of a model: one tuple of arrays per sample."""

LOW_SQNR_DB = 10.0
"""Below it a tenth of the output's power is noise: shown as a warning, since only the user's ``evaluate`` can judge it."""
LOWERING_ROOM_DB = 3.0
"""Twice the noise power of quantization: kernels round differently, and a few samples measure it roughly."""
MAX_SQNR_DB = 200.0
"""Shown for outputs that are equal bit by bit: infinity has no place in JSON."""


def stacked(samples: Outputs) -> list[NDArray[np.float64]]:
    """One flat float64 array per output, over all samples."""
    return [np.concatenate([np.asarray(s[i], np.float64).ravel() for s in samples]) for i in range(len(samples[0]))]


def sqnr_db(reference: Outputs, candidate: Outputs) -> float:
    """The lowest SQNR of all outputs, in dB; NaN or infinity in the candidate counts as no signal at all."""
    return min(_sqnr(r, c) for r, c in zip(stacked(reference), stacked(candidate), strict=True))


def _sqnr(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    noise = float(np.sum((reference - candidate) ** 2))
    if not math.isfinite(noise):
        return -MAX_SQNR_DB
    signal = float(np.sum(reference**2))
    if noise == 0:
        return MAX_SQNR_DB
    return float(np.clip(10 * math.log10(signal / noise), -MAX_SQNR_DB, MAX_SQNR_DB)) if signal else -MAX_SQNR_DB


def cosine(reference: Outputs, candidate: Outputs) -> float:
    """The lowest cosine similarity of all outputs, each as one vector; 0 where one of them is zero or not finite."""
    return min(_cosine(r, c) for r, c in zip(stacked(reference), stacked(candidate), strict=True))


def _cosine(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(reference) * np.linalg.norm(candidate))
    value = float(reference @ candidate) / length if length else float(not reference.any() and not candidate.any())
    return value if math.isfinite(value) else 0.0


def max_abs_error(reference: Outputs, candidate: Outputs) -> float | None:
    """The largest difference of one element; None where the candidate is not finite."""
    worst = max(float(np.max(np.abs(r - c), initial=0.0)) for r, c in zip(stacked(reference), stacked(candidate), strict=True))
    return worst if math.isfinite(worst) else None


def top1_agreement(reference: Outputs, candidate: Outputs) -> float | None:
    """Share of rows with the same greatest column, for a single output of class scores [rows, classes]; else None."""
    shape = np.shape(reference[0][0])
    if len(reference[0]) != 1 or len(shape) != 2 or shape[1] < 2:
        return None
    same = [np.argmax(r[0], -1) == np.argmax(c[0], -1) for r, c in zip(reference, candidate, strict=True)]
    return float(np.concatenate(same).mean())


def judge(numbers: dict[str, float | None], checks: Checks) -> tuple[Verdict, ...]:
    """Verdicts for the numbers of one artifact (empty where it could not run here).

    ``sqnr_program`` compares with the PyTorch program it was lowered from: the same integers, so only rounding may differ. A
    rounding that falls the other way grows through a deep network just as quantization itself does; so lowering may cost as
    much as quantization did (``sqnr_quantization``, program against float model), or up to the profile's limit.
    ``sqnr_float`` and the rest compare with the float model.
    """
    if not numbers:
        return ()
    quantization = numbers["sqnr_quantization"]
    limit = min(checks.program_sqnr_db, MAX_SQNR_DB if quantization is None else quantization - LOWERING_ROOM_DB)
    verdicts = [_at_least("sqnr_program", numbers["sqnr_program"], limit)]
    verdicts.append(_at_least("sqnr_float", numbers["sqnr_float"], checks.float_sqnr_db))
    for name in ("sqnr_quantization", "cosine_float", "max_abs_error", "top1_agreement"):
        if numbers[name] is not None:
            verdicts.append(Verdict(check=name, value=numbers[name], unit="dB" if name.startswith("sqnr") else ""))
    return tuple(verdicts)


def _at_least(check: str, value: float | None, limit: float) -> Verdict:
    return Verdict(check=check, value=value, unit="dB", limit=limit, passed=value is not None and value >= limit)


def accuracy_drop(metric: str, model: float, artifact: float, max_drop: float | None) -> Verdict:
    """The release gate: what the first number of ``evaluate`` loses against the float model, judged where a limit is given."""
    drop = model - artifact
    passed = max_drop is None or drop <= max_drop + 1e-9
    note = f"{metric}: model {model:.4f}, artifact {artifact:.4f}"
    return Verdict(check="accuracy_drop", value=drop, limit=max_drop, passed=passed, note=note)


def speed(ratio: float) -> Verdict:
    """An artifact slower than its fp32 twin must not pass unnoticed; here may not be there, so it warns and does not fail."""
    return Verdict(check="speed", value=ratio, limit=1.0, passed=ratio <= 1.0, note="time here over the fp32 twin's")


def describe(verdict: Verdict) -> str:
    """One failed or passed check in words, with both numbers."""
    value = "not finite" if verdict.value is None else f"{verdict.value:.4g}{f' {verdict.unit}' if verdict.unit else ''}"
    limit = "" if verdict.limit is None else f", limit {verdict.limit:g}{f' {verdict.unit}' if verdict.unit else ''}"
    return f"{verdict.check} {value}{limit}" + (f" ({verdict.note})" if verdict.note else "")
