"""An ONNX file that anybody may have written, as its protobuf message."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeopt.converters.program import content_of, first_line
from edgeopt.errors import ConversionError

if TYPE_CHECKING:
    import onnx


def read(path: Path) -> "onnx.ModelProto":
    """The message in ``path``, without what it keeps in other files. Raises ConversionError where it is no ONNX model."""
    import onnx

    content = content_of(path)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise ConversionError("this is not an ONNX file", why=first_line(error)) from error
    if not model.HasField("graph"):
        raise ConversionError("this is not an ONNX file", why="it has no graph")
    return model


def text(value: str | bytes) -> str:
    """A name of the file: protobuf gives the bytes of one that is no UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def dtype_name(element: int) -> str:
    """The name of a ``TensorProto.DataType``, as numpy has it; "" for what is no tensor, a number for one that is not known."""
    import onnx

    if not element:
        return ""
    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)))
    except KeyError:
        return f"element type {element}"
