"""Tensors as numpy arrays, for the runtimes that bring numpy with them."""

from __future__ import annotations

import importlib
from typing import Any, Sequence

from ..failures import Failure
from ..tensors import Tensor


def to_array(tensor: Tensor) -> Any:
    """A new array of its own, aligned as numpy aligns."""
    numpy = importlib.import_module("numpy")
    if tensor.dtype == "bfloat16":
        raise Failure("bad_job", f"input {tensor.name} is bfloat16, which numpy does not have")
    dtype = numpy.dtype(tensor.dtype).newbyteorder("<")
    return numpy.frombuffer(tensor.data, dtype).reshape(tensor.shape).astype(tensor.dtype)


def to_tensors(named: Sequence[tuple[str, Any]]) -> list[Tensor]:
    """Arrays (or what can be seen as one) with their names. Raises Failure where one holds no numbers."""
    numpy = importlib.import_module("numpy")
    found = []
    for name, value in named:
        array = numpy.ascontiguousarray(value)
        if array.dtype.kind not in "biuf":
            raise Failure("run", f"output {name} is of type {array.dtype}: only tensors of numbers can be compared")
        bad = int(numpy.count_nonzero(~numpy.isfinite(array))) if array.dtype.kind == "f" else 0
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        found.append(Tensor(name, str(array.dtype), tuple(int(size) for size in numpy.shape(value)), data, bad))
    return found
