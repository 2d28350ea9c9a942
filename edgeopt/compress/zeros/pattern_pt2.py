"""Weights of an exported program: parameters that reach a convolution or matrix product directly, dequantized or transposed."""

from operator import getitem
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture.operator_kinds import kind_of
from edgeopt.compress.zeros.pattern import Stored
from edgeopt.model.program_file import read_program

_AXES = {"linear": 1, "conv": 1, "conv_transpose": 0, "matmul": -2}
"""Of the second argument, the axis that is summed over."""

_TRANSPOSING = ("aten.t.", "aten.mT.", "aten.numpy_T.", "aten.transpose.", "aten.permute.")


def stored(path: Path) -> list[Stored]:
    """Every weight of the file once."""
    program = read_program(path)
    found = {}
    for node in program.graph.nodes:
        kind = kind_of(node) if node.op == "call_function" else None
        if kind in _AXES and isinstance(node.args[1], Node):
            weight = _weight(program, node.args[1], _AXES[kind])
            if weight is not None:
                found[weight.name, weight.axis] = weight
    return list(found.values())


def _weight(program: ExportedProgram, node: Node, axis: int, zero: Tensor | int = 0) -> Stored | None:
    """Where the tensor behind ``node`` differs from ``zero``, and what ``axis`` of ``node`` is there."""
    if node.op == "placeholder":
        name, value = _held(program, node)
        return None if value is None else Stored(name, (value.detach() != zero).numpy(), axis % value.ndim)
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    operator = str(node.target)
    if node.target is getitem and str(source.target).startswith("aten.split"):  # some outputs: all of them are looked at
        whole, cut = source.args[0], int(str(source.args[2])) if len(source.args) > 2 else 0
        return _weight(program, whole, axis, zero) if isinstance(whole, Node) and cut != axis else None
    if operator.startswith("quantized_decomposed.dequantize_per_tensor"):
        return _weight(program, source, axis, int(str(node.args[2])))
    if operator.startswith("quantized_decomposed.dequantize_per_channel"):
        return _weight(program, source, axis, _points(program, node))
    if operator.startswith(_TRANSPOSING):
        order = _order(node, source)
        return _weight(program, source, order[axis], zero)
    return None


def _held(program: ExportedProgram, node: Node) -> tuple[str, Tensor | None]:
    """Name and value of what a placeholder brings from the program's state; None for the user's inputs."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    name = names.get(node.name, "")
    value = program.state_dict.get(name, program.constants.get(name))
    return name.removesuffix(".weight"), value if isinstance(value, Tensor) else None


def _points(program: ExportedProgram, node: Node) -> Tensor | int:
    """Zero points of a weight quantized per channel, along their axis."""
    source, axis = node.args[2], int(str(node.args[3]))
    points = _held(program, source)[1] if isinstance(source, Node) else None
    if points is None or not bool(points.any()):
        return 0
    rank = node.meta["val"].ndim
    return points.reshape([-1 if position == axis else 1 for position in range(rank)])


def _order(node: Node, source: Node) -> list[int]:
    """The source's axis that each axis of ``node`` is."""
    order = list(range(source.meta["val"].ndim))
    if node.target is torch.ops.aten.permute.default:
        return [int(str(axis)) % len(order) for axis in list(node.args[1])]  # type: ignore[arg-type]
    if node.target is torch.ops.aten.numpy_T.default:
        return order[::-1]
    first, second = (int(str(axis)) for axis in node.args[1:3]) if len(node.args) > 2 else (-2, -1)
    order[first], order[second] = order[second], order[first]
    return order
