"""Gather and scatter.

Until iOS 16 negative indices count from the end. Since iOS 17 they are out of bounds like those beyond the end, and what
happens then is undefined: it is refused here, whether the program asks for the check (``validate_indices``) or not.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from edgeopt.mil.operator import operator


@operator("gather", exact=True, half=True)
def gather(x: Tensor, indices: Tensor, axis: int, opset: int, batch_dims: int = 0) -> Tensor:
    """x [*before, size, *after], indices [*batch, *n] -> [*before, *n, *after]; before starts with batch (TensorFlow's)."""
    axis %= x.dim()
    found = _within(indices, x.shape[axis], opset)
    shape = x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1 :]
    if not batch_dims and found.numel() == 1:
        return x.narrow(axis, int(found), 1).reshape(shape)  # what loops over time do
    if not batch_dims:
        return x.index_select(axis, found.reshape(-1)).reshape(shape)
    batch = prod(x.shape[:batch_dims])
    flat = x.reshape(batch, prod(x.shape[batch_dims:axis]), x.shape[axis], -1)
    places = found.reshape(batch, 1, -1, 1).expand(-1, flat.shape[1], -1, flat.shape[3])
    return flat.gather(2, places).reshape(shape)


@operator("gather_along_axis", exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int, opset: int) -> Tensor:
    """x and indices of equal sizes but along ``axis``; the result has the shape of indices."""
    return x.gather(axis, _within(indices, x.shape[axis], opset))


@operator("gather_nd", exact=True)
def gather_nd(x: Tensor, indices: Tensor, opset: int, batch_dims: int = 0) -> Tensor:
    """x [*batch, *sizes, *rest], indices [*batch, *n, len(sizes)] -> [*batch, *n, *rest]."""
    depth = indices.shape[-1]
    found = _within(indices, torch.tensor(x.shape[batch_dims : batch_dims + depth]), opset)
    rank = indices.dim() - 1
    batch = [torch.arange(x.shape[axis]).reshape([-1] + [1] * (rank - 1 - axis)) for axis in range(batch_dims)]
    return x[(*batch, *found.unbind(-1))]


@operator("scatter")
def scatter(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, opset: int) -> Tensor:
    """data [*before, size, *after], indices [n], updates [*before, n, *after] -> like data."""
    found = _within(indices, data.shape[axis], opset)
    if mode == "update":
        return data.index_copy(axis, found, updates)
    shape = [1] * data.dim()
    shape[axis] = -1
    places = found.reshape(shape).expand_as(updates)
    return _MODES[mode](data, axis, places, updates)


@operator("scatter_along_axis")
def scatter_along_axis(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, opset: int) -> Tensor:
    """indices and updates of one shape, which is the shape of data but along ``axis`` -> like data."""
    return _MODES[mode](data, axis, _within(indices, data.shape[axis], opset), updates)


@operator("scatter_nd")
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str, opset: int) -> Tensor:
    """data [*sizes, *rest], indices [*n, len(sizes)], updates [*n, *rest] -> like data."""
    depth = indices.shape[-1]
    sizes = data.shape[:depth]
    found = _within(indices, torch.tensor(sizes), opset)
    places = sum((each * prod(sizes[axis + 1 :]) for axis, each in enumerate(found.unbind(-1))), torch.tensor(0))
    flat, given = data.reshape(prod(sizes), -1), updates.reshape(places.numel(), -1)
    return _MODES[mode](flat, 0, places.reshape(-1, 1).expand_as(given), given).reshape(data.shape)


def _within(indices: Tensor, size: int | Tensor, opset: int) -> Tensor:
    """``indices`` as int64 in [0, size). Raises IndexError where one is elsewhere."""
    found = indices.to(torch.int64)
    if opset < 17:
        found = torch.where(found < 0, found + size, found)
    if bool(((found < 0) | (found >= size)).any()):
        sizes = size.tolist() if isinstance(size, Tensor) else size
        raise IndexError(f"indices from {int(indices.min())} to {int(indices.max())} where there are {sizes} elements")
    return found


def _divided(data: Tensor, axis: int, places: Tensor, updates: Tensor) -> Tensor:
    divisor = torch.ones_like(data).scatter_reduce(axis, places, updates, "prod")
    return data / divisor if data.is_floating_point() else torch.div(data, divisor, rounding_mode="trunc")


_MODES: dict[str, Callable[[Tensor, int, Tensor, Tensor], Tensor]] = {
    "update": lambda data, axis, places, updates: data.scatter(axis, places, updates),
    "add": lambda data, axis, places, updates: data.scatter_add(axis, places, updates),
    "sub": lambda data, axis, places, updates: data.scatter_add(axis, places, -updates),
    "mul": lambda data, axis, places, updates: data.scatter_reduce(axis, places, updates, "prod"),
    "div": _divided,
    "max": lambda data, axis, places, updates: data.scatter_reduce(axis, places, updates, "amax"),
    "min": lambda data, axis, places, updates: data.scatter_reduce(axis, places, updates, "amin"),
}
"""By ``mode``: what is in data with what is given for the same place; places has the shape of updates."""
