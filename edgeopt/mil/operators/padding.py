"""Padding."""

import torch
from torch import Tensor

from edgeopt.mil.operator import Ints, operator
from edgeopt.mil.operators.convolution import padded


@operator("pad", exact=True)
def pad(x: Tensor, pad: Ints, mode: str, constant_val: float) -> Tensor:
    """``x`` with pad[2i] elements before and pad[2i + 1] after each of its last len(pad) / 2 dimensions.

    ``reflect`` leaves the border itself out, ``replicate`` repeats it.
    """
    if mode == "constant":
        return padded(x, pad, constant_val)
    first = x.dim() - len(pad) // 2
    for dim, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=first):
        if before or after:  # by hand, as PyTorch's own reflect and replicate want certain ranks
            last = x.shape[dim] - 1
            positions = torch.arange(-before, last + 1 + after)
            positions = last - (last - positions.abs()).abs() if mode == "reflect" else positions.clamp(0, last)
            x = x.index_select(dim, positions)
    return x
