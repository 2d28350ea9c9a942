import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core import TensorSpec
from edgeopt.errors import EvaluationError, InputError
from edgeopt.model.evaluation import Array, evaluate, predict

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


@pytest.mark.parametrize("value", [0, True, 1.5, np.float32(0.5), np.bool_(True), np.int8(-3), np.array(0.5), torch.tensor(2)])
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    found = evaluate(lambda p: {"a": value}, Doubling(), (), "x")
    assert found == {"a": float(value)}
    assert type(found["a"]) is float


NO_NUMBERS = [
    *(None, {}, 0.5, [("a", 1.0)], {"a": "high"}, {"a": None}, {"a": np.ones(2)}, {"a": np.ones(1)}, {"a": 1j}),
    *({"a": np.complex64(1)}, {"a": torch.ones(1, 1)}),
]


@pytest.mark.parametrize("found", NO_NUMBERS, ids=repr)
def test_anything_but_numbers_by_name_is_refused(found: Any) -> None:
    with pytest.raises(EvaluationError, match="evaluate gave no numbers for arm-xnnpack/tflite") as caught:
        evaluate(lambda predict: found, Doubling(), (), "arm-xnnpack/tflite")
    assert repr(found)[:20] in caught.value.why


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float32("nan"), torch.tensor(math.nan), 10**400], ids=repr)
def test_what_is_not_finite_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(EvaluationError, match=r"evaluate gave (nan|-?inf) as loss for arm-xnnpack/tflite") as caught:
        evaluate(lambda predict: {"top1": 1.0, "loss": value}, Doubling(), (), "arm-xnnpack/tflite")
    assert caught.value.fix.startswith("look for a division by zero")


def test_a_slice_without_samples_is_told_to_be_left_out() -> None:
    empty = {"top1": 1.0, "top1/class=7": math.nan}
    with pytest.raises(EvaluationError, match="evaluate gave nan as top1/class=7 for the float model") as caught:
        evaluate(lambda predict: empty, Doubling(), (), "the float model")
    assert caught.value.fix.startswith("leave top1/class=7 out where it has no samples")


def test_an_evaluate_that_raises_is_told_with_its_line() -> None:
    def broken(_: Any) -> dict[str, float]:
        raise ValueError("labels are missing")

    with pytest.raises(EvaluationError, match="evaluate raised on the float model") as caught:
        evaluate(broken, Doubling(), (), "the float model")
    assert "ValueError: labels are missing" in caught.value.why
    assert "test_evaluation.py, line" in caught.value.why


class Leaving(BaseException):
    """What no ``except Exception`` catches, as ``SystemExit`` and a cancelled task."""


@pytest.mark.parametrize("leaving", [SystemExit(0), SystemExit("done"), Leaving(), GeneratorExit()], ids=repr)
def test_an_evaluate_that_leaves_the_program_is_a_failure(leaving: BaseException) -> None:
    def leave(_: Any) -> dict[str, float]:
        raise leaving

    with pytest.raises(EvaluationError, match="evaluate raised on the float model") as caught:
        evaluate(leave, Doubling(), (), "the float model")
    assert type(leaving).__name__ in caught.value.why


def test_ctrl_c_in_an_evaluate_is_ctrl_c() -> None:
    def interrupted(_: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted, Doubling(), (), "x")


def test_an_evaluate_that_does_not_take_predict_is_told_how_to_write_it() -> None:
    with pytest.raises(EvaluationError, match=r"takes 0 positional arguments.*\n.*write it as evaluate\(predict\)"):
        evaluate(lambda: {"a": 1.0}, Doubling(), (), "x")  # type: ignore[arg-type,misc]


@pytest.mark.parametrize("shape", [(), (5,), (5, 4)])
def test_outputs_without_an_axis_for_the_rows_are_never_put_together(shape: tuple[int, ...]) -> None:
    """Silently they would be: five numbers of each of three calls are fifteen, of which the first nine are nine rows'."""
    with pytest.raises(
        InputError, match=rf"got 9 rows, and the model takes 4 at a time\n.*output 0 has the shape {re.escape(str(shape))}"
    ):
        predict(lambda arrays: (np.ones(shape),), (IMAGE,), (np.ones((9, 3)),))
    assert predict(lambda arrays: (np.ones(shape),), (IMAGE,), (np.ones((4, 3)),))[0].shape == shape


def test_a_scalar_input_keeps_its_shape_and_integers_their_values() -> None:
    run = Doubling()
    predict(run, (TensorSpec(name="x", shape=(), dtype="float32"),), (2.0,))
    assert run.calls == [[((), "float32")]]
    with pytest.raises(InputError, match="numbers that int32 has not for input n"):
        predict(run, (TensorSpec(name="n", shape=(1,), dtype="int32"),), (np.array([2**40]),))


def test_a_wrong_call_of_predict_inside_evaluate_is_an_input_error() -> None:
    with pytest.raises(InputError, match="got 1 arrays"):
        evaluate(lambda predict: {"a": len(predict(np.ones(3)))}, Doubling(), (IMAGE, IDS), "x")
