"""Edits of a converted TFLite model: its interface's names and order, floats at the border, float16 weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeopt.converters.tflite import file
from edgeopt.errors import ConversionError

SIGNATURE = "serving_default"
_QUANTIZE_VERSION = 1
_DEQUANTIZE_VERSION = {schema.TensorType.UINT8: 1, schema.TensorType.INT8: 2, schema.TensorType.FLOAT16: 3}
"""tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc."""
_WEIGHTED = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.TRANSPOSE_CONV,
    schema.BuiltinOperator.CONV_3D,
    schema.BuiltinOperator.FULLY_CONNECTED,
    schema.BuiltinOperator.BATCH_MATMUL,
    schema.BuiltinOperator.EMBEDDING_LOOKUP,
    schema.BuiltinOperator.GATHER,
}


def name_interface(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Puts inputs and outputs into the program's order and gives them its names, in graph and signature alike.

    litert-torch names them args_0, output_0, ... and a signature lists them by the alphabet: output_10 before output_2.
    """
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    graph.inputs = _ordered(signature.inputs, "args_", inputs)
    graph.outputs = _ordered(signature.outputs, "output_", outputs)
    signature.signatureKey = SIGNATURE
    signature.inputs = _name(graph, graph.inputs, inputs)
    signature.outputs = _name(graph, graph.outputs, outputs)


def _ordered(entries: Sequence[Any], prefix: str, names: Sequence[str]) -> list[int]:
    """Tensor indices by the number after ``prefix`` in their names."""
    by_number = {entry.name.decode().removeprefix(prefix): int(entry.tensorIndex) for entry in entries}
    missing = [name for number, name in enumerate(names) if str(number) not in by_number]
    if missing or len(by_number) != len(names):
        raise ConversionError(
            f"litert-torch gave {len(by_number)} tensors for {len(names)} of the program",
            why=f"missing: {', '.join(missing) or 'none'}",
            fix="remove inputs that the model does not use",
        )
    return [by_number[str(number)] for number in range(len(names))]


def _name(graph: Any, indices: Sequence[int], names: Sequence[str]) -> list[Any]:
    entries = []
    for index, name in zip(indices, names, strict=True):
        graph.tensors[index].name = name
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        entries.append(entry)
    return entries


def float_border(model: Any) -> None:
    """Float32 inputs and outputs where the model has quantized ones: QUANTIZE after each input, DEQUANTIZE before each output.

    litert-torch takes both away wherever the program quantizes its inputs and outputs. Names move to the new tensors.
    """
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    before, after = [], []
    for entries, indices in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs)):
        for position, index in enumerate(indices):
            inner = graph.tensors[index]
            if file.scale_of(inner) is None:
                continue
            outer = file.new_tensor(graph, inner, schema.TensorType.FLOAT32, inner.name, file.NO_BUFFER)
            inner.name = f"{file.text(inner.name)}_quantized"
            if indices is graph.inputs:
                code = schema.BuiltinOperator.QUANTIZE
                before.append(file.new_operator(model, code, _QUANTIZE_VERSION, outer, index))
            else:
                version = _DEQUANTIZE_VERSION[inner.type]
                after.append(file.new_operator(model, schema.BuiltinOperator.DEQUANTIZE, version, index, outer))
            indices[position] = outer
            for entry in entries:
                if entry.tensorIndex == index:
                    entry.tensorIndex = outer
    graph.operators = [*before, *graph.operators, *after]


def half_weights(model: Any) -> None:
    """Stores the weights and biases of convolutions, matrix products and embeddings as float16, each with a DEQUANTIZE.

    What the GPU delegate documents and computes on without the DEQUANTIZE; on a CPU, XNNPACK unpacks them once at start.
    Source: https://ai.google.dev/edge/litert/models/post_training_float16_quant
    """
    halves: dict[int, int] = {}
    for graph in model.subgraphs:
        dequantize = []
        for index in sorted(_weights(model, graph)):
            tensor = graph.tensors[index]
            if tensor.buffer not in halves:
                buffer = schema.BufferT()
                buffer.data = file.as_float16(model.buffers[tensor.buffer].data, file.text(tensor.name))
                model.buffers.append(buffer)
                halves[tensor.buffer] = len(model.buffers) - 1
            name = f"{file.text(tensor.name)}_float16"
            half = file.new_tensor(graph, tensor, schema.TensorType.FLOAT16, name, halves[tensor.buffer])
            tensor.buffer = file.NO_BUFFER
            version = _DEQUANTIZE_VERSION[schema.TensorType.FLOAT16]
            dequantize.append(file.new_operator(model, schema.BuiltinOperator.DEQUANTIZE, version, half, index))
        graph.operators = [*dequantize, *graph.operators]


def _weights(model: Any, graph: Any) -> set[int]:
    """Indices of the constant float32 tensors that weighted operators read."""
    return {
        int(index)
        for operator in graph.operators
        if file.code_of(model, operator) in _WEIGHTED
        for index in operator.inputs
        if index >= 0
        and graph.tensors[index].type == schema.TensorType.FLOAT32
        and file.is_constant(model, graph.tensors[index])
        and np.size(graph.tensors[index].shape) > 0
    }
