"""Casts between types."""

import torch
from torch import Tensor

from edgeopt.mil.operator import operator
from edgeopt.mil.values import TORCH


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """``x`` as ``dtype``: floats lose their fraction on the way to integers, and anything but 0 is true.

    What an integer type cannot hold is documented nowhere; here it wraps around, as NumPy's integers do.
    """
    if dtype == "bool":
        return x != 0
    if dtype.startswith(("int", "uint")) and x.is_floating_point():
        x = x.to(torch.int64)  # straight to a narrow type depends on the machine
    return x.to(torch.int32) & 0xFFFF if dtype == "uint16" else x.to(TORCH[dtype])


@operator("identity", exact=True, half=True)
def identity(x: Tensor) -> Tensor:
    """x."""
    return x
