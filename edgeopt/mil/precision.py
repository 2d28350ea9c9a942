"""Rounding to float16, and what it loses: values beyond 65,504 and values that become zero.

The Neural Engine computes in float16 and says nothing when a value overflows.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgeopt.core import data_class
from edgeopt.mil.operator import located

Precision = Literal["float16", "float32"]
"""``float16``: every tensor that the program declares as float16 is rounded to it. ``float32``: the program's mathematics."""
_ROUNDED_TO_INFINITY = 65520.0
HARMFUL_POWER = 1e-4
"""-40 dB: as much noise as a float16 artifact may have as a whole."""


@data_class
class LostRange:
    """An operator whose results do not fit float16, over everything that ran: counts of elements."""

    operator: str
    output: str
    layer: str
    """The layer of the PyTorch model, where the package tells."""
    values: int
    overflowed: int
    """Finite results that become infinite."""
    vanished: int
    """Results other than zero that become zero."""
    vanished_power: float
    """What those were of the tensor's power (its sum of squares), at worst: 0 to 1."""

    def describe(self) -> str:
        """In words, for a warning."""
        where = located(self.operator, self.output, self.layer)
        if self.overflowed:
            return f"{where}: {self.overflowed} of {self.values} values exceed 65,504 and become infinite in float16"
        return f"{where}: {self.vanished} of {self.values} values become zero in float16"


@dataclass(slots=True)
class Watch:
    """Collects what float16 loses, by output."""

    found: dict[str, LostRange] = field(default_factory=dict)

    def saw(self, operator: str, output: str, layer: str, exact: Tensor, rounded: Tensor) -> None:
        """Counts what ``rounded`` (float16) lost of ``exact`` (float32 of the same shape)."""
        # Nearly always nothing overflows and little vanishes: that is found without a mask of every element.
        vanished = _nonzero(exact) - int(torch.count_nonzero(rounded))
        seen = LostRange(
            operator=operator, output=output, layer=layer, values=exact.numel(), vanished=vanished,
            overflowed=0 if _fits(exact) else int((rounded.isinf() & exact.isfinite()).sum()),
            vanished_power=_power(exact[(rounded == 0) & (exact != 0)]) / _power(exact) if vanished else 0.0,
        )  # fmt: skip
        before = self.found.get(output)
        self.found[output] = seen if before is None else _together(before, seen)

    def lost(self) -> tuple[LostRange, ...]:
        """Operators with any overflow, or whose results lose more by what vanishes than by rounding, in the program's order.

        Small values vanish in every softmax beside great ones, which is harmless.
        """
        return tuple(each for each in self.found.values() if each.overflowed or each.vanished_power > HARMFUL_POWER)


def _nonzero(values: Tensor) -> int:
    return int(np.count_nonzero(values.numpy()))  # ten times as fast as torch


def _fits(values: Tensor) -> bool:
    """Whether float16 has a number for each; where one is NaN nothing is said."""
    if not values.numel():
        return True
    low, high = values.aminmax()
    return bool(low > -_ROUNDED_TO_INFINITY) and bool(high < _ROUNDED_TO_INFINITY)


def _power(values: Tensor) -> float:
    return float(values.double().square().sum())


def _together(one: LostRange, other: LostRange) -> LostRange:
    return replace(
        one, values=one.values + other.values, overflowed=one.overflowed + other.overflowed,
        vanished=one.vanished + other.vanished, vanished_power=max(one.vanished_power, other.vanished_power),
    )  # fmt: skip
