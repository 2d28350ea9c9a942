import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeopt import verify
from edgeopt.core import to_json
from edgeopt.targets.schema import Checks

finite = arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32))
anything = arrays.arrays(np.float32, 8, elements=st.floats(width=32))


def one(*values: float) -> list[tuple[np.ndarray, ...]]:
    return [(np.asarray(values, np.float32),)]


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        (one(1, 0), one(1, 0.1), 20.0),
        (one(2, 2), one(2, 4), 10 * math.log10(2)),
        (one(3, 4), one(3, 4), verify.MAX_SQNR_DB),
        (one(0, 0), one(0, 0), verify.MAX_SQNR_DB),
        (one(0, 0), one(0, 1), -verify.MAX_SQNR_DB),
        (one(1, 2), one(1, math.nan), -verify.MAX_SQNR_DB),
        (one(1, 2), one(math.inf, 2), -verify.MAX_SQNR_DB),
    ],
)
def test_sqnr_is_signal_over_noise_in_decibel(reference: verify.Outputs, candidate: verify.Outputs, expected: float) -> None:
    assert verify.sqnr_db(reference, candidate) == pytest.approx(expected, abs=1e-4)


def test_the_worst_output_counts_over_all_samples() -> None:
    good, bad = np.ones(4, np.float32), np.full(4, 1.1, np.float32)
    reference = [(good, good), (good, good)]
    assert verify.sqnr_db(reference, [(good, bad), (good, good)]) == pytest.approx(10 * math.log10(8 / (4 * 0.01)), abs=1e-3)
    assert verify.max_abs_error(reference, [(good, bad), (good, good)]) == pytest.approx(0.1)
    assert verify.cosine([(good, one(1, 0)[0][0])], [(good, one(0, 1)[0][0])]) == 0


@given(finite)
def test_what_is_equal_is_perfect(value: np.ndarray) -> None:
    same = [(value,)]
    assert verify.sqnr_db(same, same) == verify.MAX_SQNR_DB
    assert verify.cosine(same, same) == pytest.approx(1)
    assert verify.max_abs_error(same, same) == 0


@given(anything, anything)
def test_every_number_has_a_place_in_json(reference: np.ndarray, candidate: np.ndarray) -> None:
    pair = [(reference,)], [(candidate,)]
    with np.errstate(all="ignore"):
        numbers = [verify.sqnr_db(*pair), verify.cosine(*pair), verify.max_abs_error(*pair)]
    assert all(number is None or math.isfinite(number) for number in numbers)


def test_cosine_of_opposite_and_of_zero_vectors() -> None:
    assert verify.cosine(one(1, 2), one(-1, -2)) == pytest.approx(-1)
    assert verify.cosine(one(0, 0), one(0, 0)) == 1
    assert verify.cosine(one(1, 0), one(0, 0)) == 0


def test_no_largest_difference_where_a_value_is_not_finite() -> None:
    assert verify.max_abs_error(one(1, 2), one(1, math.nan)) is None


def test_top1_agreement_is_of_class_scores_only() -> None:
    scores = [(np.array([[1.0, 2, 3], [3, 2, 1]]),)]
    other = [(np.array([[1.0, 2, 3], [3, 2, 4]]),)]
    assert verify.top1_agreement(scores, other) == 0.5
    assert verify.top1_agreement([(np.ones((2, 1)),)], [(np.ones((2, 1)),)]) is None
    assert verify.top1_agreement([(np.ones((1, 3, 3)),)], [(np.ones((1, 3, 3)),)]) is None
    assert verify.top1_agreement([(scores[0][0], scores[0][0])], [(scores[0][0], scores[0][0])]) is None


def numbers(program: float | None, against_float: float, quantization: float) -> dict[str, float | None]:
    return {
        "sqnr_program": program, "sqnr_float": against_float, "sqnr_quantization": quantization, "cosine_float": 0.9,
        "max_abs_error": 0.1, "top1_agreement": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("program", "against_float", "quantization", "failed"),
    [
        (40.0, 25.0, 25.0, []),
        (19.0, 25.0, 25.0, ["sqnr_program"]),
        (15.0, 12.0, 14.0, []),
        (11.5, 12.0, 14.0, []),
        (10.5, 12.0, 14.0, ["sqnr_program"]),
        (40.0, -1.0, -1.0, ["sqnr_float"]),
        (None, -200.0, 20.0, ["sqnr_program", "sqnr_float"]),
    ],
)
def test_lowering_may_cost_as_much_as_quantization_did_or_the_profile_s_limit(
    program: float | None, against_float: float, quantization: float, failed: list[str]
) -> None:
    verdicts = verify.judge(numbers(program, against_float, quantization), Checks(program_sqnr_db=20, float_sqnr_db=0))
    assert [verdict.check for verdict in verdicts if not verdict.passed] == failed
    assert "top1_agreement" not in [verdict.check for verdict in verdicts]


def test_an_artifact_that_cannot_run_here_has_no_verdicts() -> None:
    assert verify.judge({}, Checks()) == ()


@pytest.mark.parametrize(
    ("artifact", "limit", "passed"), [(0.89, 0.01, True), (0.88, 0.01, False), (0.1, None, True), (0.95, 0, True)]
)
def test_the_gate_judges_the_loss_against_its_limit(artifact: float, limit: float | None, passed: bool) -> None:
    verdict = verify.accuracy_drop("top1", 0.9, artifact, limit)
    assert verdict.passed == passed
    assert "0.9000" in verdict.note
    assert f"{artifact:.4f}" in verdict.note


def test_a_failed_check_is_described_with_both_numbers() -> None:
    verdict = verify.accuracy_drop("top1", 0.9, 0.5, 0.01)
    assert verify.describe(verdict) == "accuracy_drop 0.4, limit 0.01 (top1: model 0.9000, artifact 0.5000)"
    assert verify.describe(verify.judge(numbers(None, 1, 9), Checks())[0]) == "sqnr_program not finite, limit 6 dB"
    assert json.loads(to_json(verdict))["passed"] is False


def test_slower_than_the_twin_is_a_verdict() -> None:
    assert verify.speed(0.5).passed
    assert not verify.speed(1.2).passed
