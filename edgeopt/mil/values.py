"""Values of a MIL program as the evaluator holds them: tensors, tuples of them, and plain Python where an operator asks for it.

Floats are float32 tensors; what a program declares as float16 is held so when that is to be rounded, and operators that do not
say otherwise get it as float32. Integers and booleans keep their type; MIL's integers below eight bits are int8 or uint8.
"""

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from edgeopt.mil.operator import Bools, Floats, Ints, Tensors

TORCH = {
    "fp16": torch.float32, "fp32": torch.float32, "fp64": torch.float32, "bool": torch.bool,
    "int4": torch.int8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "uint1": torch.uint8, "uint2": torch.uint8, "uint3": torch.uint8, "uint4": torch.uint8, "uint6": torch.uint8,
    "uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64,
}  # fmt: skip
"""Types by MIL's names. Unsigned ones that PyTorch hardly computes in are held in the next wider signed one."""


def tensor(value: Any) -> Tensor:
    """``value`` (a tensor, an array, a number) as a tensor that the evaluator's kernels take."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype == np.uint16:
        array = array.astype(np.int32)
    elif array.dtype == np.uint32:
        array = array.astype(np.int64)
    elif array.dtype.metadata:  # coremltools marks integers below eight bits so
        array = array.astype(np.dtype(array.dtype.str))
    return torch.from_numpy(np.array(array, order="C"))


def wide(value: Any) -> Any:
    """``value``, in float32 if it is a float16 tensor, or tensors."""
    if isinstance(value, tuple):
        return tuple(wide(each) for each in value)
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _tensors(value: Any) -> Tensors:
    return tuple(tensor(each) for each in value) if isinstance(value, tuple | list) else (tensor(value),)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [number for each in value for number in _flat(each)]
    return list(np.ravel(value.numpy() if isinstance(value, Tensor) else np.asarray(value)).tolist())


def _one(value: Any) -> Any:
    found = _flat(value)
    if len(found) != 1:
        raise ValueError(f"one number is wanted, and there are {len(found)}")
    return found[0]


_CONVERT: dict[Any, Callable[[Any], Any]] = {
    Tensor: tensor,
    Tensors: _tensors,
    Ints: lambda value: tuple(int(number) for number in _flat(value)),
    Floats: lambda value: tuple(float(number) for number in _flat(value)),
    Bools: lambda value: tuple(bool(number) for number in _flat(value)),
    int: lambda value: int(_one(value)),
    float: lambda value: float(_one(value)),
    bool: lambda value: bool(_one(value)),
    str: lambda value: str(value),
}


def converter(annotation: Any) -> Callable[[Any], Any]:
    """What makes a value of the program into an argument with this annotation; ``X | None`` converts as X, Any not at all."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(each for each in get_args(annotation) if each is not NoneType)
    return _CONVERT.get(annotation, lambda value: value)
