"""Interpolations that litert-torch lowers to TensorFlow's, which agree with PyTorch's for whole factors or given sizes only."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.capture import layer_of
from edgeopt.converters.graph_edits import argument, call, requantized
from edgeopt.errors import ConversionError

aten = torch.ops.aten
_NEAREST = {aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec}
_LINEAR = {aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec}


def pick_nearest(module: GraphModule) -> bool:
    """Nearest interpolation by other than whole factors becomes a choice of indices along each axis, as PyTorch rounds them."""
    nodes = [node for node in module.graph.nodes if node.target in _NEAREST and not _whole(node)]
    for number, node in enumerate(nodes):
        value: Any = node.args[0]
        for axis, indices in enumerate(_indices(node), start=2):
            module.register_buffer(name := f"_nearest_{number}_{axis}", indices)
            with module.graph.inserting_before(node):
                chosen = call(module.graph, node, aten.index_select.default, value, axis, module.graph.get_attr(name))
                value = requantized(module.graph, chosen, value) if axis < len(_lengths(node)) + 1 else chosen
        node.replace_all_uses_with(value)
        module.graph.erase_node(node)
    return bool(nodes)


def refuse_uneven_factors(module: GraphModule) -> None:
    """PyTorch interpolates by the factor that was given, TensorFlow by the ratio of the sizes: another grid."""
    for node in module.graph.nodes:
        factors = argument(node, "scale_factors") if node.target in _LINEAR else None
        if factors is None or argument(node, "align_corners"):
            continue
        lengths, wanted = _lengths(node), [int(size) for size in node.meta["val"].shape[2:]]
        if any(abs(length * factor - size) > 1e-6 for length, factor, size in zip(lengths, factors, wanted, strict=True)):
            raise ConversionError(
                f"TFLite refused the interpolation of layer {layer_of(node)} with scale_factor={tuple(factors)}",
                why=f"its input of {lengths} times that is no whole size: TFLite knows sizes only, and would use another grid",
                fix=f"give size={tuple(wanted)} or recompute_scale_factor=True, or an input that the factor makes whole",
            )


def _lengths(node: Node) -> list[int]:
    return [int(size) for size in node.args[0].meta["val"].shape[2:]]  # type: ignore[union-attr]


def _whole(node: Node) -> bool:
    """Whether each axis grows by a whole factor."""
    wanted = [int(size) for size in node.meta["val"].shape[2:]]
    return all(size % length == 0 for size, length in zip(wanted, _lengths(node), strict=True))


def _indices(node: Node) -> list[Tensor]:
    """Which element of its input each element of the result is, along each axis: PyTorch tells, asked for the numbers."""
    grids = torch.meshgrid(*(torch.arange(float(length)) for length in _lengths(node)), indexing="ij")
    found = []
    for axis, grid in enumerate(grids):
        result = node.target(grid[None, None], *node.args[1:], **node.kwargs)[0, 0]  # type: ignore[operator]
        first = tuple(slice(None) if other == axis else 0 for other in range(len(grids)))
        found.append(result[first].long())
    return found
