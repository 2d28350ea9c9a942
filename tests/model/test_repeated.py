"""Whether evaluate's numbers hold is found out by asking again with the same predictions."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgeopt.core import TensorSpec
from edgeopt.errors import EvaluationError
from edgeopt.model import repeated
from edgeopt.model.evaluation import Array
from edgeopt.model.repeated import Change, Numbers

X = TensorSpec(name="x", shape=(1, 3), dtype="float32")
ROWS = np.random.default_rng(0).normal(size=(8, 1, 3)).astype(np.float32)


class Doubling:
    """A model that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        self.calls += 1
        return tuple(array * 2 for array in arrays)  # type: ignore[operator]


def asked(function: Callable[..., Any], run: Doubling | None = None) -> Numbers:
    return repeated.numbers(function, run or Doubling(), (X,), "the float model")


def mean(predict: Any, rows: Any = ROWS) -> dict[str, float]:
    return {"mean": float(np.mean([predict(row)[0].mean() for row in rows]))}


def test_numbers_that_hold_are_told_once_and_cost_no_second_prediction() -> None:
    run = Doubling()
    found = asked(mean, run)
    assert found == Numbers({"mean": pytest.approx(float(2 * ROWS.mean()))})
    assert run.calls == len(ROWS)


def test_another_order_of_the_same_inputs_is_no_change() -> None:
    assert asked(lambda predict: mean(predict, np.random.permutation(ROWS))).changes == ()


def test_a_random_subset_is_told_with_both_numbers() -> None:
    order = iter([ROWS[:4], ROWS[4:]])
    found = asked(lambda predict: mean(predict, next(order)))
    (change,) = found.changes
    assert (change.name, change.first) == ("mean", pytest.approx(float(2 * ROWS[:4].mean())))
    assert change.second == pytest.approx(float(2 * ROWS[4:].mean()))
    assert found.found == {"mean": change.first}


def test_noise_on_the_predictions_is_told_the_largest_first() -> None:
    calls: list[int] = []

    def noisy(predict: Any) -> dict[str, float]:
        calls.append(1)
        return {
            "top1": 0.9,
            "top1/a": 0.9 + 0.01 * len(calls),
            "top1/b": 0.9 - 0.1 * len(calls),
            "top1/c": 0.5 + 1e-9 * len(calls),
        }

    assert [change.name for change in asked(noisy).changes] == ["top1/b", "top1/a"]
    assert len(calls) == 2


def test_a_number_that_only_one_call_gives_is_a_change() -> None:
    answers = iter([{"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 3.0}])
    assert set(asked(lambda predict: next(answers)).changes) == {Change("b", 2.0, None), Change("c", None, 3.0)}


def test_a_function_that_writes_into_predictions_finds_them_as_they_were() -> None:
    def softmax(predict: Any) -> dict[str, float]:
        (out,) = predict(ROWS[0])
        out *= 3
        return {"sum": float(out.sum())}

    assert asked(softmax).changes == ()


@pytest.mark.parametrize(("bound", "value"), [("OWN_S", -1.0), ("KEPT_BYTES", 50)])
def test_what_would_take_long_or_much_memory_is_asked_once(bound: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, bound, value)
    calls: list[int] = []

    def counting(predict: Any) -> dict[str, float]:
        calls.append(1)
        return mean(predict) | {"calls": len(calls)}

    assert asked(counting).changes == ()
    assert len(calls) == 1


@pytest.mark.parametrize("swallow", [False, True])
def test_a_function_that_asks_for_ever_other_inputs_is_not_heard_out(swallow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "OTHER_S", 0.0)
    generator = np.random.default_rng(1)
    run = Doubling()

    def wild(predict: Any) -> dict[str, float]:
        try:
            return mean(predict, generator.normal(size=(8, 1, 3)))
        except Exception:
            if swallow:
                return {"mean": 0.0}
            raise

    found = asked(wild, run)
    assert found.other_inputs and not found.changes
    assert run.calls < 2 * len(ROWS)


def test_data_that_is_used_up_by_the_first_call_is_told_with_the_next_step() -> None:
    rows = iter(ROWS)

    def once(predict: Any) -> dict[str, float]:
        found = [predict(row)[0].mean() for row in rows]
        return {"mean": float(sum(found) / len(found))}

    with pytest.raises(EvaluationError, match="evaluate cannot be called twice") as caught:
        asked(once)
    assert "ZeroDivisionError" in caught.value.why and "anew in each call" in caught.value.fix


def test_the_second_call_draws_no_random_numbers_that_others_would_have_drawn() -> None:
    def drawing(predict: Any) -> dict[str, float]:
        return {"drawn": random.random() + float(np.random.rand()) + float(torch.rand(()))}

    def seeded() -> None:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    seeded()
    once = drawing(None)
    after = drawing(None)
    seeded()
    found = asked(drawing)
    assert found.found == once
    assert found.changes == (Change("drawn", once["drawn"], after["drawn"]),)
    assert drawing(None) == after


def test_equal_bytes_of_other_shapes_or_dtypes_are_other_inputs() -> None:
    arrays = [np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int32), np.zeros((2, 1), np.float32)]
    assert len({repeated.digest((one,)) for one in arrays}) == 3
