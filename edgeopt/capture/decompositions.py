"""Which composite operators are opened up so that their parts can be quantized, and which no-ops disappear."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgeopt.capture import lowering_forms

aten = torch.ops.aten


def table() -> dict[Any, Callable[..., Any]]:
    """Decompositions for ``ExportedProgram.run_decompositions``: attention, recurrent cells and norms of the batch itself.

    Everything else stays whole: converters know layer norm, GELU and softmax as one operator each.
    """
    return {
        aten.scaled_dot_product_attention.default: scaled_dot_product_attention,
        aten._native_batch_norm_legit.no_stats: batch_norm_of_batch,
        aten._native_batch_norm_legit_functional.default: batch_norm_training,
        aten.lstm_cell.default: lstm_cell,
        aten.gru_cell.default: gru_cell,
        **lowering_forms.table(),
    }


def lone_norms() -> dict[Any, Callable[..., Any]]:
    """Those for batch norms whose statistics are computed in the model; stored ones are gone by then."""
    return {aten._native_batch_norm_legit_no_training.default: batch_norm_inference}


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T * scale + mask) V, as torch documents it; [..., length, head size] each, dropout is off in inference."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if is_causal:
        allowed = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril()
        scores = torch.where(allowed, scores, torch.full((), -1e4))
    if attn_mask is not None:
        scores = torch.where(attn_mask, scores, torch.full((), -1e4)) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def batch_norm_inference(
    value: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm with given statistics: one multiplication and one addition per channel."""
    factor = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    offset = -mean * factor if bias is None else bias - mean * factor
    shape = (1, -1) + (1,) * (value.dim() - 2)
    nothing = value.new_empty((0,))
    return value * factor.view(shape) + offset.view(shape), nothing, nothing


def batch_norm_of_batch(
    value: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm without stored statistics: it normalises by its input's own."""
    axes = [axis for axis in range(value.dim()) if axis != 1]
    mean = value.mean(axes)
    variance = (value - mean.view(1, -1, *[1] * (value.dim() - 2))).square().mean(axes)
    return batch_norm_inference(value, weight, bias, mean, variance, momentum, eps)


def batch_norm_training(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    """A batch norm that stays in training mode; what it would store is left out, since no output depends on it."""
    normalised = batch_norm_of_batch(value, weight, bias, training, momentum, eps)
    return (*normalised, running_mean.clone(), running_variance.clone())


def lstm_cell(
    value: Tensor,
    state: list[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: gates i, f, g, o in torch's order; [batch, hidden] each."""
    hidden, cell = state
    gates = torch.nn.functional.linear(value, w_ih, b_ih) + torch.nn.functional.linear(hidden, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_cell(
    value: Tensor,
    hidden: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU: gates r, z, n in torch's order; [batch, hidden]."""
    r_in, z_in, n_in = torch.nn.functional.linear(value, w_ih, b_ih).chunk(3, -1)
    r_hidden, z_hidden, n_hidden = torch.nn.functional.linear(hidden, w_hh, b_hh).chunk(3, -1)
    reset, update = torch.sigmoid(r_in + r_hidden), torch.sigmoid(z_in + z_hidden)
    candidate = torch.tanh(n_in + reset * n_hidden)
    return candidate + update * (hidden - candidate)


def fold_pads(program: ExportedProgram) -> None:
    """Zero padding around a convolution becomes the convolution's own where both sides have the same; none at all vanishes."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.pad.default, aten.constant_pad_nd.default) or not _pads_zeros(node):
            continue
        amounts = [int(amount) for amount in node.args[1]]
        if not any(amounts):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif all(_can_pad(user, node, amounts) for user in node.users):
            for user in list(node.users):
                _pad_more(user, node.args[0], amounts)
            graph.erase_node(node)
    program.graph_module.recompile()


_CONVOLUTIONS: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 2}


def _pads_zeros(node: torch.fx.Node) -> bool:
    if node.target is aten.pad.default and len(node.args) > 2 and node.args[2] != "constant":
        return False
    value = node.args[-1] if len(node.args) > (3 if node.target is aten.pad.default else 2) else 0
    return not value


def _can_pad(user: torch.fx.Node, pad: torch.fx.Node, amounts: list[int]) -> bool:
    spatial = _CONVOLUTIONS.get(user.target, 0)
    pairs = [amounts[i : i + 2] for i in range(0, len(amounts), 2)]
    return bool(spatial) and user.args[0] is pad and len(pairs) <= spatial and all(low == high >= 0 for low, high in pairs)


def _pad_more(convolution: torch.fx.Node, source: Any, amounts: list[int]) -> None:
    spatial = _CONVOLUTIONS[convolution.target]
    arguments = [*convolution.args, *(None, [1] * spatial, [0] * spatial)[len(convolution.args) - 2 :]]
    given: list[int] = list(arguments[4])  # type: ignore[arg-type]
    own = given * (spatial if len(given) == 1 else 1)
    extra = [amounts[2 * axis] if 2 * axis < len(amounts) else 0 for axis in range(spatial)]  # the last axis comes first
    arguments[4] = [size + more for size, more in zip(own, reversed(extra), strict=True)]
    convolution.args = (source, *arguments[1:])


PLAIN_NAMES = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
}
"""Operators that converters stumble over, and others that do the same. Views become reshapes, since some of the copies that
are removed only made memory contiguous for a view; coremltools takes a trailing underscore for in-place."""


def remove_no_ops(program: ExportedProgram) -> None:
    """Removes copies that change nothing (dropout in eval mode, ``.to`` of the same dtype): each would end a fused pattern."""
    graph = program.graph_module.graph
    copies = (aten.clone.default, aten.alias.default, aten.detach.default, aten._to_copy.default, aten.dropout.default)
    outputs = {spec.arg.name for spec in program.graph_signature.output_specs}
    for node in list(graph.nodes):
        node.target = PLAIN_NAMES.get(node.target, node.target)
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            continue
        if node.op != "call_function" or node.target not in copies or node.name in outputs:
            continue
        source = node.args[0]
        before, after = source.meta.get("val"), node.meta.get("val")
        if isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    program.graph_module.recompile()
