"""Inputs to measure with: made here from an artifact's interface, the same everywhere and always."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import TensorSpec
from edgeopt.errors import InputError

Array = NDArray[np.generic]
_SEED = 0
_DRAWN_AT_ONCE = 1 << 22
_TOKENS = 2
"""Integers that stand for themselves are indices most of the time: 0 and 1, as ``--input`` draws them, fit every table."""


def synthetic(specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """An array for each of ``specs``: floats from a normal distribution, quantized where the artifact takes integers.

    Names such as ``attention_mask`` get ones: a mask of noise would hide most of the input from the model.
    Raises InputError where a dimension is not fixed.
    """
    generator = np.random.default_rng(_SEED)
    return tuple(_array(spec, generator) for spec in specs)


def model_specs(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The model's own inputs, told from those of a bare artifact: integers with a scale stand for floats."""
    floats: dict[str, Any] = {"dtype": "float32", "scale": None, "zero_point": None}
    return tuple(spec if spec.scale is None else replace(spec, **floats) for spec in specs)


def _array(spec: TensorSpec, generator: np.random.Generator) -> Array:
    if any(size < 0 for size in spec.shape):
        raise InputError(
            f"input {spec.name} has no fixed shape", why=f"it is {list(spec.shape)}", fix="export with fixed shapes"
        )
    dtype = np.dtype(np.float32 if spec.dtype == "bfloat16" else spec.dtype)
    if spec.scale is not None:
        limits = np.iinfo(dtype)
        scale, zero_point = spec.scale, spec.zero_point or 0

        def quantized(floats: Any) -> Any:
            return np.clip(np.rint(floats / scale + zero_point), limits.min, limits.max)

        return _drawn(spec.shape, dtype, generator, quantized)
    if dtype.kind == "f":
        return _drawn(spec.shape, dtype, generator, lambda floats: floats)
    if dtype.kind == "b" or "mask" in spec.name.lower():
        return np.ones(spec.shape, dtype)
    return generator.integers(0, _TOKENS, spec.shape).astype(dtype)


def _drawn(
    shape: tuple[int, ...], dtype: Any, generator: np.random.Generator, make: Callable[[Any], Any]
) -> Array:  # fmt: skip
    """``make`` of float64 from a normal distribution, a few at once: all of them would take twice the room of the array."""
    found = np.empty(math.prod(shape), dtype)
    for start in range(0, found.size, _DRAWN_AT_ONCE):
        part = found[start : start + _DRAWN_AT_ONCE]
        part[:] = make(generator.standard_normal(part.size))
    return found.reshape(shape)
