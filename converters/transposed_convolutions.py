"""Transposed convolutions in the forms that a format computes right: the same sums, with other weights or axes around them.

A transposed convolution adds ``weight[k] * x[i]`` to position ``stride * i + dilation * k`` of its full result, of which
``padding`` leaves out the first positions and ``padding - output_padding`` the last.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.converters.graph_edits import argument, call, change_constant, move_after, sizes

aten = torch.ops.aten
AXES: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}


def transposed(module: GraphModule) -> list[Node]:
    """The transposed convolutions of ``module``."""
    return [node for node in module.graph.nodes if node.target in AXES]


def without_output_padding(module: GraphModule, node: Node) -> bool:
    """Zeros behind the kernel make the result as much longer as ``output_padding`` does. False where nothing can be done.

    Dilated kernels are written out, with zeros between.
    """
    axes = AXES[node.target]
    more, dilation = sizes(node, "output_padding", axes), sizes(node, "dilation", axes)
    if not any(more) and max(dilation) == 1:
        return True
    if not change_constant(module, node, 1, lambda weight: written_out(weight, dilation, more)):
        return False
    stride, padding = sizes(node, "stride", axes), sizes(node, "padding", axes)
    node.args = (*_first_three(node), stride, padding, [0] * axes, argument(node, "groups"), [1] * axes)
    node.kwargs = {}
    return True


def written_out(weight: Tensor, dilation: Sequence[int], more: Sequence[int]) -> Tensor:
    """A kernel [in, out, spatial...] with zeros between its elements and ``more`` of them behind the last."""
    shape = [size * step - step + 1 + extra for size, step, extra in zip(weight.shape[2:], dilation, more, strict=True)]
    found = weight.new_zeros([*weight.shape[:2], *shape])
    places = tuple(slice(0, size * step - step + 1, step) for size, step in zip(weight.shape[2:], dilation, strict=True))
    found[(slice(None), slice(None), *places)] = weight
    return found


def crop_behind(module: GraphModule, node: Node, longer: int | None = None) -> None:
    """The full result without ``padding``, and slices of it. Needs a node without ``output_padding``.

    ``longer``: the axis along which its kernel has become longer than it was, and so the result.
    """
    axes = AXES[node.target]
    stride, padding = sizes(node, "stride", axes), sizes(node, "padding", axes)
    kept = [int(size) for size in node.meta["val"].shape[2:]]
    node.args = (*_first_three(node), stride, [0] * axes, [0] * axes, argument(node, "groups"), sizes(node, "dilation", axes))
    node.kwargs = {}

    def crop(value: Node) -> Node:
        for axis, (start, size) in enumerate(zip(padding, kept, strict=True), start=2):
            if start or longer == axis:
                value = call(module.graph, node, aten.slice.Tensor, value, axis, start, start + size)
        return value

    move_after(module.graph, node, crop)


def _first_three(node: Node) -> tuple[Any, Any, Any]:
    return node.args[0], node.args[1], argument(node, "bias")
