"""The program in the operators that litert-torch and LiteRT's kernels compute right: rewritten exactly, before it is lowered."""

from typing import Any

from torch.fx import GraphModule, Node

from edgeopt.capture import layer_of
from edgeopt.converters.graph_edits import sizes
from edgeopt.converters.program import Program
from edgeopt.converters.transposed_convolutions import AXES, crop_behind, transposed, without_output_padding
from edgeopt.errors import ConversionError
from edgeopt.kinds import weight_shape


def rewritten(program: Program) -> Program:
    """``program`` in forms for TFLite. Raises ConversionError, with layer and option, for what has none."""
    module: Any = program.exported.module(check_guards=False)
    nodes = transposed(module)
    for node in nodes:
        _transposed_convolution(module, node)
    if not nodes:
        return program
    return program.again(module)


def _transposed_convolution(module: GraphModule, node: Node) -> None:
    """TRANSPOSE_CONV has no dilation, and padding as TensorFlow knows it: none, or what makes the result ``stride`` times as
    large. litert-torch fills ``output_padding`` with zeros, also where the kernel reaches into it (0.10,
    backend/lowerings/_convolution.py, build_transpose_conv).
    """
    axes = AXES[node.target]
    options = [sizes(node, name, axes) for name in ("stride", "padding", "output_padding", "dilation")]
    stride, padding, more, dilation = options
    kernel = [
        (size - 1) * step + 1 + extra
        for size, step, extra in zip(weight_shape(node)[2:], dilation, more, strict=True)
    ]
    if max(stride) > 1 or any(more):
        if not without_output_padding(module, node):
            raise computed_weight(node, "output_padding" if any(more) else "dilation")
    if max(stride) == 1:
        fits = all(out < size for size, out in zip(kernel, padding, strict=True))  # a convolution with the kernel turned round
    else:
        fits = all(size - step == 2 * out for size, step, out in zip(kernel, stride, padding, strict=True))
    if any(padding) and not fits:
        crop_behind(module, node)


def computed_weight(node: Node, option: str) -> ConversionError:
    """What is changed in a weight must be known before the model runs."""
    return ConversionError(
        f"TFLite refused {option} of the transposed convolution of layer {layer_of(node)}",
        why="TFLite has no such option, and the weight is computed in forward: it cannot be stored in another form",
        fix=f"make the weight a parameter or a buffer, or drop {option} and pad or slice the result",
    )
