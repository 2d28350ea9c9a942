"""Convolutions of 1 to 3 spatial dimensions."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Ints, operator

_CONV: dict[int, Callable[..., Tensor]] = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}


def paddings(pad_type: str, pad: Ints | None, size: Ints, kernel: Ints, strides: Ints, dilations: Ints) -> Ints:
    """(before, after) of each spatial dimension, one after the other.

    ``same`` makes outputs of ceil(size / stride) and puts an odd one behind, ``same_lower`` before (TensorFlow's SAME).
    """
    if pad_type == "custom":
        return pad or (0,) * (2 * len(size))
    if pad_type == "valid":
        return (0,) * (2 * len(size))
    found: list[int] = []
    for length, window, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-length // stride) - 1) * stride + (window - 1) * dilation + 1 - length, 0)
        small = total // 2
        found += (small, total - small) if pad_type == "same" else (total - small, small)
    return tuple(found)


@operator("conv")
def conv(
    x: Tensor, weight: Tensor, strides: Ints, pad_type: str, pad: Ints, dilations: Ints, groups: int, bias: Tensor | None = None
) -> Tensor:
    """x [n, c, *size], weight [out, c / groups, *kernel], bias [out] -> [n, out, *size]."""
    around = paddings(pad_type, pad, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    before, after = around[::2], around[1::2]
    if before != after:
        x = functional.pad(x, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair])
        before = (0,) * len(before)
    return _CONV[x.dim()](x, weight, bias, strides, before, dilations, groups)
