"""How much of a value is left of it: noise against power, summed up sample by sample."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_DB = 120.0
"""An error smaller than that is none, in float32."""


@dataclass(slots=True)
class Noise:
    """Sums of squares over samples: of values, and of what they were changed by."""

    power: float = 0.0
    error: float = 0.0

    @classmethod
    def of(cls, wanted: Tensor, found: Tensor) -> "Noise":
        """Elements that are equal differ by nothing, infinite ones too."""
        wanted, found = wanted.double(), found.double()
        changed = torch.where(wanted == found, torch.zeros((), dtype=wanted.dtype), wanted - found)
        return cls(float(wanted[wanted.isfinite()].square().sum()), float(changed.square().sum()))

    def __add__(self, other: "Noise") -> "Noise":
        return Noise(self.power + other.power, self.error + other.error)

    @property
    def db(self) -> float:
        """The signal-to-quantization-noise ratio; at most MOST_DB, and minus that where nothing is left."""
        if self.error == 0:
            return MOST_DB
        if not math.isfinite(self.error) or self.power == 0:
            return -MOST_DB
        return max(-MOST_DB, min(MOST_DB, 10 * math.log10(self.power / self.error)))
