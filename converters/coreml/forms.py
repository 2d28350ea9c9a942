"""The program in operators that coremltools converts right: rewritten exactly, before it is lowered."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.converters.graph_edits import argument, call, sizes
from edgeopt.converters.program import Program
from edgeopt.converters.transposed_convolutions import AXES, transposed

aten = torch.ops.aten


def rewritten(program: Program) -> Program:
    """``program`` in forms for Core ML."""
    program = _wider_inputs(program)
    module: Any = program.exported.module(check_guards=False)
    nodes = [node for node in transposed(module) if _longer_than_padding(node)]
    for node in nodes:
        _bias_behind_zeros(module, node)
    return program.again(module) if nodes else program


def _wider_inputs(program: Program) -> Program:
    """Integers of 8 and 16 bits taken as 32, which a package's inputs are, where all that happens to them is a conversion."""
    module: Any = program.exported.module(check_guards=False)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    narrow = [node for node, value in zip(inputs, program.examples, strict=True) if value.dtype in _NARROW]
    checks = [user for node in narrow for user in node.users if user.target is aten._assert_tensor_metadata.default]
    if not narrow or any(user.target not in _CASTS for node in narrow for user in node.users if user not in checks):
        return program
    for node in checks:
        module.graph.erase_node(node)
    examples = tuple(value.to(torch.int32) if value.dtype in _NARROW else value for value in program.examples)
    return replace(program, examples=examples).again(module)


_NARROW = (torch.uint8, torch.int8, torch.int16)
_CASTS = (aten._to_copy.default, aten.to.dtype)


def has_grouped_transposed(program: Program) -> bool:
    """Whether ``program`` has transposed convolutions of several groups."""
    return any(argument(node, "groups") > 1 for node in transposed(program.exported.graph_module))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What coremltools 9.0 gets wrong, or has no operator for."""
    return {
        aten.index_put.default: index_put,
        aten.index_copy.default: index_copy,
        aten.index_add.default: index_add,
        aten.prelu.default: prelu,
        aten.where.self: where,
        aten.where.Scalar: where_scalar,
        aten.log_softmax.int: log_softmax,
        aten.softplus.default: softplus,
        aten.clamp.default: clamp,
        aten.hardtanh.default: lambda x, low=-1.0, high=1.0: clamp(x, low, high),
        aten.var.correction: variance,
        aten.std.correction: lambda *given, **named: variance(*given, **named).sqrt(),
        aten.acosh.default: lambda x: torch.log(x + torch.sqrt(x - 1) * torch.sqrt(x + 1)),
        aten.nan_to_num.default: nan_to_num,
        # of another dtype than x's, which coremltools does not look at
        aten.zeros_like.default: lambda x, *, dtype=None, **_: torch.zeros(x.shape, dtype=dtype or x.dtype),
        aten.ones_like.default: lambda x, *, dtype=None, **_: torch.ones(x.shape, dtype=dtype or x.dtype),
        aten.full_like.default: lambda x, value, *, dtype=None, **_: torch.full(x.shape, value, dtype=dtype or x.dtype),
        aten.new_zeros.default: lambda x, size, *, dtype=None, **_: torch.zeros(size, dtype=dtype or x.dtype),
        aten.new_ones.default: lambda x, size, *, dtype=None, **_: torch.ones(size, dtype=dtype or x.dtype),
        aten.new_full.default: lambda x, size, value, *, dtype=None, **_: torch.full(size, value, dtype=dtype or x.dtype),
        aten.diagonal.default: diagonal,
        aten.diag.default: lambda x, offset=0: diagonal(x, offset) if x.dim() == 2 else torch.diag_embed(x, offset),
    }


def log_softmax(x: Tensor, axis: int, dtype: torch.dtype | None = None) -> Tensor:
    """Without the softmax whose logarithm coremltools takes: in 16 bits that is 0 where a score is 17 below the greatest."""
    shifted = (x if dtype is None else x.to(dtype)) - x.amax(axis, keepdim=True)
    return shifted - shifted.exp().sum(axis, keepdim=True).log()


def clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Any:
    """Integers by comparison: Core ML clips floats only."""
    if x.is_floating_point():
        return NotImplemented
    x = x if low is None else torch.maximum(x, torch.full((), math.ceil(low), dtype=x.dtype))
    return x if high is None else torch.minimum(x, torch.full((), math.floor(high), dtype=x.dtype))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """With the line beyond the threshold, which coremltools leaves out: below 20 it shows."""
    if threshold >= 20:
        return NotImplemented
    return torch.where(x * beta > threshold, x, aten.softplus.default(x, beta))


def variance(x: Tensor, axes: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """Written out: coremltools takes the mean of squares where no axes are given, whatever the correction."""
    chosen = list(axes or range(x.dim()))
    count = math.prod(x.shape[axis] for axis in chosen)
    least = 1.0 if correction is None else correction
    squares = (x - x.mean(chosen, keepdim=True)).square()
    return squares.mean(chosen, keepdim=keepdim) * (count / max(count - least, 0.0) if count > least else math.inf)


def diagonal(x: Tensor, offset: int = 0, first: int = 0, second: int = 1) -> Tensor:
    """Every element that lies one row and one column on: coremltools takes all of the matrix."""
    axes = [axis for axis in range(x.dim()) if axis not in (first % x.dim(), second % x.dim())]
    moved = x.permute(*axes, first, second)
    rows, columns = moved.shape[-2:]
    count = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start, step = (offset if offset > 0 else -offset * columns), columns + 1
    return moved.reshape(*moved.shape[:-2], -1)[..., start : start + count * step - columns if count else start : step]


def nan_to_num(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """By comparison: coremltools writes at the places of what is not a number, of which there may be none."""
    limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    highest, lowest = (limits.max if posinf is None else posinf), (limits.min if neginf is None else neginf)
    return torch.where(x != x, 0.0 if nan is None else nan, x).clamp(lowest, highest)


def where(condition: Tensor, x: Tensor, y: Tensor) -> Any:
    """Of tensors with no axis along one: coremltools brings all to one shape, and fails where that is empty (9.0)."""
    if condition.dim() or x.dim() or y.dim():
        return NotImplemented
    return aten.where.self(condition.reshape(1), x.reshape(1), y.reshape(1)).reshape(())


def where_scalar(condition: Tensor, x: float, y: float) -> Any:
    """The same, with numbers."""
    return NotImplemented if condition.dim() else aten.where.Scalar(condition.reshape(1), x, y).reshape(())


def prelu(x: Tensor, weight: Tensor) -> Any:
    """In parts where channels have slopes of their own: Core ML has that for images only."""
    if x.dim() == 4 or weight.numel() == 1:
        return NotImplemented
    slopes = weight.reshape([-1] + [1] * (x.dim() - 2))
    return torch.relu(x) - slopes * torch.relu(-x)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """Writes along one axis in the middle go to the front, and the result back."""
    given = [axis for axis, index in enumerate(indices) if index is not None]
    axis, index = given[0], indices[given[0]]
    if len(given) != 1 or axis == 0 or index is None or index.dtype == torch.bool or index.dim() != 1:
        return NotImplemented
    shape = [*x.shape[:axis], index.shape[0], *x.shape[axis + 1 :]]
    written = aten.index_put.default(x.transpose(0, axis), [index], values.expand(shape).transpose(0, axis), accumulate)
    return written.transpose(0, axis)


def index_copy(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Tensor:
    """The rows of ``source`` in place of those of ``x`` at ``index``."""
    return _written(x, axis, index, source, accumulate=False)


def index_add(x: Tensor, axis: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """The rows of ``source`` added to those of ``x`` at ``index``."""
    return _written(x, axis, index, source if alpha == 1 else source * alpha, accumulate=True)


def _written(x: Tensor, axis: int, index: Tensor, source: Tensor, *, accumulate: bool) -> Tensor:
    front = x.transpose(0, axis)
    written: Tensor = aten.index_put.default(front, [index.reshape(-1)], source.transpose(0, axis), accumulate)
    return written.transpose(0, axis)


def _longer_than_padding(node: Node) -> bool:
    """Core ML has no output_padding. coremltools crops less for it; where that is not enough, or along three axes, it makes
    another shape without a word or refuses (9.0, converters/mil/frontend/torch/ops.py, _convolution)."""
    axes = AXES[node.target]
    more, padding = sizes(node, "output_padding", axes), sizes(node, "padding", axes)
    return any(more) and (axes == 3 or any(extra > size for extra, size in zip(more, padding, strict=True)))


def _bias_behind_zeros(module: GraphModule, node: Node) -> None:
    """The full result, zeros behind it as far as ``output_padding`` reaches, cut to size; then the bias, which zeros get too.

    The weight stays as it is: quantized, or of a palette's values.
    """
    axes = AXES[node.target]
    bias, padding = argument(node, "bias"), sizes(node, "padding", axes)
    beyond = [max(extra - size, 0) for extra, size in zip(sizes(node, "output_padding", axes), padding, strict=True)]
    kept = [int(size) for size in node.meta["val"].shape[2:]]
    stride, dilation = sizes(node, "stride", axes), sizes(node, "dilation", axes)
    graph, users = module.graph, list(node.users)
    node.args = (*node.args[:2], None, stride, [0] * axes, [0] * axes, argument(node, "groups"), dilation)
    node.kwargs = {}
    with graph.inserting_before(node.next):
        result = call(graph, node, aten.constant_pad_nd.default, node, [*itertools.chain(*((0, n) for n in reversed(beyond)))])
        for axis, (start, size) in enumerate(zip(padding, kept, strict=True), start=2):
            result = call(graph, node, aten.slice.Tensor, result, axis, start, start + size) if start else result
        if bias is not None:
            shaped = call(graph, node, aten.reshape.default, bias, [1, -1, *[1] * axes])
            result = call(graph, node, aten.add.Tensor, result, shaped)
    for user in users:
        user.replace_input_with(node, result)
