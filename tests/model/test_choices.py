"""Which rows evaluate asked for, and which class they got, is noted beside its work and changes nothing of it."""

from typing import Any

import numpy as np
import pytest
import torch

from edgeopt.core import TensorSpec
from edgeopt.errors import EvaluationError, InputError
from edgeopt.model import evaluation
from edgeopt.model.choices import Choices, Paired, classes
from edgeopt.model.evaluation import Array

X = TensorSpec(name="x", shape=(2, 3), dtype="float32")
ROWS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def itself(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Class scores that are the inputs."""
    return (np.array(arrays[0]),)


def other(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """As ``itself``, but for the row 4, which gets another class."""
    scores = np.array(arrays[0])
    scores[(scores == ROWS[4]).all(axis=1)] *= -1
    return (scores,)


def asked(function: Any, run: Any = itself) -> Choices:
    choices = Choices()
    evaluation.evaluate(choices.watching(function), run, (X,), "the float model")
    return choices


def by_fours(predict: Any) -> dict[str, float]:
    return {"mean": float(np.mean([predict(ROWS[at : at + 4])[0].mean() for at in range(0, 9, 4)]))}


def test_every_row_counts_once_and_what_fills_a_batch_does_not() -> None:
    assert asked(by_fours).rows == 9
    assert asked(lambda predict: by_fours(predict) | by_fours(predict)).rows == 9


def test_the_rows_that_got_another_class_are_counted() -> None:
    assert asked(by_fours).paired(asked(by_fours)) == Paired(9, 0)
    assert asked(by_fours).paired(asked(by_fours, other)) == Paired(9, 1)


def test_of_several_outputs_with_classes_one_is_enough_and_others_are_left_out() -> None:
    def several(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return itself(arrays)[0], other(arrays)[0], np.zeros((2, 4, 4), np.float32)

    def same(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return *itself(arrays), *itself(arrays), np.ones((2, 4, 4), np.float32)

    assert asked(by_fours, same).paired(asked(by_fours, several)) == Paired(9, 1)


def test_other_rows_for_the_artifact_are_no_pairs() -> None:
    fewer = asked(lambda predict: {"mean": float(predict(ROWS[:4])[0].mean())})
    assert asked(by_fours).paired(fewer) is None
    assert fewer.paired(asked(by_fours)) is None


def test_an_evaluation_that_predicts_nothing_has_no_rows() -> None:
    found = asked(lambda predict: {"top1": 0.5})
    assert (found.rows, found.paired(found)) == (0, None)


@pytest.mark.parametrize("shape", [(2, 1), (2, 3, 3), (2,)])
def test_an_output_without_class_scores_has_no_rows(shape: tuple[int, ...]) -> None:
    found = asked(by_fours, lambda arrays: (np.zeros(shape, np.float32),))
    assert (found.rows, found.paired(found)) == (0, None)


def test_integers_are_no_scores() -> None:
    assert classes(np.ones((2, 3), np.int64)) is None


def test_what_the_user_does_with_arrays_does_not_reach_the_notes() -> None:
    def careless(predict: Any) -> dict[str, float]:
        rows = ROWS.copy()
        scores = predict(rows)[0]
        scores[:] = rows[:] = 0
        return {"top1": float(predict(torch.from_numpy(ROWS))[0].argmax(1).mean())}

    assert asked(careless).paired(asked(by_fours)) is None
    assert asked(careless).paired(asked(lambda predict: {"x": float(predict(ROWS)[0][0, 0])})) == Paired(9, 0)


def test_what_cannot_be_predicted_is_reported_as_without_notes() -> None:
    with pytest.raises(InputError, match="predict got <U1 for input x"):
        asked(lambda predict: predict(["a"]))
    with pytest.raises(EvaluationError, match="evaluate raised on the float model") as caught:
        asked(lambda predict: {"top1": predict(ROWS)[0][0, 7]})
    assert "test_choices.py" in caught.value.why
