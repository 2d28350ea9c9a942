"""The user's evaluate on a module: in large batches where rows are apart, else exactly as the example is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common.scoring import score
from edgeopt.errors import CompressionError, EvaluationError
from edgeopt.model.model import Predict


class Counting(nn.Module):
    """Remembers the shapes that it is called with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shapes = inner, list[tuple[int, ...]]()

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        value: Tensor = self.inner(x)
        return value


class AcrossRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class OneRowOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(1, 4).sum(1)


ROWS = np.arange(2400, dtype=np.float32).reshape(600, 4)


def mean(predict: Predict) -> dict[str, float]:
    return {"mean": float(predict(ROWS)[0].mean())}


def test_rows_go_through_in_large_batches_and_the_mode_is_put_back() -> None:
    module = Counting(nn.Dropout(0.9)).train()
    assert score(module, mean, (torch.rand(1, 4),)) == {"mean": float(ROWS.mean())}
    assert module.shapes[-3:] == [(256, 4)] * 3
    assert module.training


@pytest.mark.parametrize(("inner", "expected"), [(AcrossRows(), 0.0), (OneRowOnly(), float(ROWS.sum(1).mean()))])
def test_a_model_whose_rows_depend_on_each_other_or_are_fixed_is_run_as_its_example(inner: nn.Module, expected: float) -> None:
    module = Counting(inner)
    assert score(module, mean, (torch.rand(1, 4),)) == {"mean": pytest.approx(expected)}
    assert set(module.shapes[2:]) == {(1, 4)}


def test_an_evaluate_that_raises_is_named_and_none_is_refused() -> None:
    def broken(predict: Predict) -> dict[str, float]:
        raise KeyError("no such file")

    with pytest.raises(EvaluationError, match="no such file"):
        score(nn.Identity(), broken, (torch.rand(1, 4),))
    with pytest.raises(CompressionError, match="no evaluate"):
        score(nn.Identity(), None, (torch.rand(1, 4),))
