"""Layers that take integers and give floats: litert-torch unfolds their weights, here they become 8-bit ones again.

XNNPACK and LiteRT's own kernels quantize the layer's input once more as it comes, each row with a range of its own, and
multiply integers: the file stays small and the layer fast, and its results are floats.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeopt.converters.tflite import file

_BOUNDS = (127, 63)
"""The greatest integer of a weight, in 8 bits and in 7."""
_OFF_GRID = 1e-3
"""In steps: what float32 leaves of a weight that was rounded to a multiple of its scale."""
_LEAST_SCALE = 2.0**-24
_VERSION = 12
"""tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc: FULLY_CONNECTED, floats with 8-bit weights per channel."""
_CODES = schema.BuiltinOperator


def fold_last_weights(model: Any) -> None:
    """Stores as int8 the weights of every FULLY_CONNECTED that reads integers made floats, where they stand on a grid."""
    for graph in model.subgraphs:
        makers = {int(index): operator for operator in graph.operators for index in operator.outputs}
        for operator in graph.operators:
            if file.code_of(model, operator) == _CODES.FULLY_CONNECTED and _reads_integers(model, makers, operator):
                _fold(model, graph, operator)


def _reads_integers(model: Any, makers: dict[int, Any], operator: Any) -> bool:
    maker = makers.get(int(operator.inputs[0]))
    while maker is not None and file.code_of(model, maker) == _CODES.RESHAPE:
        maker = makers.get(int(maker.inputs[0]))
    return maker is not None and file.code_of(model, maker) == _CODES.DEQUANTIZE


def _fold(model: Any, graph: Any, operator: Any) -> None:
    weight = graph.tensors[int(operator.inputs[1])]
    if weight.type != schema.TensorType.FLOAT32 or not file.is_constant(model, weight):
        return
    values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32).reshape(weight.shape)
    found = _on_grid(values)
    if found is None or sum(int(operator.inputs[1]) in other.inputs for other in graph.operators) > 1:
        return
    integers, scales = found
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
    model.buffers.append(buffer)
    weight.type, weight.buffer = schema.TensorType.INT8, len(model.buffers) - 1
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale, weight.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
    operator.builtinOptions.asymmetricQuantizeInputs = True
    code = model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, _VERSION)


def _on_grid(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Integers and a scale for each row, where the greatest magnitude of each row, or of all, tells one that all stand on."""
    rows = np.abs(values).max(axis=1).astype(np.float64)
    for peaks in (rows, np.full_like(rows, rows.max())):
        for bound in _BOUNDS:
            scales = np.maximum(peaks / bound, _LEAST_SCALE)
            steps = values / scales[:, None]
            integers = np.round(steps)
            if np.abs(steps - integers).max() < _OFF_GRID:
                return integers.astype(np.int8), scales.astype(np.float32)
    return None
