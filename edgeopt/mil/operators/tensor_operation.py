"""Tensors joined, split, made and put in order."""

import math

import torch
from torch import Tensor

from edgeopt.mil.operator import Declared, Ints, Tensors, operator
from edgeopt.mil.values import TORCH


@operator("concat", exact=True, half=True)
def concat(values: Tensors, axis: int, interleave: bool) -> Tensor:
    """``values`` one after the other along ``axis``, or an index of each in turn. Scalars make a vector."""
    if values[0].dim() == 0:
        return torch.stack(values)
    if interleave:
        axis %= values[0].dim()
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


@operator("stack", exact=True, half=True)
def stack(values: Tensors, axis: int) -> Tensor:
    """``values`` of one shape along a new dimension ``axis``."""
    return torch.stack(values, axis)


@operator("split", exact=True, half=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Tensors:
    """``x`` in parts of ``split_sizes``, or in ``num_splits`` equal ones."""
    sizes = split_sizes or (x.shape[axis] // (num_splits or 1),) * (num_splits or 1)
    return tuple(torch.split_with_sizes(x, sizes, axis))  # torch.split is twice as slow for a few elements


@operator("topk", exact=True)
def topk(
    x: Tensor, k: int, axis: int, ascending: bool, sort: bool = True, return_indices: bool = True
) -> Tensor | tuple[Tensor, Tensor]:
    """The ``k`` greatest (``ascending``: least) along ``axis`` and where they are, int32; all for -1. In order if ``sort``."""
    values, indices = x.topk(x.shape[axis] if k == -1 else k, axis, largest=not ascending, sorted=sort)
    return (values, indices.to(torch.int32)) if return_indices else values


@operator("argsort", exact=True)
def argsort(x: Tensor, axis: int, ascending: bool) -> Tensor:
    """The indices that sort ``x``, int32; equal elements stay in their order."""
    return x.argsort(dim=axis, descending=not ascending, stable=True).to(torch.int32)


@operator("cumsum")
def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Sums of the elements up to each one, itself left out where ``exclusive``; from the other end where ``reverse``."""
    x = x.flip(axis) if reverse else x
    if exclusive:
        first, size = torch.zeros_like(x.narrow(axis, 0, 1)), x.shape[axis]
        x = torch.cat([first, x.narrow(axis, 0, size - 1)], axis)
    found = x.cumsum(axis, dtype=x.dtype)
    return found.flip(axis) if reverse else found


@operator("one_hot", exact=True)
def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int, on_value: Tensor, off_value: Tensor, declared: tuple[Declared, ...]
) -> Tensor:
    """``on_value`` at ``indices`` along a new dimension ``axis``, elsewhere ``off_value``; an index outside is nowhere."""
    shape = [1] * (indices.dim() + 1)
    shape[axis] = one_hot_vector_size
    places = torch.arange(one_hot_vector_size).reshape(shape)
    return torch.where(indices.unsqueeze(axis) == places, on_value, off_value).to(TORCH[declared[0].dtype])


@operator("band_part", exact=True)
def band_part(x: Tensor, lower: int, upper: int) -> Tensor:
    """The inner matrices' diagonals from ``lower`` below to ``upper`` above the main one; all on a side where negative."""
    x = x if upper < 0 else x.tril(upper)
    return x if lower < 0 else x.triu(-lower)


@operator("fill", exact=True)
def fill(shape: Ints, value: float, declared: tuple[Declared, ...]) -> Tensor:
    """``shape`` of ``value``."""
    return torch.full(shape, value, dtype=TORCH[declared[0].dtype])


@operator("fill_like", exact=True)
def fill_like(ref_tensor: Tensor, value: float, declared: tuple[Declared, ...]) -> Tensor:
    """The shape of ``ref_tensor``, of ``value``."""
    return torch.full(ref_tensor.shape, value, dtype=TORCH[declared[0].dtype])


@operator("range_1d")
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """start, start + step, ... before end. The number of them is computed in the numbers' own precision, as NumPy does."""
    if not start.is_floating_point():
        return torch.arange(int(start), int(end), int(step), dtype=start.dtype)
    count = max(math.ceil(float((end - start) / step)), 0)
    return start + torch.arange(count, dtype=start.dtype) * step


@operator("shape", exact=True)
def shape(x: Tensor) -> Tensor:
    """The sizes of ``x``, int32."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("non_zero", exact=True)
def non_zero(x: Tensor) -> Tensor:
    """[number of elements other than 0, rank], int32: their indices in order."""
    return x.nonzero().to(torch.int32)
