"""Streaming statistics of every float value in the program: one pass over the calibration data serves every target.

Each value keeps its minimum, maximum and a histogram whose bins are powers of two wide and aligned at zero. Widening such
a histogram merges whole bins, so the result is exact and the same in whatever order the batches come; memory does
not grow with their number.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeopt.kinds import is_float

BINS = 2048
"""Most bins a histogram may have; ranges are found to 1/1024 or better."""
SAMPLE = 1 << 15
"""Elements of one tensor that enter its histogram; of larger ones every n-th does. Minimum and maximum see every element."""


@dataclass(slots=True)
class Histogram:
    """``counts[i]`` values lie in [(first + i) * 2**exponent, (first + i + 1) * 2**exponent)."""

    exponent: int
    first: int
    counts: NDArray[np.int64]
    minimum: float
    maximum: float

    @classmethod
    def of(cls, value: Tensor) -> "Histogram | None":
        """The histogram of a float tensor; None where it holds NaN or infinity; an empty one gives a single zero."""
        low, high = (float(bound) for bound in torch.aminmax(value)) if value.numel() else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        exponent = _exponent(low, high)
        width = math.ldexp(1.0, exponent)
        first, last = math.floor(low / width), math.floor(high / width)
        sample = value.reshape(-1)[:: _stride(value.numel())]
        counts = torch.histc(sample, last - first + 1, first * width, (last + 1) * width)
        return cls(exponent, first, counts.numpy().astype(np.int64), low, high)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ``len(counts) + 1`` borders of the bins."""
        return np.asarray(np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent))

    def merge(self, other: "Histogram") -> "Histogram":
        """Both histograms in one: exact, commutative and associative."""
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        exponent = max(self.exponent, other.exponent, _exponent(minimum, maximum))
        width = math.ldexp(1.0, exponent)
        first = math.floor(minimum / width)
        counts = np.zeros(math.floor(maximum / width) - first + 1, np.int64)
        for part in (self, other):
            index = ((np.arange(len(part.counts)) + part.first) >> (exponent - part.exponent)) - first
            np.add.at(counts, np.clip(index, 0, len(counts) - 1), part.counts)
        return Histogram(exponent, first, counts, minimum, maximum)


def _stride(count: int) -> int:
    """An odd step, so that it walks through every column of the power-of-two shapes that networks have."""
    return max(1, count // SAMPLE) | 1


def _exponent(low: float, high: float) -> int:
    """The smallest bin width 2**n for which [low, high] needs at most BINS bins."""
    span = max(high - low, abs(low) * 2**-20, abs(high) * 2**-20, 2.0**-100)
    exponent = math.ceil(math.log2(span / (BINS - 1)))
    while math.floor(high / math.ldexp(1.0, exponent)) - math.floor(low / math.ldexp(1.0, exponent)) >= BINS:
        exponent += 1
    return exponent


Statistics = dict[str, Histogram]
"""Histograms by the name of the node that yields the value; values that are not finite have none."""


class Recorder(torch.fx.Interpreter):
    """Runs the program and keeps a histogram of every float value. Threads of torch do the work."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.statistics: Statistics = {}
        self.not_finite: set[str] = set()

    def run_node(self, node: torch.fx.Node) -> Any:
        """The node's value, recorded."""
        value = super().run_node(node)
        if is_float(node) and isinstance(value, Tensor) and (node.op != "get_attr" or node.name not in self.statistics):
            self._record(node.name, value)
        return value

    def _record(self, name: str, value: Tensor) -> None:
        if name in self.not_finite:
            return
        seen = Histogram.of(value)
        if seen is None:
            self.not_finite.add(name)
            self.statistics.pop(name, None)
            return
        known = self.statistics.get(name)
        self.statistics[name] = seen if known is None else known.merge(seen)
