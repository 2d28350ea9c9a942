"""The user's ``evaluate`` on anything that predicts: the torch program, an artifact in a worker, later a device."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import TensorSpec
from edgeopt.errors import EdgeoptError, EvaluationError, InputError
from edgeopt.model import Evaluate
from edgeopt.user_code import cause

Array = NDArray[np.generic]
Run = Callable[[tuple[Array, ...]], tuple[Array, ...]]
"""One inference on arrays of exactly the model's shapes and dtypes."""

DTYPES = {"bfloat16": np.float32}


def evaluate(function: Evaluate, run: Run, specs: tuple[TensorSpec, ...], subject: str) -> dict[str, float]:
    """The numbers that ``function`` finds for ``run``. Raises EvaluationError with the user's line, naming ``subject``."""
    try:
        found = function(lambda *arrays: predict(run, specs, arrays))
    except EdgeoptError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"evaluate raised on {subject}", why=cause(error), fix="predict(*arrays) takes and returns numpy arrays"
        ) from error
    if not isinstance(found, dict) or not found or not all(_is_number(value) for value in found.values()):
        why = f"it returned {found!r}"[:300]
        raise EvaluationError(f"evaluate gave no numbers for {subject}", why=why, fix='return a dict such as {"top1": 0.71}')
    return {str(name): float(value) for name, value in found.items()}


def predict(run: Run, specs: tuple[TensorSpec, ...], arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    """Outputs for ``arrays``; a batch larger than the model's own is cut, a remainder filled up and the filling dropped."""
    if len(arrays) != len(specs):
        raise InputError(f"predict got {len(arrays)} arrays, the model takes {len(specs)}", fix=_takes(specs))
    ready = [_fitting(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    if all(array.shape == spec.shape for array, spec in zip(ready, specs, strict=True)):
        return run(tuple(ready))
    size, rows = _batch_sizes(ready, specs)
    parts = []
    for start in range(0, rows, size):
        part = [array[start : start + size] for array in ready]
        missing = size - len(part[0])
        parts.append(run(tuple(np.concatenate((a, np.repeat(a[-1:], missing, 0))) if missing else a for a in part)))
    return tuple(np.concatenate(columns)[:rows] for columns in zip(*parts, strict=True))


def _fitting(array: Any, spec: TensorSpec) -> Array:
    value = np.asarray(array.detach().cpu().numpy() if hasattr(array, "detach") else array)
    wanted = np.dtype(DTYPES.get(spec.dtype, spec.dtype))
    if np.issubdtype(value.dtype, np.floating) != np.issubdtype(wanted, np.floating):
        raise InputError(f"predict got {value.dtype} for input {spec.name}, which is {spec.dtype}", fix=_takes((spec,)))
    return np.ascontiguousarray(value, dtype=wanted)


def _batch_sizes(arrays: list[Array], specs: tuple[TensorSpec, ...]) -> tuple[int, int]:
    rows = {array.shape[0] for array in arrays if array.ndim}
    sizes = {spec.shape[0] for spec in specs if spec.shape}
    same_rest = all(array.shape[1:] == spec.shape[1:] for array, spec in zip(arrays, specs, strict=True))
    if len(rows) != 1 or len(sizes) != 1 or not same_rest or 0 in rows:
        given = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"predict got shapes {given}", fix=_takes(specs))
    return sizes.pop(), rows.pop()


def _takes(specs: tuple[TensorSpec, ...]) -> str:
    """What to pass: ``predict(image, ids) with image 1x3x224x224:float32, ...``."""
    described = ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape))}:{spec.dtype}" for spec in specs)
    return f"in evaluate, call predict({', '.join(spec.name for spec in specs)}) with {described}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) and math.isfinite(float(value))
