"""What one rounding more or less does to a module: of its inputs and weights, or of what each of its operators gives."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MASK = 1e30
"""Values so large are masks: what is added to them is meant to vanish."""


def moved(value: Tensor, generator: torch.Generator) -> Tensor:
    """``value``, each element up or down by one rounding of float32, or of its own dtype where that is coarser."""
    return _moved(value, max(torch.finfo(value.dtype).eps, torch.finfo(torch.float32).eps), generator)


def _moved(value: Tensor, step: float, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
    return torch.where(value.abs() < MASK, value * (1 + step * signs).to(value.dtype), value)


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every operator's float results, unless they merely view what it got, are moved by a rounding of their own dtype.

    A module in float64 so keeps the digits that it may need.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns):
            return result
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point():
                value.copy_(_moved(value, torch.finfo(value.dtype).eps, self._generator))
        return result
