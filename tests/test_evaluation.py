import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core import TensorSpec
from edgeopt.errors import EvaluationError, InputError
from edgeopt.evaluation import Array, evaluate, predict

IMAGE = TensorSpec(name="image", shape=(4, 3), dtype="float32")
IDS = TensorSpec(name="ids", shape=(4,), dtype="int64")


class Doubling:
    """A model of batch size 4 that keeps the shapes and dtypes it was called with."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[tuple[int, ...], str]]] = []

    def __call__(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        self.calls.append([(array.shape, str(array.dtype)) for array in arrays])
        return tuple(array * 2 for array in arrays)  # type: ignore[operator]


@given(st.integers(1, 13))
def test_a_batch_is_cut_to_the_model_s_own_and_its_remainder_filled(rows: int) -> None:
    run = Doubling()
    image, ids = np.random.rand(rows, 3).astype(np.float32), np.arange(rows)
    outputs = predict(run, (IMAGE, IDS), (image, ids))
    np.testing.assert_array_equal(outputs[0], image * 2)
    np.testing.assert_array_equal(outputs[1], ids * 2)
    assert run.calls == [[((4, 3), "float32"), ((4,), "int64")]] * math.ceil(rows / 4)


@pytest.mark.parametrize(
    "value", [np.ones((4, 3)), np.ones((4, 3), np.float16), torch.ones(4, 3, requires_grad=True), [[1.0] * 3] * 4]
)
def test_floats_of_any_kind_become_the_model_s(value: Any) -> None:
    run = Doubling()
    predict(run, (IMAGE,), (value,))
    assert run.calls == [[((4, 3), "float32")]]


def test_a_bfloat16_input_arrives_as_float32() -> None:
    run = Doubling()
    predict(run, (TensorSpec(name="x", shape=(2,), dtype="bfloat16"),), (np.ones(2),))
    assert run.calls == [[((2,), "float32")]]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ((np.ones((4, 3), np.float32),), "got 1 arrays, the model takes 2"),
        ((np.ones((4, 2), np.float32), np.ones(4, np.int64)), r"shapes \(4, 2\), \(4,\)"),
        ((np.ones((8, 3), np.float32), np.ones(4, np.int64)), "shapes"),
        ((np.ones((0, 3), np.float32), np.ones(0, np.int64)), "shapes"),
        ((np.ones((4, 3), np.float32), np.ones(4, np.float32)), "got float32 for input ids, which is int64"),
        ((np.ones((4, 3), np.int32), np.ones(4, np.int64)), "got int32 for input image, which is float32"),
    ],
)
def test_arrays_that_do_not_fit_are_told_with_their_shapes(arrays: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        predict(Doubling(), (IMAGE, IDS), arrays)


def test_numbers_of_any_kind_become_floats() -> None:
    assert evaluate(lambda p: {"a": np.float32(0.5), "b": 1, "c": True}, Doubling(), (), "x") == {"a": 0.5, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("found", [None, {}, 0.5, {"a": "high"}, {"a": math.nan}, {"a": math.inf}, {"a": None}])
def test_anything_but_finite_numbers_by_name_is_refused(found: Any) -> None:
    with pytest.raises(EvaluationError, match="evaluate gave no numbers for arm-xnnpack/tflite") as caught:
        evaluate(lambda predict: found, Doubling(), (), "arm-xnnpack/tflite")
    assert repr(found)[:20] in caught.value.why


def test_an_evaluate_that_raises_is_told_with_its_line() -> None:
    def broken(_: Any) -> dict[str, float]:
        raise ValueError("labels are missing")

    with pytest.raises(EvaluationError, match="evaluate raised on the float model") as caught:
        evaluate(broken, Doubling(), (), "the float model")
    assert "ValueError: labels are missing" in caught.value.why
    assert "test_evaluation.py, line" in caught.value.why


def test_a_wrong_call_of_predict_inside_evaluate_is_an_input_error() -> None:
    with pytest.raises(InputError, match="got 1 arrays"):
        evaluate(lambda predict: {"a": len(predict(np.ones(3)))}, Doubling(), (IMAGE, IDS), "x")
