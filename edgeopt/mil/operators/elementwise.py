"""Elementwise operators of two tensors, broadcast as NumPy does."""

import torch
from torch import Tensor

from edgeopt.mil.operator import operator


@operator("add")
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@operator("mul")
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x * y."""
    return x * y


@operator("sub")
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""
    return x - y


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y; of integers what is left of the quotient towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")
