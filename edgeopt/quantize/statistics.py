"""Streaming statistics of every float value in the program: one pass over the calibration data serves every target.

Each value keeps its minimum, maximum and a histogram whose bins are powers of two wide and aligned at zero. Widening such
a histogram merges whole bins, so the result is exact and the same in whatever order the batches come; memory does
not grow with their number. Values whose channels may differ in scale keep the power of each channel besides.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from edgeopt.capture.operator_kinds import HEAVY, is_float, kind_of

BINS = 2048
"""Most bins a histogram may have; ranges are found to 1/1024 or better."""
SAMPLE = 1 << 13
"""Elements of one tensor that enter its histogram; of larger ones every n-th does. Minimum and maximum see every element."""


MOST_CHANNELS = 1024
"""An axis with more entries has no channels: it is space or time."""


@dataclass(slots=True)
class Channels:
    """The power of a value along one axis: of each entry the sum of squares over ``count`` elements."""

    axis: int
    count: int
    power: NDArray[np.float64]

    def merge(self, other: "Channels") -> "Channels":
        """Both streams of the same value in one."""
        return Channels(self.axis, self.count + other.count, self.power + other.power)


def channels_of(value: Tensor) -> tuple[Channels, ...]:
    """The channels of a finite float tensor along each axis of at most MOST_CHANNELS entries."""
    squares, axes = value.double().square(), [axis for axis, size in enumerate(value.shape) if 1 < size <= MOST_CHANNELS]
    others = [[other for other in range(value.dim()) if other != axis] for axis in axes]
    sums = [squares.sum(rest) if rest else squares for rest in others]
    return tuple(Channels(axis, value.numel() // len(power), power.numpy()) for axis, power in zip(axes, sums, strict=True))


@dataclass(slots=True)
class Histogram:
    """``counts[i]`` values lie in [(first + i) * 2**exponent, (first + i + 1) * 2**exponent)."""

    exponent: int
    first: int
    counts: NDArray[np.int64]
    minimum: float
    maximum: float
    channels: tuple[Channels, ...] = ()
    """Only of a value for which they were asked, and none once it is merged with another value."""
    weights: NDArray[np.float64] | None = None
    """Per bin, how much an error of its values is felt in the model's outputs; None where nothing is known of it."""

    @classmethod
    def of(cls, value: Tensor) -> "Histogram | None":
        """The histogram of a float tensor; None where it holds NaN or infinity; an empty one gives a single zero."""
        low, high = (float(bound) for bound in torch.aminmax(value)) if value.numel() else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        exponent = _exponent(low, high)
        width = math.ldexp(1.0, exponent)
        first, last = math.floor(low / width), math.floor(high / width)
        stride = _stride(value.numel())
        sample = value.reshape(-1)[::stride]
        counts = torch.histc(sample * (1 / width), last - first + 1, first, last + 1)  # scaled: no range overflows a float32
        if stride > 1:  # the extremes count even where the sample misses them
            counts[0].clamp_(min=1)
            counts[-1].clamp_(min=1)
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
        weights = None if self.weights is None or other.weights is None else np.zeros(len(counts))
        for part in (self, other):
            part._add_to(counts, part.counts, exponent, first)
            if weights is not None and part.weights is not None:
                part._add_to(weights, part.weights, exponent, first)
        return Histogram(exponent, first, counts, minimum, maximum, _same_channels(self.channels, other.channels), weights)

    def _add_to(self, bins: NDArray[Any], own: NDArray[Any], exponent: int, first: int) -> None:
        """Adds ``own``, a number for each of this histogram's bins, to wider ``bins`` that begin with ``first``."""
        if self.exponent == exponent and 0 <= self.first - first <= len(bins) - len(own):
            bins[self.first - first :][: len(own)] += own
            return
        index = ((np.arange(len(own)) + self.first) >> (exponent - self.exponent)) - first
        np.add.at(bins, np.minimum(np.maximum(index, 0), len(bins) - 1), own)

    def bins_of(self, value: Tensor) -> NDArray[np.int16]:
        """The bin of each element of ``value``, finite, flat; the first or the last where it lies beyond."""
        found = (value.double() * math.ldexp(1.0, -self.exponent)).floor() - self.first
        return np.asarray(found.clamp(0, len(self.counts) - 1).numpy().astype(np.int16))


def _same_channels(one: tuple[Channels, ...], other: tuple[Channels, ...]) -> tuple[Channels, ...]:
    if [(c.axis, len(c.power)) for c in one] != [(c.axis, len(c.power)) for c in other]:
        return ()
    return tuple(a.merge(b) for a, b in zip(one, other, strict=True))


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


def bordering_values(graph: Graph) -> set[Node]:
    """Values that a network takes, and those from which it makes what it gives by light operators alone.

    Only there do channels have meanings of their own (pixels beside probabilities, metres beside seconds); further inside the
    next weights read them all, and channels of different scale are the rule.
    """
    found = {node for node in graph.nodes if node.op == "placeholder"}
    pending = list(graph.output_node().all_input_nodes)
    while pending:
        node = pending.pop()
        if node in found or node.op != "call_function":
            continue
        found.add(node)
        if kind_of(node) not in HEAVY:
            pending += node.all_input_nodes
    return found


Statistics = dict[str, Histogram]
"""Histograms by the name of the node that yields the value; values that are not finite have none."""


class Recorder:
    """Runs a copy of the program in which every float value is also handed to a histogram.

    ``wanted``: names of the nodes to record, all where None. Constants are recorded once, before any run. Channels are told
    apart where :func:`bordering_values` says so.
    """

    def __init__(self, module: GraphModule, wanted: Collection[str] | None = None) -> None:
        self.statistics: Statistics = {}
        self._channels = {node.name for node in bordering_values(module.graph)}
        self._not_finite: set[str] = set()

        def note(name: str, value: Tensor) -> None:  # fx calls plain functions only
            self.record(name, value)

        graph, copies = Graph(), dict[Node, Node]()
        graph.output(graph.graph_copy(module.graph, copies))
        for node, copied in copies.items():
            if not is_float(node) or (wanted is not None and node.name not in wanted):
                continue
            if node.op == "get_attr":
                self.record(node.name, attribute(module, str(node.target)))
            else:
                with graph.inserting_after(copied):
                    graph.call_function(note, (node.name, copied))
        self._module = GraphModule(module, graph)

    def run(self, *sample: Tensor) -> Any:
        """The program's outputs for one sample, all values recorded on the way."""
        with torch.no_grad():
            return self._module(*sample)

    def record(self, name: str, value: Tensor) -> None:
        """Adds one tensor to the statistics of ``name``; NaN or infinity removes them for good."""
        if name in self._not_finite:
            return
        seen = Histogram.of(value)
        if seen is None:
            self._not_finite.add(name)
            self.statistics.pop(name, None)
            return
        if name in self._channels:
            seen = replace(seen, channels=channels_of(value))
        known = self.statistics.get(name)
        self.statistics[name] = seen if known is None else known.merge(seen)


def attribute(module: Any, path: str) -> Tensor:
    """The tensor at a dotted path below ``module``."""
    for part in path.split("."):
        module = getattr(module, part)
    assert isinstance(module, Tensor)
    return module
