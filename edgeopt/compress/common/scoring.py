"""The user's ``evaluate`` on a module in PyTorch, in large batches where the module computes rows apart from each other."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating
from edgeopt.core import TensorSpec
from edgeopt.errors import CompressionError
from edgeopt.model.evaluation import Array, Run, evaluate, predict
from edgeopt.model.model import Batch, Evaluate
from edgeopt.model.signature import Signature, flat_outputs

ROWS = 256
"""Rows that go through the module at once."""


def score(module: nn.Module, function: Evaluate | None, example_inputs: Batch) -> dict[str, float]:
    """What ``function`` finds for ``module``, which is put into eval mode meanwhile; the first number is the one to judge by.

    Raises EvaluationError with the user's line, CompressionError where there is no function.
    """
    if function is None:
        raise CompressionError("there is no evaluate", why="candidates are scored by it", fix="give evaluate in the context")
    signature, example = Signature.of(module.forward, example_inputs)

    def run(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        given = [torch.from_numpy(one).to(value.dtype) for one, value in zip(arrays, example, strict=True)]
        found = _outputs(module, signature, given)
        return tuple((value.float() if value.dtype == torch.bfloat16 else value).numpy() for value in found)  # numpy has none

    with evaluating(module):
        specs = signature.specs
        if not _rows_apart(module, signature, example):
            return evaluate(function, run, specs, "the candidate")
        in_large_batches = lambda *arrays: _in_large_batches(run, specs, arrays)  # noqa: E731
        return evaluate(lambda _: function(in_large_batches), run, specs, "the candidate")


def _in_large_batches(run: Run, specs: tuple[TensorSpec, ...], arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    rows = min(ROWS, max((np.shape(array)[0] for array in arrays if np.ndim(array)), default=1))
    return predict(run, tuple(replace(spec, shape=(max(rows, 1), *spec.shape[1:])) for spec in specs), arrays)


def _rows_apart(module: nn.Module, signature: Signature, example: tuple[Tensor, ...]) -> bool:
    """Whether the example gives the same outputs with other rows behind it: not so where the first axis is no batch."""
    if any(value.ndim == 0 for value in example) or len({len(value) for value in example}) != 1:
        return False
    try:
        alone = _outputs(module, signature, list(example))
        both = _outputs(module, signature, [torch.cat((value, value.roll(1, -1))) for value in example])
    except Exception:  # its batch size is built in, or evaluate will meet the same error and name it
        return False
    rows = len(example[0])
    if any(value.ndim == 0 or len(value) != rows or len(two) != 2 * rows for value, two in zip(alone, both, strict=True)):
        return False
    return all(torch.allclose(two[:rows], value, rtol=1e-3, atol=1e-4) for value, two in zip(alone, both, strict=True))


def _outputs(module: nn.Module, signature: Signature, flat: list[Tensor]) -> tuple[Tensor, ...]:
    args, kwargs = pytree.tree_unflatten(flat, signature.tree)
    return flat_outputs(module(*args, **kwargs))[1]
