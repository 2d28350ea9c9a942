"""Lists of tensors of one shape. A list is a Python list that nobody changes: to write is to copy, references only."""

from typing import Any

import torch
from torch import Tensor

from edgeopt.mil.operator import operator
from edgeopt.mil.values import TORCH

TensorList = list[Tensor | None]
"""None as long as the shape of the elements is not known: nothing has been written."""


@operator("make_list", exact=True)
def make_list(init_length: int, elem_shape: Any, dtype: str) -> TensorList:
    """``init_length`` zeros of the shape ``elem_shape``; a size given as text is not known until something is written."""
    sizes = [each if isinstance(each, str) else int(each) for each in elem_shape]
    known = [size for size in sizes if isinstance(size, int)]
    element = torch.zeros(known, dtype=TORCH[dtype]) if len(known) == len(sizes) else None
    return [element] * init_length


@operator("list_length", exact=True)
def list_length(ls: Any) -> Tensor:
    """The number of elements, int32."""
    return torch.tensor(len(ls), dtype=torch.int32)


@operator("list_read", exact=True, half=True)
def list_read(ls: Any, index: int) -> Tensor:
    """The element at ``index``."""
    return _read(ls, index)


@operator("list_gather", exact=True, half=True)
def list_gather(ls: Any, indices: Tensor) -> Tensor:
    """[len(indices), *element]."""
    return torch.stack([_read(ls, index) for index in indices.tolist()])


@operator("list_write", exact=True, half=True)
def list_write(ls: Any, index: int, value: Tensor) -> TensorList:
    """``ls`` with ``value`` at ``index``, longer where that is behind its end."""
    return _written(ls, [index], [value])


@operator("list_scatter", exact=True, half=True)
def list_scatter(ls: Any, indices: Tensor, value: Tensor) -> TensorList:
    """``ls`` with the parts of ``value`` [len(indices), *element] at ``indices``."""
    return _written(ls, indices.tolist(), list(value.unbind()))


def _read(ls: TensorList, index: int) -> Tensor:
    found = ls[index] if 0 <= index < len(ls) else None
    if found is None:
        raise IndexError(f"element {index} of a list of {len(ls)} is read before anything was written there")
    return found


def _written(ls: TensorList, indices: list[int], values: list[Tensor]) -> TensorList:
    """A longer list where an index is behind its end; what lies between is zeros."""
    if not indices or min(indices) < 0:
        raise IndexError(f"there are no elements {indices}")
    zeros = torch.zeros_like(values[0])
    found: TensorList = [zeros if each is None else each for each in ls]
    found += [zeros] * (max(indices) + 1 - len(ls))
    for index, value in zip(indices, values, strict=True):
        found[index] = value
    return found
