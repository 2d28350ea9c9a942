"""Quantization of activations (iOS 17)."""

import torch
from torch import Tensor

from edgeopt.mil.operator import operator

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def along(parameter: Tensor, axis: int | None, rank: int) -> Tensor:
    """``parameter`` (a scalar or one value per index of ``axis``) so that it broadcasts over a tensor of ``rank``."""
    if parameter.dim() == 0 or axis is None:
        return parameter
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


@operator("quantize", exact=True)
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point), halves to even: integers of the same shape, held as float32.

    Nothing computes in them but dequantize, and two passes over the tensor are saved.
    """
    found = torch.div(input, along(scale, axis, input.dim())).round_()
    if zero_point is not None:
        found += along(zero_point, axis, input.dim()).to(found.dtype)
    return found.clamp_(*_LIMITS[output_dtype])


@operator("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale * (input - zero_point), float32."""
    found = input.to(torch.float32)
    if zero_point is not None:
        found = found - along(zero_point, axis, input.dim()).to(torch.float32)
    return found * along(scale, axis, input.dim())
