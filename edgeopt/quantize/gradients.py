"""How much an error of each value is felt in the model's outputs, by which its range is chosen.

To first order an error e of a value changes the outputs by J e. Errors of rounding have little to do with each other, so that
what is expected of |J e|^2 is the sum over elements of e^2 times the squared norm of the element's column of J: the diagonal of
the Gauss-Newton matrix (as Hassibi and Stork, 1993, weigh weights by their Hessian). It is estimated from gradients of outputs
that are summed up with random signs (Hutchinson, 1989) and gathered in the bins of the value's histogram, so that one pass
serves every target, whatever its grid.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from edgeopt.capture.operator_kinds import elements, macs
from edgeopt.model.user_code import summary
from edgeopt.quantize.statistics import Histogram, Statistics

FEWEST_SAMPLES, MOST_SAMPLES = 4, 16
PROJECTIONS = 2
"""Sums of outputs with random signs, for each sample: a backward pass each."""
MOST_WORK = 3e11
"""Multiply-accumulates of all passes together: fewer samples where they would be more."""
MOST_VALUES = 1 << 26
"""Numbers in all values of one sample together, which are in memory at once: 256 MiB, and as much again for the gradients."""
ELEMENTS = 1 << 14
"""Of one value of one sample: of more, every n-th."""
EVEN = 0.1
"""Share of weight that every value has, felt or not: what few samples do not feel, such as a tail, others may."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """``statistics``, with weights where ``samples`` told any; where there are none, ``unknown`` says why."""

    statistics: Statistics
    samples: int = 0
    unknown: str = ""


def weighed(program: ExportedProgram, statistics: Statistics, samples: Sequence[tuple[Tensor, ...]]) -> Weighed:
    """``statistics`` of ``program`` with weights of their bins, from some of ``samples``, flat inputs of it. Deterministic."""
    module = program.module(check_guards=False)
    work = sum(macs(node) for node in module.graph.nodes) * (1 + 2 * PROJECTIONS)
    count = min(MOST_SAMPLES, len(samples), int(MOST_WORK / max(work, 1)))
    if len(samples) < FEWEST_SAMPLES:
        return Weighed(statistics, unknown=f"{len(samples)} calibration samples are too few: {FEWEST_SAMPLES} at least")
    if count < FEWEST_SAMPLES or sum(elements(node) for node in module.graph.nodes) > MOST_VALUES:
        return Weighed(statistics, unknown="the model is too large for gradients of its outputs by every value")
    gathered, signs = _Gathered(statistics), torch.Generator().manual_seed(0)
    try:
        with _frozen(module):
            for sample in samples[:: len(samples) // count][:count]:
                _backward(module, sample, gathered, signs)
    except RuntimeError as error:  # an operator without a derivative, or one that writes into its operand
        return Weighed(statistics, unknown=f"torch cannot take the gradient of the outputs by every value: {summary(error)}")
    if not gathered.weights:
        return Weighed(statistics, unknown="no float output depends on a value in a way that has a gradient")
    return Weighed({name: gathered.weighed(name) for name in statistics}, count)


@contextmanager
def _frozen(module: GraphModule) -> Iterator[None]:
    """No gradients by weights: they are not asked for, and take as long as the others."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _backward(module: GraphModule, sample: tuple[Tensor, ...], gathered: "_Gathered", signs: torch.Generator) -> None:
    """Each output counts by its noise against its own power."""
    with torch.enable_grad():
        outputs = [one for one in _Run(module, gathered).run(*sample) if one.is_floating_point() and one.requires_grad]
        scaled = [one / one.detach().double().square().sum().sqrt().clamp(min=1e-30).to(one.dtype) for one in outputs]
        for number in range(PROJECTIONS if scaled else 0):
            random = [torch.randint(0, 2, one.shape, generator=signs).to(one.dtype) * 2 - 1 for one in scaled]
            torch.autograd.backward(scaled, random, retain_graph=number < PROJECTIONS - 1)


@dataclass(slots=True)
class _Gathered:
    statistics: Statistics
    weights: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, name: str, bins: NDArray[np.int16], stride: int, gradient: Tensor) -> None:
        squares = gradient.reshape(-1)[::stride].double().square().numpy() * (stride / PROJECTIONS)
        found = np.bincount(bins, squares, len(self.statistics[name].counts)).astype(np.float64)
        self.weights[name] = self.weights[name] + found if name in self.weights else found

    def weighed(self, name: str) -> Histogram:
        histogram, weights = self.statistics[name], self.weights.get(name)
        if weights is None or not np.isfinite(weights).all() or not (total := weights.sum()) > 0:
            return histogram
        return replace(histogram, weights=weights + EVEN * total * histogram.counts / histogram.counts.sum())


class _Run(Interpreter):
    """Notes of every value in which bins its elements are, for their gradients to be added to."""

    def __init__(self, module: GraphModule, gathered: _Gathered) -> None:
        super().__init__(module)
        self._gathered = gathered

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        histogram = self._gathered.statistics.get(node.name)
        if histogram is None or node.op == "get_attr" or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if not value.requires_grad:  # an input, or made of whole numbers
            value = value.detach().requires_grad_()
        stride = max(1, value.numel() // ELEMENTS) | 1
        bins = histogram.bins_of(value.detach().reshape(-1)[::stride])
        value.register_hook(partial(self._gathered.add, node.name, bins, stride))  # type: ignore[no-untyped-call]
        return value
