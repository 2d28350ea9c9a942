"""2:4 semi-structured sparsity: in every four weights along the reduction axis the two smallest become zero.

Magnitude selection, one shot, as in Mishra et al., 2021 (arXiv:2104.08378), without the fine-tuning that the paper adds.
"""

from copy import deepcopy

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture import layer_of
from edgeopt.core import SparseLayer
from edgeopt.kinds import WEIGHTED, kind_of, weight_shape
from edgeopt.targets.schema import Sparsity

GROUP, KEPT = 4, 2


def considered(program: ExportedProgram, sparsity: Sparsity) -> tuple[SparseLayer, ...]:
    """Every layer with weights: pruned, or left dense with the reason."""
    return tuple(
        SparseLayer(layer=layer_of(node), pruned=not reason, reason=reason or "2:4 along the input channels")
        for node in _weighted(program)
        for reason in (dense_reason(node, sparsity),)
    )


def prune(program: ExportedProgram, sparsity: Sparsity) -> ExportedProgram:
    """A copy of ``program`` with 2:4 weights where they can pay; shapes and dtypes stay."""
    pruned = deepcopy(program)
    stored = {**pruned.graph_signature.inputs_to_parameters, **pruned.graph_signature.inputs_to_buffers}
    for node in _weighted(pruned):
        weight = node.args[1]
        if isinstance(weight, Node) and weight.name in stored and not dense_reason(node, sparsity):
            name = stored[weight.name]
            value = pruned.state_dict[name].detach()
            pruned.state_dict[name] = torch.nn.Parameter(value * mask(value), requires_grad=False)
    return pruned


def mask(weight: Tensor) -> Tensor:
    """Ones where the two largest magnitudes of each four consecutive input channels are; [out, in, ...] like ``weight``."""
    rows = weight.detach().movedim(1, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, GROUP).abs()
    kept = torch.zeros_like(groups).scatter_(-1, groups.topk(KEPT, dim=-1).indices, 1.0)
    return kept.reshape(rows.shape).movedim(-1, 1)


def dense_reason(node: Node, sparsity: Sparsity) -> str:
    """Why 2:4 cannot pay in this layer; "" where it can."""
    outputs, inputs = weight_shape(node)[:2]
    if kind_of(node) == "conv_transpose":
        return "a transposed convolution: sparse kernels take convolutions and matrix products"
    if kind_of(node) == "conv" and len(node.args) > 6 and node.args[6] != 1:
        return "a grouped or depthwise convolution: its reduction axis is too short"
    if inputs % sparsity.channel_multiple or outputs % sparsity.channel_multiple:
        return f"{inputs} -> {outputs} channels: not multiples of {sparsity.channel_multiple}"
    if inputs < sparsity.min_input_channels:
        return f"{inputs} input channels: below {sparsity.min_input_channels}, 2:4 gains nothing"
    if outputs < sparsity.min_output_channels:
        return f"{outputs} output channels: below {sparsity.min_output_channels}, 2:4 gains nothing"
    return ""


def _weighted(program: ExportedProgram) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function" and kind_of(node) in WEIGHTED]
