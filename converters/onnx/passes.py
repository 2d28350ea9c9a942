"""Rewrites of the exporter's graph into forms that ONNX runtimes fuse into integer kernels, and that give stable bytes.

Each pass takes an ``onnx_ir.Model`` and changes it in place; values that are the program's stay what they are.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    NameFixPass,
    OutputFixPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

ONNX_DOMAIN = ""


_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm")


def clean(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], *, float_layers: bool) -> None:
    """All passes, in the order they need; ``float_layers`` is that of :func:`keep_float_layers`."""
    pool_spatial_means(model)
    transpose_weights(model)
    if float_layers:
        keep_float_layers(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    DeduplicateInitializersPass()(model)
    OutputFixPass()(model)
    name_interface(model, inputs, outputs)
    strip_notes(model)


def strip_notes(model: ir.Model) -> None:
    """Removes documentation and metadata: the exporter writes stack traces there, with paths of the machine that ran it."""
    model.doc_string = None
    model.metadata_props.clear()
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        holder.doc_string = None
        holder.metadata_props.clear()
        for node in ir.traversal.RecursiveGraphIterator(holder):
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.doc_string = None
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.doc_string = None
        value.metadata_props.clear()


def name_interface(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Gives the graph's inputs and outputs the program's names; a value inside that has such a name gets another."""
    taken = {*inputs, *outputs}
    interface = {*model.graph.inputs, *model.graph.outputs}
    for value in _values(model):
        if value not in interface and value.name in taken:
            value.name = f"{value.name}_value"
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    NameFixPass()(model)


def pool_spatial_means(model: ir.Model) -> None:
    """ReduceMean over all spatial axes becomes GlobalAveragePool, the same arithmetic.

    ONNX Runtime has an integer kernel for the pooling (QLinearGlobalAveragePool) and none for ReduceMean
    (docs/ContribOperators.md); its pattern needs the pooling between DequantizeLinear and QuantizeLinear, so the axes are
    dropped after them.
    """
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or not _is_spatial_mean(node):
            continue
        pooled = _node_after(node, "GlobalAveragePool", [node.inputs[0]], {})
        rank = _rank(node.inputs[0])
        pooled.outputs[0].shape = ir.Shape([*_dims(node.inputs[0])[:2], *[1] * (rank - 2)])
        pooled.outputs[0].type = node.outputs[0].type
        if node.attributes.get_int("keepdims", 1):
            _replace(node, pooled.outputs[0])
        else:
            _drop_axes(model, node, pooled, rank)


def _is_spatial_mean(node: ir.Node) -> bool:
    """Whether ``node`` averages a [N, C, spatial...] value over every spatial axis, and its input is quantized."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if axes is None or source is None or source.op_type != "DequantizeLinear" or not _rank(node.inputs[0]):
        return False
    rank = _rank(node.inputs[0])
    return rank > 2 and sorted(int(axis) % rank for axis in axes.numpy()) == list(range(2, rank))


def _drop_axes(model: ir.Model, mean: ir.Node, pooled: ir.Node, rank: int) -> None:
    """Replaces ``mean`` by ``pooled`` without its spatial axes: after the Q/DQ that follows, where one does."""
    axes = _constant(model, f"{mean.name}_axes", np.arange(2, rank, dtype=np.int64))
    last = pooled
    users = list(mean.outputs[0].consumers())
    if len(users) == 1 and users[0].op_type == "QuantizeLinear" and not mean.outputs[0].is_graph_output():
        quantize = users[0]
        last = _node_after(pooled, "QuantizeLinear", [pooled.outputs[0], *quantize.inputs[1:]], dict(quantize.attributes))
        last.outputs[0].shape, last.outputs[0].type = pooled.outputs[0].shape, quantize.outputs[0].type
        mean = quantize
    squeezed = _node_after(last, "Squeeze", [last.outputs[0], axes], {})
    _replace(mean, squeezed.outputs[0])


def transpose_weights(model: ir.Model) -> None:
    """Transpose(DequantizeLinear(weight)) becomes DequantizeLinear(weight stored transposed).

    The exporter writes a linear layer of a sequence so. TensorRT and older ONNX Runtimes look for the DequantizeLinear
    directly before MatMul, and otherwise compute the layer in float.
    """
    for node in list(model.graph):
        dequantize = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
            continue
        weight = dequantize.inputs[0].const_value
        if weight is None:
            continue
        order = list(node.attributes.get_ints("perm", list(reversed(range(len(weight.shape))))))
        stored = np.ascontiguousarray(weight.numpy().transpose(order))
        value = _constant(model, f"{dequantize.inputs[0].name}_transposed", stored)
        axis = dequantize.attributes.get_int("axis", 1)
        attributes = {"axis": ir.AttrInt64("axis", order.index(axis % len(order)))}
        replacement = _node_after(node, "DequantizeLinear", [value, *dequantize.inputs[1:]], attributes)
        _replace(node, replacement.outputs[0])


def keep_float_layers(model: ir.Model) -> None:
    """A layer with float weights between integers reads its input by a scale for each channel, all of them the same.

    ONNX Runtime (1.20 on, optimizer WeightBiasQuantization) takes such a layer for a forgotten one, and quantizes its weight by
    one scale for the whole; what is read by several scales it leaves alone. TensorRT takes no such scales, and needs none.
    """
    for node in list(model.graph):
        read = node.inputs[0] if node.op_type in _REQUANTIZED else None
        dequantize = None if read is None else read.producer()
        weight = node.inputs[1] if read is not None else None
        if read is None or dequantize is None or dequantize.op_type != "DequantizeLinear" or weight is None:
            continue
        if not weight.is_initializer():
            continue
        scale, zero = (_number(value) for value in dequantize.inputs[1:3])
        channels = _dims(read)[1] if _rank(read) > 1 else None
        if scale is None or zero is None or not isinstance(channels, int):
            continue
        parameters = [
            _constant(model, f"{read.name}_{name}", np.full(channels, number, number.dtype))
            for name, number in (("scales", scale), ("zero_points", zero))
        ]
        attributes: dict[str, ir.Attr] = {"axis": ir.AttrInt64("axis", 1)}
        own = _node_after(dequantize, "DequantizeLinear", [dequantize.inputs[0], *parameters], attributes)
        own.outputs[0].type, own.outputs[0].shape = read.type, read.shape
        own.outputs[0].name, own.name = f"{read.name}_{node.name}", f"{dequantize.name}_{node.name}"
        node.replace_input_with(0, own.outputs[0])


def _number(value: ir.Value | None) -> "np.generic | None":
    array = None if value is None or value.const_value is None else value.const_value.numpy()
    return None if array is None or array.size != 1 else array.reshape(-1)[0]


def _node_after(anchor: ir.Node, operator: str, inputs: Sequence[ir.Value | None], attributes: dict[str, ir.Attr]) -> ir.Node:
    node = ir.Node(ONNX_DOMAIN, operator, inputs, attributes.values(), name=f"{anchor.name}_{operator}")
    node.outputs[0].name = f"{anchor.outputs[0].name}_{operator}"
    assert anchor.graph is not None
    anchor.graph.insert_after(anchor, node)
    return node


def _replace(node: ir.Node, value: ir.Value) -> None:
    """Uses ``value`` wherever ``node``'s output is used; RemoveUnusedNodesPass takes ``node`` away."""
    value.type = node.outputs[0].type
    value.shape = node.outputs[0].shape
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)


def _constant(model: ir.Model, name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape))
    value.const_value = ir.Tensor(array, name=name)
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    model.graph.register_initializer(value)
    return value


def _values(model: ir.Model) -> list[ir.Value]:
    produced = [value for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs]
    return [*model.graph.inputs, *model.graph.initializers.values(), *produced]


def _dims(value: ir.Value | None) -> list[int | ir.SymbolicDim]:
    return list(value.shape.dims) if value is not None and value.shape is not None else []


def _rank(value: ir.Value | None) -> int:
    return len(_dims(value))
