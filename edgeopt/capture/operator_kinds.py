"""Which ATen operators are which kind of operator in a target's profile, and the size of their work."""

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgeopt.targets.schema import OperatorKind

aten = torch.ops.aten

KINDS: dict[Any, OperatorKind] = {
    aten.conv1d.default: "conv",
    aten.conv1d.padding: "conv",
    aten.conv2d.default: "conv",
    aten.conv2d.padding: "conv",
    aten.conv_transpose1d.default: "conv_transpose",
    aten.conv_transpose2d.input: "conv_transpose",
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
    aten.mm.default: "matmul",
    aten.embedding.default: "embedding",
    aten.add.Tensor: "add",
    aten.sub.Tensor: "sub",
    aten.mul.Tensor: "mul",
    aten.div.Tensor: "div",
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.leaky_relu.default: "leaky_relu",
    aten.elu.default: "elu",
    aten.prelu.default: "prelu",
    aten.softmax.int: "softmax",
    aten._softmax.default: "softmax",
    aten.layer_norm.default: "layer_norm",
    aten.native_layer_norm.default: "layer_norm",
    aten.group_norm.default: "group_norm",
    aten.max_pool1d.default: "max_pool",
    aten.max_pool2d.default: "max_pool",
    aten.avg_pool1d.default: "avg_pool",
    aten.avg_pool2d.default: "avg_pool",
    aten.adaptive_avg_pool1d.default: "adaptive_avg_pool",
    aten.adaptive_avg_pool2d.default: "adaptive_avg_pool",
    aten.mean.dim: "mean",
    aten.sum.dim_IntList: "sum",
    aten.exp.default: "exp",
    aten.rsqrt.default: "rsqrt",
    aten.pow.Tensor_Scalar: "pow",
    aten.cat.default: "concat",
    aten.concat.default: "concat",
    aten.concatenate.default: "concat",
    aten.reshape.default: "reshape",
    aten.view.default: "reshape",
    aten.flatten.using_ints: "reshape",
    aten.squeeze.dim: "reshape",
    aten.squeeze.dims: "reshape",
    aten.squeeze.default: "reshape",
    aten.unsqueeze.default: "reshape",
    aten.permute.default: "transpose",
    aten.transpose.int: "transpose",
    aten.t.default: "transpose",
    aten.slice.Tensor: "slice",
    aten.select.int: "slice",
    aten.split.Tensor: "slice",
    aten.split_with_sizes.default: "slice",
    aten.chunk.default: "slice",
    aten.unbind.int: "slice",
    aten.constant_pad_nd.default: "pad",
    aten.pad.default: "pad",
    aten.index_select.default: "gather",
    aten.upsample_nearest2d.vec: "resize_nearest",
    aten.upsample_bilinear2d.vec: "resize_bilinear",
}

WEIGHTED: frozenset[OperatorKind] = frozenset({"conv", "conv_transpose", "linear"})
HEAVY: frozenset[OperatorKind] = WEIGHTED | {"matmul"}
PASS_THROUGH: frozenset[OperatorKind] = frozenset({"reshape", "transpose", "slice", "gather", "embedding", "max_pool"})
"""Kinds that only move values: what comes out has the scale and zero point of what goes in, in every runtime.

An embedding moves rows of its table, so its weight is quantized like an activation: per tensor, and only stored so."""
RECURRENT: frozenset[Any] = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})
"""Whole recurrent layers."""
JOINS: frozenset[Any] = frozenset({
    aten.cat.default, aten.concat.default, aten.concatenate.default, aten.stack.default, aten.hstack.default,
    aten.vstack.default,
    aten.dstack.default, aten.column_stack.default, aten.row_stack.default, aten.block_diag.default, aten.where.self,
    aten.where.ScalarOther, aten.where.ScalarSelf, aten.masked_fill.Scalar, aten.masked_fill.Tensor,
    aten.masked_scatter.default,
    aten.index_put.default, aten.index_copy.default, aten.index_fill.int_Scalar, aten.index_fill.int_Tensor,
    aten.slice_scatter.default, aten.select_scatter.default, aten.diagonal_scatter.default, aten.scatter.src,
    aten.scatter.value, aten.scatter_add.default, aten.maximum.default, aten.minimum.default, aten.max.other, aten.min.other,
    aten.pad.default, aten.constant_pad_nd.default,
})  # fmt: skip
"""Operators whose result holds values of several operands side by side, as they are."""
MOVES: frozenset[Any] = frozenset({
    aten.expand.default, aten.expand_as.default, aten.flip.default, aten.roll.default, aten.repeat.default, aten.tile.default,
    aten.clone.default, aten.contiguous.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default,
    aten.channel_shuffle.default, aten.repeat_interleave.self_int, aten.unflatten.int, aten.movedim.int, aten.swapaxes.default,
    aten.numpy_T.default, aten.mT.default, aten.rot90.default, aten.view_as.default, aten.reshape_as.default,
})  # fmt: skip
"""Operators that move all values of their first operand and change none, beside those with a kind."""
SELECTS: frozenset[Any] = frozenset({
    aten.index.Tensor, aten.gather.default, aten.take_along_dim.default, aten.diagonal.default, aten.masked_select.default,
    aten.narrow.default, aten.unfold.default, aten.topk.default, aten.sort.default, aten.amax.default, aten.amin.default,
    aten.max.dim, aten.min.dim, aten.max.default, aten.min.default,
})  # fmt: skip
"""Operators whose result is some of the values of their first operand, beside those with a kind."""
FUSING: frozenset[OperatorKind] = HEAVY | {"add", "sub", "mul"}
"""Kinds that can take the activation behind them into one pattern."""


def kind_of(node: Node) -> OperatorKind | None:
    """The kind of ``node``, or None for an operator that edgeopt does not know."""
    if node.target is operator.getitem and isinstance(node.args[0], Node):
        return "slice" if KINDS.get(node.args[0].target) == "slice" else None
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        low, high = [*node.args[1:], None, None][:2] if len(node.args) > 1 else (-1.0, 1.0)
        if low == 0 and high is None:
            return "relu"
        return "relu6" if (low, high) == (0, 6) else "hardtanh" if low is not None and high is not None else None
    if node.target is aten.pad.default:
        return "pad" if len(node.args) < 3 or node.args[2] == "constant" else None
    if node.target is aten.clamp_min.default:
        return "relu" if node.args[1] == 0 else None
    return KINDS.get(node.target)


def value_of(node: Node) -> Any:
    """The fake tensor that capture recorded for ``node``'s result."""
    return node.meta.get("val")


def is_float(node: Any) -> bool:
    """Whether ``node`` yields one float32 tensor."""
    value = value_of(node) if isinstance(node, Node) else None
    return isinstance(value, Tensor) and value.dtype == torch.float32


def yields_floats(node: Node) -> bool:
    """Whether ``node`` yields real or complex numbers of any precision, also among several results."""
    value = value_of(node)
    results = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex()) for each in results)


def elements(node: Node) -> int:
    """How many numbers ``node`` yields."""
    value = value_of(node)
    return int(value.numel()) if isinstance(value, Tensor) else 0


def weight_shape(node: Node) -> tuple[int, ...]:
    """Shape of the second argument of a weighted operator."""
    return tuple(int(size) for size in value_of(node.args[1]).shape)  # type: ignore[arg-type]


def groups_of(node: Node) -> int:
    """Groups of a convolution (argument 6 of ATen's); 1 of a linear layer."""
    groups = node.args[6] if kind_of(node) == "conv" and len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return groups


def macs(node: Node) -> int:
    """Multiply-accumulates of one operator; 0 where it is no convolution or matrix product, as a whole recurrent layer."""
    kind = kind_of(node)
    if kind in ("conv", "linear"):
        return elements(node) * math.prod(weight_shape(node)[1:])
    if kind == "conv_transpose":
        return elements(node.args[0]) * math.prod(weight_shape(node)[1:])  # type: ignore[arg-type]
    if kind == "matmul":
        return elements(node) * int(value_of(node.args[0]).shape[-1])  # type: ignore[arg-type]
    return 0
