"""A TFLite file as objects of its schema: read, edited and written with the alignment that runtimes ask for.

Source of the format: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeopt.converters.interface import Array
from edgeopt.converters.operators import Operator
from edgeopt.converters.tflite.checks import TYPES, check_indices, check_size
from edgeopt.core import TensorSpec
from edgeopt.errors import ConversionError

BUFFER_ALIGNMENT = 16
"""schema.fbs: ``Buffer.data`` is ``force_align: 16``, which the generated Python code does not do by itself."""
SIZE_LIMIT_BYTES = 2**31 - 1
NO_BUFFER = 0
CUSTOM = schema.BuiltinOperator.CUSTOM
_IDENTIFIER = b"TFL3"
_OPERATOR_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_LAST_SHORT_CODE = 127


def read(content: bytes) -> Any:
    """The ``ModelT`` of a file's content. Raises ConversionError where it is no TFLite file."""
    from ai_edge_litert.tools import flatbuffer_utils

    try:
        if content[4:8] != _IDENTIFIER:
            raise ValueError("its identifier is not TFL3")
        check_size(content)
        model = flatbuffer_utils.read_model_from_bytearray(content)
    except Exception as error:  # the reader raises struct.error, IndexError and others on a broken file
        raise ConversionError("this is not a TFLite file", why=f"{type(error).__name__}: {error}"[:300]) from error
    try:
        check_indices(model)
    except ValueError as error:
        raise ConversionError("this TFLite file is broken", why=str(error)) from error
    return model


def write(model: Any, out: Path) -> None:
    """Writes ``model``; the same model always gives the same bytes."""
    _drop_unused_buffers(model)
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if size > SIZE_LIMIT_BYTES:
        raise ConversionError(
            f"the model's weights take {size / 2**30:.1f} GiB",
            why="a TFLite file ends at 2 GiB",
            fix="choose a target with int8 or float16 weights, or another format",
        )
    builder = _AlignedBuilder(size + 2**16)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    out.write_bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  the base class's name
        self.StartVector(x.itemsize, x.size, BUFFER_ALIGNMENT)
        self.head -= x.nbytes
        self.Bytes[self.head : self.head + x.nbytes] = x.tobytes()
        self.vectorNumElems = x.size
        return int(self.EndVector())


def _drop_unused_buffers(model: Any) -> None:
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def type_name(tensor: Any) -> str:
    """The tensor's dtype by numpy's name, such as ``int8``."""
    return str(TYPES[tensor.type])


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether the file holds the tensor's values."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def code_of(model: Any, operator: Any) -> int:
    """The operator's ``BuiltinOperator``."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def name_of(model: Any, operator: Any) -> str:
    """The operator's name, such as ``CONV_2D``; a custom one's own name."""
    code = code_of(model, operator)
    if code == CUSTOM:
        return f"CUSTOM {text(model.operatorCodes[operator.opcodeIndex].customCode)}"
    return str(_OPERATOR_NAMES.get(code, f"UNKNOWN {code}"))


def new_operator(model: Any, code: int, version: int, source: int, result: int) -> Any:
    """An operator from tensor ``source`` to tensor ``result``, its code registered; the caller places it."""
    found = next((i for i, c in enumerate(model.operatorCodes) if max(c.builtinCode, c.deprecatedBuiltinCode) == code), None)
    if found is None:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, _LAST_SHORT_CODE), version
        model.operatorCodes.append(entry)
        found = len(model.operatorCodes) - 1
    model.operatorCodes[found].version = max(model.operatorCodes[found].version, version)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = found, [source], [result]
    return operator


def new_tensor(graph: Any, like: Any, dtype: int, name: str, buffer: int) -> int:
    """Appends an unquantized tensor with the shape of ``like``; its index."""
    tensor = schema.TensorT()
    tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
    tensor.type, tensor.name, tensor.buffer = dtype, name, buffer
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def scale_of(tensor: Any) -> tuple[float, int] | None:
    """Scale and zero point of a tensor quantized as a whole; None where it is not, which a scale of 0 says too."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1 or not quantization.scale[0]:
        return None
    zero_points = quantization.zeroPoint
    return float(quantization.scale[0]), int(zero_points[0]) if zero_points is not None and len(zero_points) else 0


def interface(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs by their names in the signature; a dimension that is not fixed is -1.

    The tensors' own names stand for a file without a signature, or one that lists its interface in another order.
    """
    graph = model.subgraphs[0]
    signature = model.signatureDefs[0] if model.signatureDefs else None
    inputs = _specs(graph, graph.inputs, signature.inputs if signature else ())
    return inputs, _specs(graph, graph.outputs, signature.outputs if signature else ())


def _specs(graph: Any, indices: Sequence[int], entries: Sequence[Any]) -> tuple[TensorSpec, ...]:
    in_order = [int(entry.tensorIndex) for entry in entries] == [int(index) for index in indices]
    names = [entry.name for entry in entries] if in_order else [graph.tensors[index].name for index in indices]
    return tuple(_spec(graph.tensors[index], text(name)) for index, name in zip(indices, names, strict=True))


def operators(model: Any) -> Iterator[Operator]:
    """Every operator, as a device's table sees it."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
            outputs = [graph.tensors[index] for index in operator.outputs]
            moving = [*(tensor for tensor in inputs if not is_constant(model, tensor)), *outputs]
            yield Operator(
                name=name_of(model, operator),
                dtype=type_name(inputs[0]) if inputs else "",
                rank=max((_rank(tensor) for tensor in (*inputs, *outputs)), default=0),
                version=model.operatorCodes[operator.opcodeIndex].version,
                same_range=len({scale_of(tensor) for tensor in moving if scale_of(tensor) is not None}) <= 1,
            )


def _rank(tensor: Any) -> int:
    return len(tensor.shape) if tensor.shape is not None else 0


def _spec(tensor: Any, name: str) -> TensorSpec:
    signature = tensor.shapeSignature if tensor.shapeSignature is not None and len(tensor.shapeSignature) else tensor.shape
    scale, zero_point = scale_of(tensor) or (None, None)
    return TensorSpec(
        name=name,
        shape=tuple(int(size) for size in signature) if signature is not None else (),
        dtype=type_name(tensor),
        scale=scale,
        zero_point=zero_point,
    )


def text(value: bytes | str | None) -> str:
    """A name of the file, whether read (bytes) or set here."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def as_float16(data: Array, name: str) -> Array:
    """The bytes of float32 values as those of float16. Raises ConversionError where a value would become infinite."""
    values = np.frombuffer(data.tobytes(), np.float32)
    limit = float(np.finfo(np.float16).max)
    if values.size and float(np.abs(values).max()) > limit:
        raise ConversionError(
            f"the weight {name} holds values above {limit:.0f}",
            why="float16 cannot hold them",
            fix="normalise or clip that layer's weights, or choose a float32 or int8 target",
        )
    return np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
