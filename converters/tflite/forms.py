"""The program in operators that litert-torch and LiteRT's kernels compute right: rewritten exactly, before it is lowered."""

import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import kind_of, weight_shape
from edgeopt.converters.graph_edits import argument, call, change_constant, requantized, sizes
from edgeopt.converters.program import Program
from edgeopt.converters.tflite.resizing import pick_nearest, refuse_uneven_factors
from edgeopt.converters.transposed_convolutions import AXES, crop_behind, transposed, without_output_padding, written_out
from edgeopt.errors import ConversionError

aten = torch.ops.aten


def rewritten(program: Program) -> Program:
    """``program`` in forms for TFLite. Raises ConversionError, with layer and option, for what has none."""
    module: Any = program.exported.module(check_guards=False)
    for node in module.graph.nodes:
        _refuse_three_axes(node)
        _refuse_places_of_maxima(node)
    convolutions = transposed(module)
    for node in convolutions:
        _transposed_convolution(module, node)
    pools = [node for node in module.graph.nodes if _pads_one_axis(node)]
    for node in pools:
        _pool_along_each_axis(module, node)
    refuse_uneven_factors(module)
    resized = pick_nearest(module)
    flips = [node for node in module.graph.nodes if node.target is aten.flip.default and len(node.args[1]) > 1]
    for node in flips:
        _flip_one_by_one(module.graph, node)
    sorts = [node for node in module.graph.nodes if node.target in _SORTS]
    for node in sorts:
        _as_topk(node)
    means = [node for node in module.graph.nodes if _is_mean_in_float(node)]
    for node in means:
        _keep_behind(module.graph, node)
    logarithms = [node for node in module.graph.nodes if node.target is aten.log_softmax.int and _is_quantized(node)]
    for node in logarithms:
        _written_out_log_softmax(module.graph, node)
    orders = [node for node in module.graph.nodes if _only_values(node)]
    for node in orders:
        _values_by_their_places(module, node)
    changed = convolutions or pools or resized or flips or sorts or means or logarithms or orders
    return program.again(module) if _write_squares(module.graph) or changed else program


def _write_squares(graph: Graph) -> bool:
    """Squares as products, whether there are any: of five axes, as YOLO's heads have them, the converter refuses POW."""
    squares = [node for node in graph.nodes if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2]
    for node in squares:
        with graph.inserting_before(node):
            node.replace_all_uses_with(call(graph, node, aten.mul.Tensor, node.args[0], node.args[0]))
        graph.erase_node(node)
    return bool(squares)


def _only_values(node: Node) -> bool:
    """Whether ``node`` puts values in order and nobody asks where they were: LiteRT has TOPK_V2, which gives both."""
    users = [user for user in node.users if user.users]
    return node.target is aten.topk.default and bool(users) and all(user.args[1] == 0 for user in users)


def _values_by_their_places(module: GraphModule, node: Node) -> None:
    """The values read at their places. Without these litert-torch writes a sort that LiteRT does not run (0.10)."""
    dim = argument(node, "dim")
    for user in list(node.users):
        with module.graph.inserting_before(user):
            places = module.graph.call_function(operator.getitem, (node, 1))
            user.replace_all_uses_with(call(module.graph, node, aten.gather.default, node.args[0], dim, places))
        module.graph.erase_node(user)


def _flip_one_by_one(graph: Graph, node: Node) -> None:
    """REVERSE_V2 takes axes that follow each other only, and fails when it runs."""
    value, axes = node.args[:2]
    with graph.inserting_before(node):
        for axis in axes:  # type: ignore[union-attr]
            value = call(graph, node, aten.flip.default, value, [axis])
    node.replace_all_uses_with(value)  # type: ignore[arg-type]
    graph.erase_node(node)


def _is_mean_in_float(node: Node) -> bool:
    """Whether ``node`` averages floats and its result is quantized."""
    source: Any = node.args[0] if node.args else None
    is_mean = kind_of(node) in ("avg_pool", "adaptive_avg_pool") or "upsample_bilinear" in str(node.target)
    return is_mean and _is_quantized(node) and not (isinstance(source, Node) and "dequantize_per" in str(source.target))


def _keep_behind(graph: Graph, node: Node) -> None:
    """Twice the mean of halves. The converter would move the quantization before the mean, where values are larger than its
    scale holds (litert-converter 0.5).
    """
    source: Any = node.args[0]
    with graph.inserting_before(node):
        node.replace_input_with(source, call(graph, node, aten.mul.Tensor, source, 0.5))
    with graph.inserting_before(node.next):
        doubled = call(graph, node, aten.mul.Tensor, node, 2.0)
    node.replace_all_uses_with(doubled, delete_user_cb=lambda user: user is not doubled)


def _is_quantized(node: Node) -> bool:
    return any("quantize_per" in str(user.target) for user in node.users)


def _written_out_log_softmax(graph: Graph, node: Node) -> None:
    """Between Q/DQ the converter makes an operator in 8 bits of it, which LiteRT takes with a scale of 1/16 only."""
    x, axis = node.args[:2]
    with graph.inserting_before(node):  # not as the difference of the shifted scores, which the converter knows again
        greatest = call(graph, node, aten.amax.default, x, [axis], True)
        raised = call(graph, node, aten.exp.default, call(graph, node, aten.sub.Tensor, x, greatest))
        total = call(graph, node, aten.log.default, call(graph, node, aten.sum.dim_IntList, raised, [axis], True))
        node.replace_all_uses_with(call(graph, node, aten.sub.Tensor, x, call(graph, node, aten.add.Tensor, greatest, total)))
    graph.erase_node(node)


_SORTS = (aten.sort.default, aten.sort.stable)


def _as_topk(node: Node) -> None:
    """All of an axis in order is its greatest or least elements, as many as there are."""
    axis, descending = argument(node, "dim"), bool(argument(node, "descending"))
    source: Any = node.args[0]
    node.args, node.kwargs = (source, source.meta["val"].shape[axis], axis, descending), {}
    node.target = aten.topk.default


_POOL_OPTIONS: dict[Any, dict[str, int]] = {
    aten.max_pool2d.default: {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1},
    aten.avg_pool2d.default: {"kernel_size": 1, "stride": 1, "padding": 0},
}
"""The options with a number for each axis, in order, and those of a pooling that leaves an axis as it is."""


def _pads_one_axis(node: Node) -> bool:
    """Whether ``node`` is a pooling that pads one axis only, and does not count what it pads.

    The converter takes such paddings for TensorFlow's SAME and pads both axes: the result has another shape (litert-torch
    0.10). Averages that count what is padded go another way, as convolutions do.
    """
    if node.target not in _POOL_OPTIONS or (node.target is aten.avg_pool2d.default and argument(node, "count_include_pad")):
        return False
    return len({bool(size) for size in sizes(node, "padding", 2)}) == 2


def _pool_along_each_axis(module: GraphModule, node: Node) -> None:
    """First along the columns, then along the rows: the same maxima, and the same means of what is not padded."""
    options = _POOL_OPTIONS[node.target]
    given = {name: sizes(node, name, 2) for name in options if name != "stride"}
    given["stride"] = sizes(node, "stride", 2) if argument(node, "stride") else given["kernel_size"]
    ceil_mode = argument(node, "ceil_mode")
    others = (ceil_mode,) if "dilation" in options else (ceil_mode, False)
    source: Any = node.args[0]
    with module.graph.inserting_before(node):
        columns = [[given[name][0], idle] for name, idle in options.items()]
        first = requantized(module.graph, call(module.graph, node, node.target, source, *columns, *others), source)
    node.args = (first, *([idle, given[name][1]] for name, idle in options.items()), *others)
    node.kwargs = {}


def _refuse_three_axes(node: Node) -> None:
    """litert-torch writes operators that LiteRT does not have for the one, and nothing for the other."""
    is_transposed = node.target is aten.conv_transpose3d.input
    if is_transposed or (node.target is aten.conv3d.default and argument(node, "groups") > 1):
        kind, option = ("ConvTranspose3d", "three axes") if is_transposed else ("Conv3d", f"groups={argument(node, 'groups')}")
        raise ConversionError(
            f"TFLite refused the {kind} of layer {layer_of(node)} with {option}",
            why="LiteRT has no such operator",
            fix="use nn.Upsample and nn.Conv3d" if is_transposed else "give each group an nn.Conv3d of its own, and torch.cat",
        )


def _refuse_places_of_maxima(node: Node) -> None:
    """litert-torch gives zeros for them without a word (0.10, backend/lowerings/_jax_lowerings/lowerings.py)."""
    if "with_indices" not in str(node.target) or not str(node.target).startswith("aten.max_pool"):
        return
    if any(user.target is operator.getitem and user.args[1] == 1 and user.users for user in node.users):
        raise ConversionError(
            f"TFLite refused the max pooling of layer {layer_of(node)} with return_indices=True",
            why="TFLite's pooling gives no indices",
            fix="leave return_indices out (nn.Upsample or a transposed convolution instead of nn.MaxUnpool2d)",
        )


def _transposed_convolution(module: GraphModule, node: Node) -> None:
    """TRANSPOSE_CONV has no dilation, and padding as TensorFlow knows it: none, or what makes the result ``stride`` times as
    large. litert-torch fills ``output_padding`` with zeros, also where the kernel reaches into it (0.10,
    backend/lowerings/_convolution.py, build_transpose_conv).
    """
    axes = AXES[node.target]
    options = [sizes(node, name, axes) for name in ("stride", "padding", "output_padding", "dilation")]
    stride, padding, more, dilation = options
    kernel = [(size - 1) * step + 1 + extra for size, step, extra in zip(weight_shape(node)[2:], dilation, more, strict=True)]
    if (max(stride) > 1 or any(more)) and not without_output_padding(module, node):
        raise computed_weight(node, "output_padding" if any(more) else "dilation")
    if argument(node, "groups") > 1 and kernel == stride and max(stride) > 1 and (axes == 1 or 1 in kernel):
        _unlike_a_resize(module, node, kernel)
        return
    if max(stride) == 1:
        fits = all(out < size for size, out in zip(kernel, padding, strict=True))  # a convolution with the kernel turned round
    else:
        fits = all(size - step == 2 * out for size, step, out in zip(kernel, stride, padding, strict=True))
    if any(padding) and not fits:
        crop_behind(module, node)


def _unlike_a_resize(module: GraphModule, node: Node, kernel: list[int]) -> None:
    """A zero behind the kernel: the converter takes grouped kernels as long as their stride, along one axis, for a bilinear
    resize, whatever their weights (litert-converter 0.5).
    """
    axis = next(number for number, size in enumerate(kernel) if size > 1)
    behind = [int(number == axis) for number in range(len(kernel))]
    if not change_constant(module, node, 1, lambda weight: written_out(weight, [1] * len(behind), behind)):
        raise computed_weight(node, "groups")
    crop_behind(module, node, longer=axis + 2)


def computed_weight(node: Node, option: str) -> ConversionError:
    """What is changed in a weight must be known before the model runs."""
    return ConversionError(
        f"TFLite refused {option} of the transposed convolution of layer {layer_of(node)}",
        why="TFLite has no such option, and the weight is computed in forward: it cannot be stored in another form",
        fix=f"make the weight a parameter or a buffer, or drop {option} and pad or slice the result",
    )
