"""Weights of an ONNX file: constants that reach a convolution or matrix product directly, by Q/DQ or by transpositions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.compress.zeros.pattern import Stored

Array = NDArray[Any]
_PASSING = ("Identity", "Cast", "QuantizeLinear")
"""Operators behind which a weight is zero where it was; of QuantizeLinear, values that round to zero stay counted."""


class _Graph:
    """A graph, and those around it whose values its nodes may use."""

    def __init__(self, graph: Any, outer: "_Graph | None" = None) -> None:
        self.constants: dict[str, Any] = dict(outer.constants) if outer else {}
        self.producers: dict[str, Any] = dict(outer.producers) if outer else {}
        self.constants |= {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            self.producers |= dict.fromkeys(node.output, node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.nodes = list(graph.node)

    def weight(self, name: str, axis: int, zero: Array | int = 0) -> Stored | None:
        """Where the constant behind ``name`` differs from ``zero``, and what ``axis`` of ``name`` is there."""
        if name in self.constants:
            values = numpy_helper.to_array(self.constants[name])
            return Stored(self.constants[name].name or name, np.asarray(values != zero), axis % values.ndim)
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type == "Transpose":
            source = self.weight(node.input[0], 0, zero)
            order = _attribute(node, "perm", list(reversed(range(source.nonzero.ndim))) if source else [])
            return source and source._replace(axis=order[axis])
        if node.op_type == "DequantizeLinear":
            return self._dequantized(node, axis)
        return self.weight(node.input[0], axis, zero) if node.op_type in _PASSING else None

    def _dequantized(self, node: Any, axis: int) -> Stored | None:
        stored = self.weight(node.input[0], axis)
        if stored is None or len(node.input) < 3 or not node.input[2]:
            return stored
        points = numpy_helper.to_array(self.constants[node.input[2]])
        shape = [1] * stored.nonzero.ndim
        if points.ndim == 1:
            shape[_attribute(node, "axis", 1)] = -1
            points = points.reshape(shape)
        elif points.ndim:
            points = np.repeat(points, _attribute(node, "block_size", 1), _attribute(node, "axis", 1))
        return self.weight(node.input[0], axis, points)


def stored(path: Path) -> list[Stored]:
    """Every weight of the file once."""
    found = {}
    for graph in _graphs(_Graph(model := onnx.load(str(path)).graph), model):
        for node in graph.nodes:
            for name, axis, zero in _operands(graph, node):
                weight = graph.weight(name, axis, zero)
                if weight is not None:
                    found[weight.name, weight.axis] = weight
    return list(found.values())


def _graphs(graph: _Graph, proto: Any) -> Iterator[_Graph]:
    """``graph`` and the graphs inside it (If, Loop)."""
    yield graph
    for node in proto.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(_Graph(inner, graph), inner)


def _operands(graph: _Graph, node: Any) -> Iterator[tuple[str, int, Array | int]]:
    """Inputs of ``node`` that it multiplies with: the name, the axis it sums over, and the value that stands for zero."""
    given = [*node.input, *[""] * 9]
    match node.op_type:
        case "Conv" | "FusedConv":
            yield given[1], 1, 0
        case "ConvTranspose":
            yield given[1], 0, 0
        case "Gemm" | "FusedGemm":
            yield given[1], 1 if _attribute(node, "transB", 0) else 0, 0
            yield given[0], 0 if _attribute(node, "transA", 0) else 1, 0
        case "MatMul":
            yield given[1], -2, 0
            yield given[0], -1, 0
        case "ConvInteger" | "MatMulInteger":
            yield given[1], 1 if node.op_type == "ConvInteger" else -2, _point(graph, given[3])
        case "QLinearConv" | "QLinearMatMul":
            yield given[3], 1 if node.op_type == "QLinearConv" else -2, _point(graph, given[5])


def _point(graph: _Graph, name: str) -> Array | int:
    """A zero point as a number; one per output channel is an array that only symmetric weights (all 0) have here."""
    if name not in graph.constants:
        return 0
    points = numpy_helper.to_array(graph.constants[name])
    return int(points.flat[0]) if points.size == 1 or not points.any() else points


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)
