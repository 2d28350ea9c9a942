"""Convolutions of 1 to 3 spatial dimensions, and transposed ones."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Ints, operator

_CONV: dict[int, Callable[..., Tensor]] = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    3: functional.conv_transpose1d, 4: functional.conv_transpose2d, 5: functional.conv_transpose3d,
}  # fmt: skip


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


def padded(x: Tensor, around: Ints, value: float = 0.0) -> Tensor:
    """``x`` with ``value`` around its last dimensions, (before, after) from the first of them on (PyTorch: the last)."""
    pairs = zip(reversed(around[::2]), reversed(around[1::2]), strict=True)
    return functional.pad(x, [n for pair in pairs for n in pair], value=value)


@operator("conv")
def conv(
    x: Tensor, weight: Tensor, strides: Ints, pad_type: str, pad: Ints, dilations: Ints, groups: int, bias: Tensor | None = None
) -> Tensor:
    """x [n, c, *size], weight [out, c / groups, *kernel], bias [out] -> [n, out, *size]."""
    around = paddings(pad_type, pad, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    before = around[::2]
    if before != around[1::2]:
        x, before = padded(x, around), (0,) * len(before)
    return _CONV[x.dim()](x, weight, bias, strides, before, dilations, groups)


def _kept(
    size: int, kernel: int, stride: int, pad_type: str, pad: tuple[int, int], asked: int | None
) -> tuple[int, int, int, int]:
    """Of one dimension: what PyTorch has to cut off on both sides and to add behind, where the result begins then, its length.

    A transposed convolution is the gradient of a convolution, which makes (size - 1) * stride + kernel of ``size``. ``same``
    cuts that to size * stride, an odd one behind, as TensorFlow does; ``asked`` is the length that output_shape gives.
    """
    full = (size - 1) * stride + kernel
    length = {"same": size * stride, "valid": full, "custom": full - sum(pad)}[pad_type] if asked is None else asked
    before = {"same": max(full - length, 0) // 2, "valid": 0, "custom": pad[0]}[pad_type]
    after = full - before - length
    cut = max(min(before, after), 0)
    return cut, max(-after, 0), before - cut, length


@operator("conv_transpose")
def conv_transpose(
    x: Tensor, weight: Tensor, pad: Ints, pad_type: str, strides: Ints, dilations: Ints, groups: int,
    output_shape: Ints | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """x [n, c, *size], weight [c, out / groups, *kernel], bias [out] -> [n, out, *size], or that ``output_shape``."""
    kernel = [(window - 1) * dilation + 1 for window, dilation in zip(weight.shape[2:], dilations, strict=True)]
    pads = list(zip(pad[::2], pad[1::2], strict=True))
    asked = output_shape[2:] if output_shape else (None,) * len(pads)
    rows = zip(x.shape[2:], kernel, strides, pads, asked, strict=True)
    found = [_kept(size, window, stride, pad_type, around, length) for size, window, stride, around, length in rows]
    cut, added, begin, lengths = zip(*found, strict=True)
    result = _TRANSPOSED[x.dim()](x, weight, bias, strides, cut, added, groups, dilations)
    for dim, (start, length) in enumerate(zip(begin, lengths, strict=True), start=2):
        if result.shape[dim] != length:
            result = result.narrow(dim, start, length)
    return result
