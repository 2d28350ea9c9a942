"""A saved ``.mlpackage`` read back into a MIL program: what ships is evaluated, not what the converter held in memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeopt.errors import ConversionError
from edgeopt.support.files import size_of
from edgeopt.support.untrusted import MESSAGE_BYTES, check_artifact, read

MODEL = "com.apple.CoreML/model.mlmodel"
WEIGHTS = "com.apple.CoreML/weights"
LAYERS_KEY = "edgeopt.capture.layers"
"""User-defined metadata: the layers of the PyTorch model, each with the names of its operators, as JSON."""
_ELEMENTS_PER_BYTE, _FEW_ELEMENTS = 64, 1 << 20
"""One bit each is the least that a format has, and one such index stands for a few values of a palette."""


def read_spec(package: Path) -> Any:
    """The package's ``Model`` protobuf. Raises ConversionError where it is missing, broken or no ML program."""
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        check_artifact(package)
        spec.ParseFromString(read(package / "Data" / MODEL, MESSAGE_BYTES))
    except (OSError, DecodeError) as error:
        raise ConversionError(f"{package.name} is no Core ML package", why=str(error)) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise ConversionError(f"{package.name} holds no ML program", why=f"it holds {spec.WhichOneof('Type')}")
    return spec


def load_mil_program(package: Path, spec: Any) -> Any:
    """The MIL program of ``package``, every weight as it is stored. Raises ConversionError where coremltools cannot read it."""
    from coremltools.converters.mil.frontend.milproto.load import load

    _refuse_large_constants(package, spec)
    try:
        return load(spec, spec.specificationVersion, file_weights_dir=str(package / "Data" / WEIGHTS))
    except Exception as error:  # a reader of untrusted files: anything from KeyError to RuntimeError
        raise ConversionError(f"{package.name} cannot be read back", why=f"{type(error).__name__}: {error}") from error


def _refuse_large_constants(package: Path, spec: Any) -> None:
    """A constant says its shape itself, and several may be the same bytes: each is allocated as it says."""
    most = _ELEMENTS_PER_BYTE * size_of(package) + _FEW_ELEMENTS
    left = most
    for operation in spec_operations(spec.mlProgram):
        if operation.type.startswith("const"):
            left -= sum(_elements(value.type) for value in (*operation.outputs, *operation.attributes.values()))
        if left < 0:
            why = f"together they have more than {most} elements, and the package {size_of(package)} bytes"
            raise ConversionError(f"{package.name} has constants that it cannot hold", why=why, fix="get the package again")


def _elements(kind: Any) -> int:
    return math.prod(dimension.constant.size for dimension in kind.tensorType.dimensions)


def spec_operations(program: Any) -> Iterator[Any]:
    """Every operation of the protobuf ``Program``, of all functions and of the blocks within."""
    blocks = [function.block_specializations[function.opset] for function in program.functions.values()]
    while blocks:
        for operation in blocks.pop().operations:
            yield operation
            blocks.extend(operation.blocks)


def operations(block: Any) -> Iterator[Any]:
    """Every operation of ``block`` and of the blocks within, in order."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)
