"""Reductions over ``axes``, all of them by default."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeopt.mil.operator import Ints, operator

Kernel = Callable[[Tensor, Ints, bool], Tensor]


def _reduction(name: str, *, exact: bool = False) -> Callable[[Kernel], Kernel]:
    """Registers a kernel of (x, axes, keep_dims), which gets every axis by name and none negative."""

    def register(kernel: Kernel) -> Kernel:
        def call(x: Tensor, keep_dims: bool, axes: Ints | None = None) -> Tensor:
            if axes is None:
                axes = tuple(range(x.dim()))
            elif not axes:  # reduces nothing in MIL, everything in PyTorch
                return kernel(x.unsqueeze(-1), (-1,), False).to(x.dtype)
            return kernel(x, axes, keep_dims).to(x.dtype)  # of integers an integer, a mean too

        operator(name, exact=exact)(call)
        return kernel

    return register


@_reduction("reduce_sum")
def _sum(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.sum(axes, keep)


@_reduction("reduce_mean")
def _mean(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(axes, keep)


@_reduction("reduce_max", exact=True)
def _max(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.amax(axes, keep)


@_reduction("reduce_min", exact=True)
def _min(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.amin(axes, keep)


@_reduction("reduce_prod")
def _prod(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in axes:  # PyTorch's takes one
        x = x.prod(axis, True)
    return x if keep else x.squeeze(axes)


@_reduction("reduce_l1_norm")
def _l1_norm(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.abs().sum(axes, keep)


@_reduction("reduce_l2_norm")
def _l2_norm(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x if x.is_floating_point() else x.double(), 2, axes, keep)
    return found


@_reduction("reduce_sum_square")
def _sum_square(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.square().sum(axes, keep)


@_reduction("reduce_log_sum")
def _log_sum(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.sum(axes, keep).log()


@_reduction("reduce_log_sum_exp")
def _log_sum_exp(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


@operator("reduce_argmax")
def reduce_argmax(x: Tensor, axis: int, keep_dims: bool) -> Tensor:
    """The index of the greatest along ``axis``, of equal ones the first; int32 whatever the declared type."""
    return torch.argmax(x, axis, keep_dims).to(torch.int32)


@operator("reduce_argmin")
def reduce_argmin(x: Tensor, axis: int, keep_dims: bool) -> Tensor:
    """The index of the smallest along ``axis``, of equal ones the first; int32 whatever the declared type."""
    return torch.argmin(x, axis, keep_dims).to(torch.int32)
