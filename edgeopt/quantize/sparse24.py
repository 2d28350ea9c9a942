"""2:4 semi-structured sparsity (Mishra et al., 2021, arXiv:2104.08378): two of four weights along the input channels are zero.

After training and without fine-tuning: SparseGPT's choice and correction, layer by layer, each on what the pruned layers before
it leave of its inputs.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import WEIGHTED, kind_of, weight_shape
from edgeopt.core import SparseLayer
from edgeopt.quantize.replay import Replay, from_matrix, matrix, rows, thinned
from edgeopt.quantize.sparsegpt import prune_rows
from edgeopt.targets.schema import Sparsity


def considered(program: ExportedProgram, sparsity: Sparsity) -> tuple[SparseLayer, ...]:
    """Every layer with weights: pruned, or left dense with the reason."""
    return tuple(
        SparseLayer(layer=layer_of(node), pruned=not reason, reason=reason or "2:4 along the input channels")
        for node, reason in _judged(program, sparsity)
    )


def prune(program: ExportedProgram, sparsity: Sparsity, samples: Sequence[tuple[Tensor, ...]] = ()) -> ExportedProgram:
    """A copy of ``program`` with 2:4 weights where they can pay; shapes and dtypes stay.

    ``samples`` are flat inputs of the program, some dozen of them: what they leave between two pruned layers is held in memory
    for all of them. Without samples the largest magnitudes are kept and nothing is corrected. Weights that several layers
    share are pruned on the inputs of the first.
    """
    pruned = deepcopy(program)
    stored = _stored(pruned)
    replay, done = Replay(pruned, samples), set[str]()
    with torch.no_grad():
        for node, reason in _judged(pruned, sparsity):
            name = stored.get(str(node.args[1]), "")
            if not reason and name not in done:
                weight = pruned.state_dict[name]
                inputs = replay.inputs_of(node.name) if samples else []
                corrected = prune_rows(matrix(weight), _hessian(node, inputs))
                weight.copy_(from_matrix(corrected, weight.shape))
                done.add(name)
    return pruned


def _hessian(node: Node, inputs: list[Tensor]) -> Tensor:
    """The sum of x x^T over rows x of ``inputs``, float64."""
    _, *reduction = weight_shape(node)
    size = torch.Size(reduction).numel()
    total = torch.zeros(size, size, dtype=torch.float64)
    for value in inputs:
        found = thinned(rows(node, value), len(inputs))
        total += found.T @ found
    return total


def _judged(program: ExportedProgram, sparsity: Sparsity) -> list[tuple[Node, str]]:
    """Every layer with weights and why it stays dense, "" where 2:4 can pay."""
    stored = _stored(program)
    weighted = [node for node in program.graph.nodes if node.op == "call_function" and kind_of(node) in WEIGHTED]
    return [(node, _held_reason(node, stored) or _dense_reason(node, sparsity)) for node in weighted]


def _stored(program: ExportedProgram) -> dict[str, str]:
    """Names in the program's state by the name of the node that brings them into the graph."""
    signature = program.graph_signature
    found = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {node: name for node, name in found.items() if name in program.state_dict}


def _held_reason(node: Node, stored: dict[str, str]) -> str:
    """Why this layer's weights cannot be replaced; "" where they can."""
    weight = node.args[1]
    if not isinstance(weight, Node) or weight.name not in stored:
        return "its weights are computed inside the model"
    if any(kind_of(user) not in WEIGHTED or user.args[1] is not weight for user in weight.users):
        return "its weights serve another operator as well"
    return ""


def _dense_reason(node: Node, sparsity: Sparsity) -> str:
    """Why 2:4 cannot pay in this layer; "" where it can."""
    outputs, inputs = weight_shape(node)[:2]
    if kind_of(node) == "conv_transpose":
        return "a transposed convolution: sparse kernels take convolutions and matrix products"
    if kind_of(node) == "conv" and len(node.args) > 6 and node.args[6] != 1:
        return "a grouped or depthwise convolution: its reduction axis is too short"
    return gains_nothing(inputs, outputs, sparsity)


def gains_nothing(inputs: int, outputs: int, sparsity: Sparsity) -> str:
    """Why a layer of so many channels is not faster with zeros; "" where it is."""
    if inputs % sparsity.channel_multiple or outputs % sparsity.channel_multiple:
        return f"{inputs} -> {outputs} channels: not multiples of {sparsity.channel_multiple}"
    if inputs < sparsity.min_input_channels:
        return f"{inputs} input channels: below {sparsity.min_input_channels}, {sparsity.pattern} gains nothing"
    if outputs < sparsity.min_output_channels:
        return f"{outputs} output channels: below {sparsity.min_output_channels}, {sparsity.pattern} gains nothing"
    return ""
