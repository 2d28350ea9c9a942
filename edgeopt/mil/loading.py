"""A saved ``.mlpackage`` read back into a MIL program: what ships is evaluated, not what the converter held in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeopt.errors import ConversionError

MODEL = "com.apple.CoreML/model.mlmodel"
WEIGHTS = "com.apple.CoreML/weights"
LAYERS_KEY = "edgeopt.capture.layers"
"""User-defined metadata: the layers of the PyTorch model, each with the names of its operators, as JSON."""


def read_spec(package: Path) -> Any:
    """The package's ``Model`` protobuf. Raises ConversionError where it is missing, broken or no ML program."""
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        spec.ParseFromString((package / "Data" / MODEL).read_bytes())
    except (OSError, DecodeError) as error:
        raise ConversionError(f"{package.name} is no Core ML package", why=str(error)) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise ConversionError(f"{package.name} holds no ML program", why=f"it holds {spec.WhichOneof('Type')}")
    return spec


def load_program(package: Path, spec: Any) -> Any:
    """The MIL program of ``package``, every weight as it is stored. Raises ConversionError where coremltools cannot read it."""
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        return load(spec, spec.specificationVersion, file_weights_dir=str(package / "Data" / WEIGHTS))
    except Exception as error:  # a reader of untrusted files: anything from KeyError to RuntimeError
        raise ConversionError(f"{package.name} cannot be read back", why=f"{type(error).__name__}: {error}") from error


def operations(block: Any) -> Iterator[Any]:
    """Every operation of ``block`` and of the blocks within, in order."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)
