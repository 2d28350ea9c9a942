"""Products of matrices. An operand of another type than the result (iOS 17 has such constants) is converted first."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Declared, Tensors, operator
from edgeopt.mil.values import TORCH


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [*, in], weight [out, in], bias [out] -> [*, out]."""
    return functional.linear(x, _as(weight, x.dtype), _as(bias, x.dtype))


@operator("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool, declared: tuple[Declared, ...]) -> Tensor:
    """x @ y as NumPy does: vectors become matrices for it, other axes broadcast. A vector has nothing to transpose."""
    dtype = TORCH[declared[0].dtype]
    x, y = _as(x, dtype), _as(y, dtype)
    x, y = x.mT if transpose_x and x.dim() > 1 else x, y.mT if transpose_y and y.dim() > 1 else y
    alike = x.dim() == y.dim() == 3 and x.shape[0] == y.shape[0]
    return torch.bmm(x, y) if alike else torch.matmul(x, y)  # bmm is twice as fast for a few elements


@operator("einsum")
def einsum(values: Tensors, equation: str) -> Tensor:
    """Einstein's sum; axes of size 1 broadcast."""
    return torch.einsum(equation, *values)


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value if value.dtype == dtype else value.to(dtype)  # asking first takes an eighth of the time
