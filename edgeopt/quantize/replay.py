"""What reaches each layer: a program run on several samples in step, from one layer of interest to the next."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture.operator_kinds import kind_of, weight_shape

MOST_ROWS = 1 << 14
"""Input rows per layer that a second moment is summed over; of more, every n-th of each sample: neighbours tell little new."""


class Replay:
    """Runs ``program`` once over all ``samples``; only values that a later layer needs are kept between two layers.

    Weights are read when a layer runs, so that a layer sees what every change made before it leaves of its inputs.
    """

    def __init__(self, program: ExportedProgram, samples: Sequence[tuple[Tensor, ...]]) -> None:
        module = program.module(check_guards=False)
        self._interpreter = torch.fx.Interpreter(module)
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._pending = [node for node in module.graph.nodes if node.op != "placeholder"]
        self._values: list[dict[Node, Any]] = [dict(zip(inputs, sample, strict=True)) for sample in samples]

    def inputs_of(self, name: str) -> list[Tensor]:
        """The first argument of the node ``name``, one per sample. Ask for nodes in the program's order."""
        position = next(index for index, node in enumerate(self._pending) if node.name == name)
        segment, self._pending = self._pending[:position], self._pending[position:]
        for values in self._values:
            self._run(segment, values)
        source: Any = self._pending[0].args[0]
        return [values[source] for values in self._values]

    def _run(self, segment: list[Node], values: dict[Node, Any]) -> None:
        self._interpreter.env = values
        for node in segment:
            values[node] = self._interpreter.run_node(node)
            for unused in self._interpreter.user_to_last_uses.get(node, ()):
                del values[unused]


def rows(node: Node, value: Tensor, every: int = 1) -> Tensor:
    """``value``, the input of a linear layer or an ungrouped convolution, as the rows its weight matrix is multiplied with.

    float [positions, inputs] for a linear layer, [positions, kernel positions x channels] for a convolution (im2col, the
    channels of one kernel position side by side, as :func:`matrix` has them). Of these every ``every``-th: only they take
    memory, where all are as many copies of the image as the kernel has positions.
    """
    if kind_of(node) == "linear":
        return value.reshape(-1, value.shape[-1])[::every]
    kernel = weight_shape(node)[2:]
    stride, padding, dilation = (_setting(node, index, default, len(kernel)) for index, default in ((3, 1), (4, 0), (5, 1)))
    return patches(value, kernel, stride, padding, dilation, every)


def patches(
    value: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Any, dilation: Sequence[int], every: int = 1
) -> Tensor:
    """What a kernel sees at each of its positions on ``value``, [N, C, *size] or [C, *size]; rows as :func:`rows` gives them.

    ``padding``: zeros on both sides of each axis, or "same" or "valid".
    """
    value = value if value.ndim == 2 + len(kernel) else value[None]  # a batch axis may be left out
    for axis, size in enumerate(kernel, start=2):
        before, after = _padded(padding, axis - 2, dilation[axis - 2] * (size - 1))
        value = torch.nn.functional.pad(value, [0, 0] * (value.ndim - 1 - axis) + [before, after])
        window = dilation[axis - 2] * (size - 1) + 1
        value = value.unfold(axis, window, stride[axis - 2])[..., :: dilation[axis - 2]]
    seen = value.movedim(1, -1)  # [N, *size, *kernel, C], still a view
    if every > 1:
        positions = seen.shape[: 1 + len(kernel)]
        seen = seen[torch.unravel_index(torch.arange(0, math.prod(positions), every), positions)]
    return seen.reshape(-1, math.prod(kernel) * value.shape[1])


def thinned(found: Tensor, samples: int) -> Tensor:
    """Some rows of one of ``samples`` samples, MOST_ROWS of all together; rows that are not finite tell nothing."""
    found = found[:: 1 + len(found) * samples // MOST_ROWS]
    return found[found.isfinite().all(1)]


def matrix(weight: Tensor) -> Tensor:
    """[out, in, *kernel] as [out, kernel positions x in]; a matrix stays as it is."""
    return weight.movedim(1, -1).flatten(1)


def from_matrix(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`matrix` for a weight of ``shape``."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _setting(node: Node, index: int, default: int, rank: int) -> Any:
    """Argument ``index`` of a convolution, one number per axis: ATen takes a single one for all axes. A word stays a word."""
    value: Any = node.args[index] if len(node.args) > index else [default]
    return value if isinstance(value, str) or len(value) == rank else [*value] * rank


def _padded(padding: Any, axis: int, reach: int) -> tuple[int, int]:
    """Zeros before and after one axis: numbers, or PyTorch's "same" (one more behind where it is uneven) and "valid"."""
    if isinstance(padding, str):
        return (reach // 2, reach - reach // 2) if padding == "same" else (0, 0)
    return padding[axis], padding[axis]
