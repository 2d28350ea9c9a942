"""A layer's ONNX file as the layer stands inside a network: integers in and out, without the Q/DQ at the edges of a file."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def take_off_float_edges(path: Path) -> None:
    """Takes QuantizeLinear off the float inputs of the file ``path`` and DequantizeLinear off its outputs, in place.

    An input that something else reads as well stays as it is, and so does an output that is computed in floats.
    """
    import onnx

    model = onnx.load(str(path))
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    _inputs(model.graph, constants)
    _outputs(model.graph, constants)
    onnx.save(model, str(path))


def _inputs(graph: "GraphProto", constants: dict[str, int]) -> None:
    for value in graph.input:
        readers = [node for node in graph.node if value.name in node.input]
        if (
            not readers
            or any(node.op_type != "QuantizeLinear" for node in readers)
            or len({_parameters(n) for n in readers}) > 1
        ):
            continue
        value.type.tensor_type.elem_type = constants[readers[0].input[2]]
        for reader in readers:
            _rename(graph, reader.output[0], value.name)
            graph.node.remove(reader)


def _outputs(graph: "GraphProto", constants: dict[str, int]) -> None:
    for value in graph.output:
        (last,) = (node for node in graph.node if value.name in node.output)
        quantized = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.output}
        if last.op_type == "DequantizeLinear" and last.input[0] in quantized:
            value.type.tensor_type.elem_type = constants[last.input[2]]
            graph.node.remove(last)
            inner = last.input[0]
            _rename(graph, inner, value.name)


def _parameters(node: "NodeProto") -> tuple[str, ...]:
    return tuple(node.input[1:])


def _rename(graph: "GraphProto", before: str, after: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == before:
                    names[index] = after
