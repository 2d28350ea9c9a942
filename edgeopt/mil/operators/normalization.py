"""Normalizations; epsilon is always below the root."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Ints, operator


@operator("batch_norm")
def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta; x [n, c, *size], the rest [c]."""
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@operator("instance_norm")
def instance_norm(x: Tensor, epsilon: float, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    """As batch_norm, with the mean and variance of each channel of each sample; x [n, c, *size]."""
    # as groups of one channel: the same, 2 to 4 times as fast on a CPU as its instance_norm, which refuses a size of 1
    return torch.group_norm(x, x.shape[1], gamma, beta, epsilon)


@operator("layer_norm")
def layer_norm(x: Tensor, epsilon: float, axes: Ints, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta over ``axes``; gamma and beta have these axes of x in its order.

    PyTorch's layer_norm takes the last axes only.
    """
    over = sorted(axis % x.dim() for axis in axes)
    last = tuple(range(x.dim() - len(over), x.dim()))
    moved = x.movedim(over, last)
    return functional.layer_norm(moved, moved.shape[last[0] :], gamma, beta, epsilon).movedim(last, over)


@operator("l2_norm")
def l2_norm(x: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(sum(x^2) + epsilon) over the last three axes."""
    return x * x.square().sum((-3, -2, -1), keepdim=True).add_(epsilon).rsqrt_()


@operator("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """x / (k + alpha / size * sum(x^2 of ``size`` channels around))^beta; x [n, c, *size].

    An even size sums one channel less, as many below as above, and is divided by all the same: coremltools' own tests expect
    this of Core ML. PyTorch sums one more below.
    """
    summed = 2 * ((size - 1) // 2) + 1
    return functional.local_response_norm(x, summed, alpha * summed / size, beta, k)
