"""A saved ``.mlpackage``: rewritten so that the same program gives the same bytes, and read back to be checked.

Layout: Manifest.json, Data/com.apple.CoreML/model.mlmodel (protobuf, mlmodel/format/Model.proto of apple/coremltools) and
Data/com.apple.CoreML/weights/weight.bin.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.core import Structure, TensorSpec
from edgeopt.errors import ConversionError

_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS = "com.apple.CoreML/weights"
_DATE = "com.github.apple.coremltools.conversion_date"
_DTYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8"}
"""ArrayFeatureType.ArrayDataType of mlmodel/format/FeatureTypes.proto."""
_NAMES = {"model.mlmodel": _MODEL, "weights": _WEIGHTS}


def make_reproducible(package: Path, metadata: dict[str, str]) -> None:
    """Rewrites what differs from one conversion to the next: dates, random identifiers, the order of protobuf maps.

    ``metadata`` is added to the model's user-defined metadata.
    """
    spec = read_spec(package)
    user_defined = spec.description.metadata.userDefined
    user_defined.pop(_DATE, None)
    user_defined.update(metadata)
    model = package / "Data" / _MODEL
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # coremltools leaves it readable by its owner alone
    # An item's identifier only has to be unique within its package (modelpackage/src/ModelPackage.cpp).
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": "com.apple.CoreML",
            "description": f"CoreML Model {'Specification' if path == _MODEL else 'Weights'}",
            "name": name,
            "path": path,
        }
        for name, path in _NAMES.items()
        if (package / "Data" / path).exists()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": str(uuid.uuid5(uuid.NAMESPACE_URL, _MODEL)),
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def read_spec(package: Path) -> Any:
    """The package's ``Model`` protobuf. Raises ConversionError where it is missing, broken or no ML program."""
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        spec.ParseFromString((package / "Data" / _MODEL).read_bytes())
    except (OSError, DecodeError) as error:
        raise ConversionError(f"{package.name} is no Core ML package", why=str(error)) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise ConversionError(f"{package.name} holds no ML program", why=f"it holds {spec.WhichOneof('Type')}")
    return spec


def features(descriptions: Any) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as the package declares them."""
    return tuple(
        TensorSpec(
            name=feature.name,
            shape=tuple(int(size) for size in feature.type.multiArrayType.shape),
            dtype=_DTYPES[feature.type.multiArrayType.dataType],
        )
        for feature in descriptions
    )


def structure(spec: Any) -> Structure:
    """Operators by kind over every function and nested block; constants are data and are not counted."""
    counts: dict[str, int] = {}
    for operation in _operations(spec.mlProgram):
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return Structure(
        operators=dict(sorted(counts.items())),
        quantize=counts.get("quantize", 0),
        dequantize=counts.get("dequantize", 0),
        transpose=counts.get("transpose", 0),
    )


def _operations(program: Any) -> Iterator[Any]:
    blocks = [function.block_specializations[function.opset] for function in program.functions.values()]
    while blocks:
        for operation in blocks.pop().operations:
            yield operation
            blocks.extend(operation.blocks)


def check_weights(package: Path, spec: Any) -> None:
    """Decodes every constant, compressed ones included.

    Raises ConversionError where one holds NaN or has another shape than declared.
    """
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        program = load(spec, spec.specificationVersion, file_weights_dir=str(package / "Data" / _WEIGHTS))
    except Exception as error:  # a reader of untrusted files: anything from KeyError to RuntimeError
        raise ConversionError(f"{package.name} cannot be read back", why=f"{type(error).__name__}: {error}") from error
    for function in program.functions.values():
        for operation in _nested(function):
            _check_constant(operation)


def _nested(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _nested(inner)


def _check_constant(operation: Any) -> None:
    if operation.op_type.startswith("constexpr_"):
        value = operation.materialized_val_inference()
    elif operation.op_type == "const":
        value = operation.outputs[0].val
    else:
        return
    if not isinstance(value, np.ndarray | np.number):
        return
    if np.shape(value) != tuple(operation.outputs[0].shape):
        raise _bad(operation, f"it has the shape {np.shape(value)} instead of {tuple(operation.outputs[0].shape)}")
    if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():  # infinity is legal: masks hold it
        raise _bad(operation, "it holds NaN")


def _bad(operation: Any, why: str) -> ConversionError:
    return ConversionError(
        f"the constant {operation.outputs[0].name} of the Core ML package is broken",
        why=why,
        fix="export again; if it stays so, report it with the model",
    )
