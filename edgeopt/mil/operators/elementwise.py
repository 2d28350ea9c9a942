"""Elementwise operators of two tensors, broadcast as NumPy does."""

import torch
from torch import Tensor

from edgeopt.mil.operator import operator


@operator("add", half=True)
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@operator("sub", half=True)
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""
    return x - y


@operator("mul", half=True)
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x * y."""
    return x * y


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y; of integers what is left of the quotient towards zero (PyTorch's gives floats)."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


@operator("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y rounded towards minus infinity."""
    return torch.div(x, y, rounding_mode="floor")


@operator("mod", note="signs as in Python; Core ML is reported to take the dividend's")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """x - y * floor(x / y): Python's remainder, which has the sign of y, as coremltools evaluates it."""
    return torch.remainder(x, y)


@operator("pow")
def power(x: Tensor, y: Tensor) -> Tensor:
    """x ** y."""
    return torch.pow(x, y)


@operator("maximum", exact=True, half=True)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The greater one."""
    return torch.maximum(x, y)


@operator("minimum", exact=True, half=True)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller one."""
    return torch.minimum(x, y)


@operator("equal")
def equal(x: Tensor, y: Tensor) -> Tensor:
    """x == y, bool."""
    return x == y


@operator("not_equal")
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """x != y, bool."""
    return x != y


@operator("greater")
def greater(x: Tensor, y: Tensor) -> Tensor:
    """x > y, bool."""
    return x > y


@operator("greater_equal")
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """x >= y, bool."""
    return x >= y


@operator("less")
def less(x: Tensor, y: Tensor) -> Tensor:
    """x < y, bool."""
    return x < y


@operator("less_equal")
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """x <= y, bool."""
    return x <= y


@operator("logical_and")
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """x and y, bool."""
    return x & y


@operator("logical_or")
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """x or y, bool."""
    return x | y


@operator("logical_xor")
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Either x or y, bool."""
    return x ^ y
