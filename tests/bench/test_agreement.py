"""The device's outputs against this computer's, and evaluate with the device's own predictions."""

from collections.abc import Iterator

import numpy as np
import pytest

from edgeopt.bench import agreement as module
from edgeopt.bench.agreement import agreement, evaluated
from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inputs import Array
from edgeopt.core import TensorSpec
from edgeopt.errors import BadAnswer, EvaluationError
from edgeopt.model.model import Predict
from tests.bench.parts import Pretend, X, runnable

QUANTIZED = TensorSpec(name="y", shape=(1, 2), dtype="int8", scale=0.5, zero_point=1)


def array(*numbers: float, dtype: str = "float32") -> Array:
    return np.array([numbers], dtype)


def double(sample: tuple[Array, ...]) -> tuple[Array, ...]:
    return (np.multiply(sample[0], np.float32(2)),)


def test_equal_bits_are_exact() -> None:
    found = agreement(runnable(), [(array(1, 2),)], [[array(1, 2)]])
    assert (found.bit_exact, found.sqnr_db, found.max_abs_error, found.samples) == (True, 200.0, 0.0, 1)


def test_nearly_equal_has_its_distance() -> None:
    found = agreement(runnable(), [(array(1, 2),), (array(3, 4),)], [[array(1, 2)], [array(3, 4.5)]])
    assert not found.bit_exact
    assert found.max_abs_error == 0.5
    assert found.sqnr_db == pytest.approx(20.8, abs=0.1)
    assert found.samples == 2


def test_minus_zero_and_other_nan_are_not_the_same_bits() -> None:
    assert not agreement(runnable(), [(array(0, 1),)], [[array(-0.0, 1)]]).bit_exact
    lost = agreement(runnable(), [(array(1, 2),)], [[array(np.nan, np.inf)]])
    assert (lost.bit_exact, lost.sqnr_db, lost.max_abs_error) == (False, -200.0, None)


def test_integers_are_compared_as_what_they_stand_for() -> None:
    found = agreement(runnable(output=QUANTIZED), [(array(1, 2),)], [[array(3, 5, dtype="int8")]])
    assert found.bit_exact


def test_outputs_of_another_shape_are_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match="other shapes"):
        agreement(runnable(), [(array(1, 2),)], [[array(1, 2, 3)]])


# --- evaluate ------------------------------------------------------------------------------------------------------------


def two_images(predict: Predict) -> dict[str, float]:
    return {"sum": float(sum(predict(array(number, 1))[0].sum() for number in (1, 2, 1)))}


def test_evaluate_gets_the_devices_predictions_each_computed_once() -> None:
    asked: list[Array] = []

    def host(sample: tuple[Array, ...]) -> tuple[Array, ...]:
        asked.append(sample[0])
        return double(sample)

    place = Pretend(answer=lambda sample: (np.multiply(sample[0], np.float32(3)),))
    numbers, compared = evaluated(place, runnable(), two_images, (X,), host, True)
    assert numbers == {"sum": 3.0 * (2 + 3 + 2)}
    assert place.predicted == [2]
    assert len(asked) == 2
    assert compared is not None
    assert (compared.bit_exact, compared.samples) == (False, 2)


def test_the_same_artifact_with_the_same_bits_agrees() -> None:
    _, compared = evaluated(Pretend(answer=double), runnable(), two_images, (X,), double, True)
    assert compared is not None
    assert compared.bit_exact


def test_a_stand_in_is_not_compared() -> None:
    numbers, compared = evaluated(Pretend(answer=double), runnable(), two_images, (X,), lambda sample: sample, False)
    assert (numbers, compared) == ({"sum": 14.0}, None)


def test_many_inputs_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 24)
    place = Pretend(answer=double)

    def many(predict: Predict) -> dict[str, float]:
        return {"sum": float(sum(predict(array(number, 0))[0].sum() for number in range(7)))}

    numbers, _ = evaluated(place, runnable(), many, (X,), double, True)
    assert (numbers["sum"], place.predicted) == (42.0, [3, 3, 1])
    assert place.elements == [(6,), (6,), (2,)], "what this computer's run of the same artifact gives"
    evaluated(place, runnable(), many, (X,), double, False)
    assert place.elements[3:] == [None] * 3, "another artifact says nothing of this one's outputs"


def test_inputs_that_differ_the_second_time_are_told() -> None:
    numbers: Iterator[float] = iter(range(100))

    def random(predict: Predict) -> dict[str, float]:
        return {"sum": float(predict(array(next(numbers), 0))[0].sum())}

    with pytest.raises(EvaluationError, match="other inputs the second time") as error:
        evaluated(Pretend(answer=double), runnable(), random, (X,), double, True)
    assert "seed" in error.value.fix


def test_evaluate_that_predicts_nothing_has_its_numbers_and_no_comparison() -> None:
    place = Pretend()
    assert evaluated(place, runnable(), lambda predict: {"x": 1.0}, (X,), double, True) == ({"x": 1.0}, None)
    assert place.predicted == []


def test_evaluate_that_raises_names_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_doubled(predict: Predict) -> dict[str, float]:
        if predict(array(1, 1))[0].sum() != 4:
            raise ValueError("not doubled")
        return {"fine": 1.0}

    with pytest.raises(EvaluationError, match="raised on pretend"):
        evaluated(Pretend(answer=lambda sample: sample), runnable(), only_doubled, (X,), double, True)
    with pytest.raises(EvaluationError, match="raised on this computer"):
        evaluated(Pretend(), runnable(), only_doubled, (X,), lambda sample: sample, True)


def test_quantized_inputs_and_outputs_are_the_models_floats_to_the_user() -> None:
    artifact = runnable(output=QUANTIZED)
    artifact = Runnable(artifact.subject, artifact.path, (QUANTIZED,), (QUANTIZED,))
    seen: list[Array] = []

    def device(sample: tuple[Array, ...]) -> tuple[Array, ...]:
        seen.append(sample[0])
        return sample

    numbers, _ = evaluated(
        Pretend(answer=device), artifact, lambda predict: {"y": float(predict(array(1.5, 2))[0][0, 0])}, (X,), lambda s: s, True
    )
    assert seen[0].dtype == np.int8
    assert seen[0].tolist() == [[4, 5]]
    assert numbers == {"y": 1.5}
