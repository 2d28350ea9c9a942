"""Rounding to float16, and what it loses: values beyond 65,504 and values that become zero.

The Neural Engine computes in float16 and says nothing when a value overflows.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgeopt.core import data_class

Precision = Literal["float16", "float32"]
"""``float16``: every tensor that the program declares as float16 is rounded to it. ``float32``: the program's mathematics."""
MAX_FLOAT16 = 65504.0


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

    def describe(self) -> str:
        """In words, for a warning."""
        where = f"{self.operator} {self.output!r}" + (f" of layer {self.layer}" if self.layer else "")
        if self.overflowed:
            return f"{where}: {self.overflowed} of {self.values} values exceed 65,504 and become infinite in float16"
        return f"{where}: {self.vanished} of {self.values} values become zero in float16"


@dataclass(slots=True)
class Watch:
    """Collects what float16 loses, by output."""

    found: dict[str, LostRange] = field(default_factory=dict)

    def saw(self, operator: str, output: str, layer: str, exact: Tensor, rounded: Tensor) -> None:
        """Counts what ``rounded`` lost of ``exact``, both float32 of one shape."""
        overflowed = int((rounded.isinf() & exact.isfinite()).sum())
        vanished = int(((rounded == 0) & (exact != 0)).sum())
        before = self.found.get(output) or LostRange(
            operator=operator, output=output, layer=layer, values=0, overflowed=0, vanished=0
        )
        self.found[output] = LostRange(
            operator=operator, output=output, layer=layer, values=before.values + exact.numel(),
            overflowed=before.overflowed + overflowed, vanished=before.vanished + vanished,
        )  # fmt: skip

    def lost(self) -> tuple[LostRange, ...]:
        """Operators with any overflow, or of whose results none but zeros are left, in the program's order."""
        return tuple(each for each in self.found.values() if each.overflowed or (each.vanished and self._all_gone(each)))

    @staticmethod
    def _all_gone(each: LostRange) -> bool:
        """Single values vanish in every softmax; a tensor that vanishes as a whole is an error."""
        return each.vanished >= each.values / 2


def rounded(value: Tensor) -> Tensor:
    """``value`` rounded to the nearest float16, to even at ties, as float32 of the same shape."""
    return value.to(torch.float16).to(torch.float32)
