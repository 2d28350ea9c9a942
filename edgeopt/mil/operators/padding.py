"""Padding."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Ints, operator
from edgeopt.mil.operators.convolution import padded


@operator("pad", exact=True)
def pad(x: Tensor, pad: Ints, mode: str, constant_val: float) -> Tensor:
    """``x`` with pad[2i] elements before and pad[2i + 1] after each of its last len(pad) / 2 dimensions.

    ``reflect`` leaves the border itself out, ``replicate`` repeats it.
    """
    if mode == "constant":
        return padded(x, pad, constant_val)
    while pad and not any(pad[:2]):
        pad = pad[2:]
    dims = len(pad) // 2
    if dims == 0:
        return x
    if dims <= 3:  # as many as PyTorch's reflect and replicate take, behind two more
        backwards = [n for dim in reversed(range(dims)) for n in pad[2 * dim : 2 * dim + 2]]
        found = functional.pad(x.reshape(1, -1, *x.shape[-dims:]), backwards, mode)
        return found.reshape(*x.shape[:-dims], *found.shape[2:])
    for dim, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=x.dim() - dims):
        last = x.shape[dim] - 1
        positions = torch.arange(-before, last + 1 + after)
        positions = last - (last - positions.abs()).abs() if mode == "reflect" else positions.clamp(0, last)
        x = x.index_select(dim, positions)
    return x
