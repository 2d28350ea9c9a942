"""A saved ``.mlpackage``: rewritten so that the same program gives the same bytes, and read back to be checked.

Layout: Manifest.json, Data/com.apple.CoreML/model.mlmodel (protobuf, mlmodel/format/Model.proto of apple/coremltools) and
Data/com.apple.CoreML/weights/weight.bin.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.converters.operators import Operator, unsupported
from edgeopt.core import Structure
from edgeopt.errors import ConversionError
from edgeopt.mil.loading import MODEL, WEIGHTS, load_mil_program, operations, read_spec, spec_operations
from edgeopt.targets.schema import TargetProfile

_DATE = "com.github.apple.coremltools.conversion_date"
_NAMES = {"model.mlmodel": MODEL, "weights": WEIGHTS}


def make_reproducible(package: Path, metadata: dict[str, str]) -> None:
    """Rewrites what differs from one conversion to the next: dates, random identifiers, the order of protobuf maps.

    ``metadata`` is added to the model's user-defined metadata.
    """
    spec = read_spec(package)
    user_defined = spec.description.metadata.userDefined
    user_defined.pop(_DATE, None)
    user_defined.update(metadata)
    model = package / "Data" / MODEL
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # coremltools leaves it readable by its owner alone
    # An item's identifier only has to be unique within its package (modelpackage/src/ModelPackage.cpp).
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": "com.apple.CoreML",
            "description": f"CoreML Model {'Specification' if path == MODEL else 'Weights'}",
            "name": name,
            "path": path,
        }
        for name, path in _NAMES.items()
        if (package / "Data" / path).exists()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": str(uuid.uuid5(uuid.NAMESPACE_URL, MODEL)),
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def structure(spec: Any, profile: TargetProfile) -> Structure:
    """Operators by kind over every function and nested block; constants are data and are not counted."""
    counts: dict[str, int] = {}
    for operation in spec_operations(spec.mlProgram):
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return Structure(
        operators=dict(sorted(counts.items())),
        quantize=counts.get("quantize", 0),
        dequantize=counts.get("dequantize", 0),
        transpose=counts.get("transpose", 0),
        unsupported=unsupported((Operator(name=name, dtype="", rank=0) for name in counts), profile),
    )


def check_weights(package: Path, spec: Any) -> None:
    """Decodes every constant, compressed ones included.

    Raises ConversionError where one cannot be decoded, holds NaN or has another shape than declared.
    """
    for function in load_mil_program(package, spec).functions.values():
        for operation in operations(function):
            if operation.op_type.startswith("const"):
                _check_constant(operation, _decoded(operation))


def _decoded(operation: Any) -> Any:
    if operation.op_type == "const":
        return operation.outputs[0].val
    try:
        return operation.materialized_val_inference()
    except Exception as error:  # coremltools on whatever the file says: anything from IndexError to AssertionError
        raise _bad(operation, f"{type(error).__name__}: {error}"[:300]) from error


def _check_constant(operation: Any, value: Any) -> None:
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
