"""Weights of a TFLite file: constant inputs of convolutions and fully connected layers, whose last axis is the inputs' one."""

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgeopt.compress.zeros.pattern import Stored

_OPERATOR, _TYPE = schema.BuiltinOperator, schema.TensorType
_WEIGHTED = (_OPERATOR.CONV_2D, _OPERATOR.FULLY_CONNECTED, _OPERATOR.TRANSPOSE_CONV)
"""Their second input is [outputs, height, width, inputs] or [outputs, inputs]."""
_DTYPES = {_TYPE.FLOAT32: np.float32, _TYPE.FLOAT16: np.float16, _TYPE.INT8: np.int8, _TYPE.UINT8: np.uint8}


def stored(path: Path) -> list[Stored]:
    """Every weight of the file once."""
    model = flatbuffer_utils.read_model_from_bytearray(path.read_bytes())
    found = {}
    for graph in model.subgraphs:
        sources = {int(operator.outputs[0]): operator for operator in graph.operators if len(operator.outputs)}
        for operator in graph.operators:
            if _code(model, operator) in _WEIGHTED:
                index = int(operator.inputs[1])
                source = sources.get(index)
                if source is not None and _code(model, source) == _OPERATOR.DEQUANTIZE:
                    index = int(source.inputs[0])
                tensor = graph.tensors[index]
                found[id(tensor)] = _weight(tensor, model.buffers[tensor.buffer].data)
    return [weight for weight in found.values() if weight is not None]


def _weight(tensor: Any, data: Any) -> Stored | None:
    """What ``tensor`` holds; None where the model computes it."""
    if data is None or not len(data):
        return None
    if tensor.type not in _DTYPES:
        raise ValueError(f"{_name(tensor)} holds weights of a type that is not known here")
    values = np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(tensor.shape)
    return Stored(_name(tensor), values != _zero(tensor, values.ndim), values.ndim - 1)


def _zero(tensor: Any, rank: int) -> Any:
    """The value that stands for zero, one for all or one per channel."""
    quantization = tensor.quantization
    points = quantization.zeroPoint if quantization is not None else None
    if points is None or not np.any(points):
        return 0
    if len(points) == 1:
        return int(points[0])
    return np.reshape(points, [-1 if axis == quantization.quantizedDimension else 1 for axis in range(rank)])


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _name(tensor: Any) -> str:
    return tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else str(tensor.name)
