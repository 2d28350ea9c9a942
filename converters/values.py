"""Arrays between the model's own dtypes and those of an artifact: affine quantization by scale and zero point."""

import numpy as np

from edgeopt.converters.interface import Array
from edgeopt.core import TensorSpec
from edgeopt.errors import InputError


def to_artifact(arrays: tuple[Array, ...], specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """``arrays`` in the dtypes of ``specs``. Raises InputError where count, shape or range does not fit."""
    if len(arrays) != len(specs):
        raise InputError(f"the artifact takes {len(specs)} inputs, {len(arrays)} were given")
    return tuple(_to_spec(np.asarray(array), spec) for array, spec in zip(arrays, specs, strict=True))


def from_artifact(arrays: tuple[Array, ...], specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """The artifact's outputs with integers that stand for floats dequantized to float32."""
    return tuple(dequantize(array, spec) for array, spec in zip(arrays, specs, strict=True))


def quantize(array: Array, spec: TensorSpec) -> Array:
    """``clamp(round_half_to_even(array / scale) + zero_point)`` in ``spec``'s dtype.

    Source: ONNX QuantizeLinear and the TFLite 8-bit quantization specification.
    """
    assert spec.scale is not None
    limits = np.iinfo(spec.dtype)
    scaled = np.rint(np.asarray(array, np.float32) / np.float32(spec.scale)) + (spec.zero_point or 0)
    quantized: Array = np.clip(scaled, limits.min, limits.max).astype(spec.dtype)
    return quantized


def dequantize(array: Array, spec: TensorSpec) -> Array:
    """``(array - zero_point) * scale`` as float32; ``array`` itself where ``spec`` has no scale."""
    if spec.scale is None:
        return array
    return (array.astype(np.int32) - np.int32(spec.zero_point or 0)).astype(np.float32) * np.float32(spec.scale)


def _to_spec(array: Array, spec: TensorSpec) -> Array:
    if len(array.shape) != len(spec.shape) or any(b not in (a, -1) for a, b in zip(array.shape, spec.shape, strict=True)):
        raise InputError(f"input {spec.name} has shape {list(array.shape)}, the artifact takes {list(spec.shape)}")
    if spec.scale is not None and array.dtype.kind == "f":
        return quantize(array, spec)
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind in "iu" and dtype.kind in "iu" and array.size and array.dtype != dtype:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(f"input {spec.name} holds integers outside {dtype}, the artifact's dtype")
    return np.asarray(array, dtype, order="C")  # a scalar keeps its shape
