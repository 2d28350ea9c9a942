"""The user's ``evaluate`` on anything that predicts: the torch program, an artifact in a worker, later a device."""

import hashlib
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import TensorSpec
from edgeopt.errors import EdgeoptError, EvaluationError, InputError
from edgeopt.model.model import Evaluate
from edgeopt.model.slices import is_slice
from edgeopt.model.user_code import cause, reported_as, users_line

Array = NDArray[np.generic]
Run = Callable[[tuple[Array, ...]], tuple[Array, ...]]
"""One inference on arrays of exactly the model's shapes and dtypes."""

DTYPES = {"bfloat16": np.float32}
_EXAMPLE = '{"top1": 0.71}'


def evaluate(function: Evaluate, run: Run, specs: tuple[TensorSpec, ...], subject: str) -> dict[str, float]:
    """The numbers that ``function`` finds for ``run``. Raises EvaluationError with the user's line, naming ``subject``."""

    def raised(error: BaseException) -> EdgeoptError:
        called = users_line(error) != ""  # else it does not even take predict
        fix = "predict(*arrays) takes and returns numpy arrays" if called else f"write it as evaluate(predict) -> {_EXAMPLE}"
        return EvaluationError(f"evaluate raised on {subject}", why=cause(error), fix=fix)

    with reported_as(raised):
        found = function(lambda *arrays: predict(run, specs, arrays))
    if not isinstance(found, dict) or not found:
        raise EvaluationError(f"evaluate gave no numbers for {subject}", why=_returned(found), fix=f"return a dict: {_EXAMPLE}")
    return {str(name): _number(name, value, found, subject) for name, value in found.items()}


def _number(name: object, value: Any, found: dict[Any, Any], subject: str) -> float:
    """``value``, a number of Python, numpy or torch, as a float."""
    plain = value.item() if isinstance(value, np.generic) or getattr(value, "ndim", None) == 0 else value
    if not isinstance(plain, Real):
        fix = f"every value must be a number: {_EXAMPLE}"
        raise EvaluationError(f"evaluate gave no numbers for {subject}", why=_returned(found), fix=fix)
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _not_finite(name, number, next(iter(found)), subject)
    return number


def _not_finite(name: object, number: float, metric: object, subject: str) -> EvaluationError:
    """No comparison is true of NaN, so that neither a loss nor a gain would be told of it."""
    fix = "look for a division by zero, or for NaN in what predict returned"
    if is_slice(str(name), str(metric)):
        fix = f"leave {name} out where it has no samples; else {fix}"
    why = "what is not a finite number cannot be compared, and no gate may pass what it does not know"
    return EvaluationError(f"evaluate gave {number} as {name} for {subject}", why=why, fix=fix)


def _returned(found: object) -> str:
    return f"it returned {found!r}"[:300]


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
        outputs = run(tuple(np.concatenate((a, np.repeat(a[-1:], missing, 0))) if missing else a for a in part))
        parts.append(_by_rows(outputs, size, rows, specs))
    return tuple(np.concatenate(columns)[:rows] for columns in zip(*parts, strict=True))


def _by_rows(outputs: tuple[Array, ...], size: int, rows: int, specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """``outputs``, which must have one entry for each of the inputs' ``size`` rows, or they cannot be put together."""
    for index, output in enumerate(outputs):
        if output.shape[:1] != (size,):
            why = f"output {index} has the shape {output.shape}, without an axis of {size} at the front for the rows"
            raise InputError(f"predict got {rows} rows, and the model takes {size} at a time", why=why, fix=_takes(specs))
    return outputs


def _fitting(array: Any, spec: TensorSpec) -> Array:
    value = np.asarray(array.detach().cpu().numpy() if hasattr(array, "detach") else array)
    wanted = np.dtype(DTYPES.get(spec.dtype, spec.dtype))
    if np.issubdtype(value.dtype, np.floating) != np.issubdtype(wanted, np.floating):
        raise InputError(f"predict got {value.dtype} for input {spec.name}, which is {spec.dtype}", fix=_takes((spec,)))
    fitting = np.asarray(value, dtype=wanted, order="C")
    if not np.issubdtype(wanted, np.floating) and not np.array_equal(fitting, value):
        raise InputError(f"predict got numbers that {spec.dtype} has not for input {spec.name}", fix=_takes((spec,)))
    return fitting


def _batch_sizes(arrays: list[Array], specs: tuple[TensorSpec, ...]) -> tuple[int, int]:
    rows = {array.shape[0] for array in arrays if array.ndim}
    sizes = {spec.shape[0] for spec in specs if spec.shape}
    same_rest = all(array.shape[1:] == spec.shape[1:] for array, spec in zip(arrays, specs, strict=True))
    if len(rows) != 1 or len(sizes) != 1 or not same_rest or 0 in rows:
        given = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"predict got shapes {given}", fix=_takes(specs))
    return sizes.pop(), rows.pop()


def digest(arrays: tuple[Array, ...]) -> bytes:
    """Of dtypes, shapes and values."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


def _takes(specs: tuple[TensorSpec, ...]) -> str:
    """What to pass: ``predict(image, ids) with image 1x3x224x224:float32, ...``."""
    described = ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape))}:{spec.dtype}" for spec in specs)
    return f"in evaluate, call predict({', '.join(spec.name for spec in specs)}) with {described}"
