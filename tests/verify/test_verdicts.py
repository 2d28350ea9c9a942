import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeopt.core import AS_WRITTEN, Plan, QuantScheme, from_data, to_data, to_json
from edgeopt.targets.schema import Checks
from edgeopt.verify import gates
from edgeopt.verify import verdicts as verify
from edgeopt.verify.verdicts import Proof

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


def test_the_agreement_of_several_outputs_is_the_worst_one_s() -> None:
    same, other = np.array([[1.0, 2, 3], [3, 2, 1]]), np.array([[1.0, 2, 3], [3, 2, 4]])
    reference = [(same, same)]
    numbers, found = verify.compare(verify.OutputScales.of(("a", "b"), reference), reference, [(same, other)])
    assert (numbers["top1_agreement"], found["top1_agreement"]) == (0.5, "output b")
    assert found["sqnr_float"] == "output b"


def proof(program: float | None, against_float: float, quantization: float) -> Proof:
    numbers = {
        "sqnr_program": program, "sqnr_float": against_float, "sqnr_quantization": quantization, "cosine_float": 0.9,
        "max_abs_error": 0.1, "top1_agreement": None,
    }  # fmt: skip
    return Proof(compared=AS_WRITTEN, numbers=numbers)


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
    verdicts = verify.judge(proof(program, against_float, quantization), Checks(program_sqnr_db=20))
    assert [verdict.check for verdict in verdicts if not verdict.passed] == failed
    assert "top1_agreement" not in [verdict.check for verdict in verdicts]
    assert {verdict.compared for verdict in verdicts} == {AS_WRITTEN}


def test_an_artifact_that_cannot_run_here_has_no_verdicts() -> None:
    assert verify.judge(None, Checks()) == ()


@pytest.mark.parametrize("silence", [0.0, 1.0, 2.9])
def test_what_is_as_far_from_its_model_as_silence_fails(silence: float) -> None:
    failed = verify.failures(verify.judge(proof(40.0, silence, silence), Checks()))
    assert [verdict.check for verdict in failed] == ["sqnr_float"]


def test_only_the_user_s_own_gate_can_accept_it() -> None:
    far = replace(proof(40.0, -1.0, -1.0), constant={"scores": 0.5})
    verdicts = verify.judge(far, Checks())
    assert [verdict.check for verdict in verify.failures(verdicts)] == ["sqnr_float", "constant"]
    without_limit = (*verdicts, gates.accuracy_drop("top1", 0.9, 0.9, None))
    assert len(verify.failures(without_limit)) == 2
    accepted = (*verdicts, gates.accuracy_drop("top1", 0.9, 0.9, 0.01))
    assert verify.failures(accepted) == []
    told = list(verify.warnings(far, accepted, evaluated=True))
    assert len(told) == 2 and all("accepted, since --max-drop is met" in warning for warning in told)


def test_the_gate_does_not_accept_a_wrong_lowering() -> None:
    verdicts = (*verify.judge(proof(5.0, 25.0, 25.0), Checks()), gates.accuracy_drop("top1", 0.9, 0.9, 0.01))
    assert [verdict.check for verdict in verify.failures(verdicts)] == ["sqnr_program"]


def test_an_output_that_barely_varies_may_be_constant_with_a_warning() -> None:
    still = replace(proof(40.0, 25.0, 25.0), constant={"score": 0.01})
    verdicts = verify.judge(still, Checks())
    assert verify.failures(verdicts) == []
    assert list(verify.warnings(still, verdicts)) == [
        "output score is the same on every input tried, though the model's own varies"
    ]


def test_another_class_more_often_than_not_is_a_warning() -> None:
    found = proof(40.0, 25.0, 25.0)
    for share, count in ((0.49, 1), (0.5, 0)):
        found = replace(found, numbers=found.numbers | {"top1_agreement": share})
        assert len(list(verify.warnings(found, verify.judge(found, Checks())))) == count


def test_where_it_is_lost_is_said_of_what_is_far_and_of_nothing_else() -> None:
    near, far = proof(40.0, 25.0, 25.0), proof(40.0, 8.0, 8.0)
    other_class = replace(near, numbers=near.numbers | {"top1_agreement": 0.4})
    for found, is_far in ((near, False), (far, True), (other_class, True)):
        verdicts = verify.judge(found, Checks())
        assert verify.is_far(found, verdicts) == is_far
        told = list(verify.warnings(found, verdicts, blamed="edgeopt blame"))
        assert [warning for warning in told if warning.endswith("; edgeopt blame")] == told and bool(told) == is_far
    assert not verify.is_far(None, ())


def test_what_this_cpu_would_lose_is_said_with_both_numbers() -> None:
    found = replace(proof(40.0, 18.0, 18.0), difference="its kernels saturate", here={"sqnr_float": 9.0})
    (warning,) = verify.warnings(found, verify.judge(found, Checks()))
    assert "its kernels saturate" in warning and "sqnr_float 9 dB instead of 18 dB" in warning


def test_float_artifacts_are_judged_on_inputs_unlike_the_example_and_channel_by_channel() -> None:
    found = proof(110.0, 110.0, 200.0)
    numbers = found.numbers | {"sqnr_unlike": 30.0, "sqnr_float_channel": 39.0}
    verdicts = verify.judge(replace(found, numbers=numbers), Checks(program_sqnr_db=60, float_sqnr_db=60))
    assert [(v.check, v.limit) for v in verify.failures(verdicts)] == [("sqnr_float_channel", 40), ("sqnr_unlike", 40)]


@pytest.mark.parametrize(
    ("artifact", "limit", "passed"), [(0.89, 0.01, True), (0.88, 0.01, False), (0.1, None, True), (0.95, 0, True)]
)
def test_the_gate_judges_the_loss_against_its_limit(artifact: float, limit: float | None, passed: bool) -> None:
    verdict = gates.accuracy_drop("top1", 0.9, artifact, limit)
    assert verdict.passed == passed
    assert "0.9000" in verdict.note
    assert f"{artifact:.4f}" in verdict.note


def test_a_failed_check_is_described_with_both_numbers() -> None:
    verdict = gates.accuracy_drop("top1", 0.9, 0.5, 0.01)
    assert verify.describe(verdict) == "accuracy_drop 0.4, limit 0.01 (top1: model 0.9000, artifact 0.5000)"
    assert verify.describe(verify.judge(proof(None, 1, 9), Checks())[0]) == "sqnr_program not finite, limit 6 dB"
    named = replace(proof(5, 25, 25), parts={"sqnr_program": "output boxes"})
    assert verify.describe(verify.judge(named, Checks())[0]) == "sqnr_program 5 dB, limit 20 dB (output boxes)"
    assert json.loads(to_json(verdict))["passed"] is False


def test_slower_than_the_twin_is_a_verdict() -> None:
    assert verify.speed(0.5).passed
    assert verify.speed(1.04).passed  # two timings of one file differ by as much
    assert not verify.speed(1.2).passed


def test_slower_on_a_cpu_that_the_target_is_not_for_is_shown_and_not_judged() -> None:
    verdict = verify.speed(1.2, own_kind=False)
    assert verdict.passed and verdict.limit is None
    assert "not of the target's kind" in verdict.note


def shared(weights: float | None, macs: float | None) -> Plan:
    scheme = QuantScheme(activation="int8", weight="int8")
    return Plan(
        target="t", format="tflite", scheme=scheme, io_float=False, integer_weights=weights, integer_macs=macs
    )  # fmt: skip


@pytest.mark.parametrize(("weights", "macs"), [(0.02, 0.9), (0.9, 0.3), (0.0, 0.0)])
def test_an_artifact_that_is_integer_in_less_than_half_says_how_much(weights: float, macs: float) -> None:
    (warning,) = verify.mostly_float(shared(weights, macs))
    assert f"{weights:.0%} of the weights and {macs:.0%} of the work" in warning


@pytest.mark.parametrize(("weights", "macs"), [(0.5, 1.0), (None, None)])
def test_more_than_half_or_a_float_scheme_needs_no_word(weights: float | None, macs: float | None) -> None:
    assert verify.mostly_float(shared(weights, macs)) == []


def test_a_plan_without_shares_is_read_as_before() -> None:
    whole = to_data(shared(0.25, 0.75))
    assert from_data(Plan, whole) == shared(0.25, 0.75)
    before = {key: value for key, value in whole.items() if not key.startswith("integer_")}
    assert from_data(Plan, before) == shared(None, None)


def test_places_of_equal_numbers_are_not_compared() -> None:
    inputs = [(np.zeros((1, 3)),), (np.ones((1, 3)),)]
    model = [(np.array([0, 1, 2]), np.ones(2)), (np.array([0, 1, 2]), np.ones(2))]
    other = [(np.array([2, 1, 0]), np.ones(2)), (np.array([0, 1, 2]), np.ones(2))]
    assert verify.sqnr_db(model, other) < 10
    assert verify.sqnr_db(*verify.ordered(inputs, model, other)) == verify.MAX_SQNR_DB
    assert verify.sqnr_db(*verify.ordered(inputs[1:] * 2, model, other)) < 10, "numbers that differ have an order"


@pytest.mark.parametrize(("steady", "passed"), [(None, False), (140.0, False), (42.0, True), (50.0, False), (10.0, True)])
def test_no_artifact_is_asked_to_be_nearer_to_a_model_than_that_is_to_itself(steady: float | None, passed: bool) -> None:
    exact = replace(proof(31.0, 31.0, 200.0), steady=steady)
    checks = Checks(program_sqnr_db=60, float_sqnr_db=60)
    verdicts = verify.judge(exact, checks)
    assert (not verify.failures(verdicts)) == passed
    assert any("differs from itself" in warning for warning in verify.warnings(exact, verdicts)) == passed
    far = verify.judge(replace(proof(19.0, 19.0, 200.0), steady=steady), checks)
    assert verify.failures(far), "never below 20 dB"


def test_an_output_that_only_inputs_unlike_the_data_make_vary_may_be_one_number_in_integers() -> None:
    """Integers end where calibration ended: there such an output is right, and the same on every input."""
    steady, loud = [(np.full(3, 0.5) + 1e-4 * sign,) for sign in (1, -1)], [(np.full(3, 9.0),), (np.zeros(3),)]
    right, wrong = [(np.full(3, 0.5),)] * 2, [(np.full(3, 7.0),)] * 2
    assert verify.never_changing(("y",), (steady, right), (loud, right))["y"] < verify.CONSTANT_SPREAD
    assert verify.never_changing(("y",), (steady, wrong), (loud, wrong))["y"] > 0.5
    varying = [(np.array([1.0, 2, 3]),), (np.array([3.0, 1, 2]),)]
    assert verify.never_changing(("y",), (varying, right), (loud, right))["y"] > verify.CONSTANT_SPREAD
