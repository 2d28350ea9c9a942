"""Pooling over 1 to 3 spatial dimensions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Ints, operator
from edgeopt.mil.operators.convolution import padded, paddings

_AVERAGE: dict[int, Callable[..., Tensor]] = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}
_MAX: dict[int, Callable[..., Tensor]] = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}


@operator("max_pool", exact=True)
def max_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool) -> Tensor:
    """x [n, c, *size] -> [n, c, *out]: the maximum of each window, padding left out."""
    around = _around(x, kernel_sizes, strides, pad_type, pad)
    if _native(around, kernel_sizes):
        return _MAX[x.dim()](x, kernel_sizes, strides, around[::2], ceil_mode=ceil_mode)
    beyond = _beyond(x, around, kernel_sizes, strides) if ceil_mode else (0,) * len(around)
    return _MAX[x.dim()](padded(x, _sum(around, beyond), -math.inf), kernel_sizes, strides)


@operator("avg_pool")
def avg_pool(
    x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints, exclude_padding_from_average: bool, ceil_mode: bool
) -> Tensor:
    """x [n, c, *size] -> [n, c, *out]: the mean of each window, with the zeros of the padding unless they are excluded.

    What a window of ``ceil_mode`` has beyond the padding does not count, as in PyTorch.
    """
    around, pool = _around(x, kernel_sizes, strides, pad_type, pad), _AVERAGE[x.dim()]
    if _native(around, kernel_sizes):
        return pool(x, kernel_sizes, strides, around[::2], ceil_mode, not exclude_padding_from_average)
    beyond = _beyond(x, around, kernel_sizes, strides) if ceil_mode else (0,) * len(around)
    found = pool(padded(x, _sum(around, beyond)), kernel_sizes, strides)
    if exclude_padding_from_average or any(beyond):
        counted = padded(x.new_ones((1, 1, *x.shape[2:])), around, 0.0 if exclude_padding_from_average else 1.0)
        found /= pool(padded(counted, beyond), kernel_sizes, strides)
    return found


@operator("l2_pool")
def l2_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool) -> Tensor:
    """x [n, c, *size] -> [n, c, *out]: the square root of the sum of squares of each window.

    The operator's documentation gives no formula; this one is BNNSPoolingFunctionL2Norm's and that of coremltools' own tests.
    """
    around = _around(x, kernel_sizes, strides, pad_type, pad)
    beyond = _beyond(x, around, kernel_sizes, strides) if ceil_mode else (0,) * len(around)
    means = _AVERAGE[x.dim()](padded(torch.square(x), _sum(around, beyond)), kernel_sizes, strides)
    return means.mul_(math.prod(kernel_sizes)).sqrt_()


def _around(x: Tensor, kernel: Ints, strides: Ints, pad_type: str, pad: Ints) -> Ints:
    return paddings(pad_type, pad, tuple(x.shape[2:]), kernel, strides, (1,) * len(kernel))


def _native(around: Ints, kernel: Ints) -> bool:
    """Whether PyTorch's kernels can pad so: equally on both sides, by half a window at most."""
    return around[::2] == around[1::2] and all(2 * pad <= window for pad, window in zip(around[::2], kernel, strict=True))


def _beyond(x: Tensor, around: Ints, kernel: Ints, strides: Ints) -> Ints:
    """(0, by how much the last window of ceil_mode reaches beyond the padded end) of each spatial dimension.

    That window has to begin within the input or the padding before it, as in PyTorch.
    """
    found: list[int] = []
    for size, before, after, window, stride in zip(x.shape[2:], around[::2], around[1::2], kernel, strides, strict=True):
        steps = math.ceil((size + before + after - window) / stride)
        if steps * stride >= size + before:
            steps -= 1
        found += (0, max(steps * stride + window - size - before - after, 0))
    return tuple(found)


def _sum(first: Ints, second: Ints) -> Ints:
    return tuple(a + b for a, b in zip(first, second, strict=True))
