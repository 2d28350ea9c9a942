"""Which rank each layer gets: by its own energy, or by a budget over all layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.low_rank.factorise import ConvMethod, Layer, layers, method_of, whitened
from edgeopt.errors import BudgetUnmet

Cost = Literal["macs", "parameters"]
ROUNDING = 1e-12
"""An error below this is what float64 leaves of none."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to factorise a layer; ``error`` is the share of its energy that is lost. The layer itself has no ``ranks``."""

    ranks: tuple[int, ...]
    parameters: int
    macs: int
    error: float

    def cost(self, of: Cost) -> int:
        return self.macs if of == "macs" else self.parameters


class Candidate:
    """A layer that may be factorised. ``root``: S of its inputs' second moment S S^T, lower triangular, or None."""

    def __init__(self, path: str, layer: Layer, positions: Sequence[int], conv: ConvMethod, multiple: int, root: Tensor | None):
        self.path, self.layer, self._root = path, layer, root
        self._weight = whitened(layer.weight.detach().double(), root)
        self._method = method_of(self._weight, conv)
        count = layer.weight.numel()
        self.dense = Option((), count, count * positions[-1], 0.0)
        self._found = self._method.options(self._weight, positions, multiple)

    @property
    def paying(self) -> list[Option]:
        """Options with fewer parameters and fewer MACs than the layer, without those that lose more for the same or less."""
        found = self._found
        pays = (found.parameters < self.dense.parameters) & (found.macs < self.dense.macs)
        rows = sorted((self._option(int(row)) for row in pays.nonzero()), key=lambda option: option.error)
        kept: list[Option] = []
        for option in rows:
            if not any(other.macs <= option.macs and other.parameters <= option.parameters for other in kept):
                kept.append(option)
        return kept

    def cheapest(self, energy: float) -> Option:
        """The fewest MACs that keep this share of its energy, whether they pay or not; all ranks at most."""
        enough = (self._found.error <= 1 - energy + ROUNDING).nonzero().flatten()
        enough = enough if len(enough) else self._found.error.argmin()[None]
        best = torch.argmin(self._found.macs[enough].double() + self._found.parameters[enough] / 1e12)
        return self._option(int(enough[best]))

    def made(self, option: Option) -> nn.Sequential:
        """The layers that ``option`` stands for."""
        return layers(self.layer, self._method.factors(self._weight, option.ranks), self._root)

    def _option(self, row: int) -> Option:
        found = self._found
        ranks = tuple(int(rank) for rank in found.ranks[row])
        return Option(ranks, int(found.parameters[row]), int(found.macs[row]), float(found.error[row]))


def by_energy(candidates: Sequence[Candidate], energy: float) -> dict[str, Option]:
    """For each layer the cheapest option that keeps this share of its energy, where it pays."""
    found = {candidate.path: candidate.cheapest(energy) for candidate in candidates}
    return {
        candidate.path: found[candidate.path]
        for candidate in candidates
        if found[candidate.path].macs < candidate.dense.macs
        and found[candidate.path].parameters < candidate.dense.parameters
        and found[candidate.path].error <= 1 - energy + ROUNDING
    }


def by_budget(candidates: Sequence[Candidate], of: Cost, saving: int) -> dict[str, Option]:
    """Options that together save ``saving`` or more, with the least energy lost (as the sum of the layers' shares).

    Greedy along the lower convex hull of every layer's options (Shoham & Gersho, 1988, for bit allocation): the next step is
    the one that loses least per parameter or MAC saved. Raises BudgetUnmet where all steps together are too few.
    """
    options = {candidate.path: (candidate.dense, *candidate.paying) for candidate in candidates}
    steps = [
        ((later.error - before.error) / (before.cost(of) - later.cost(of)), path, before, later)
        for path, found in options.items()
        for before, later in pairwise(_hull(found, of))
    ]
    chosen: dict[str, Option] = {}
    for _, path, before, later in sorted(steps, key=lambda step: step[0]):
        if saving <= 0:
            break
        needed, saving = before.cost(of) - saving, saving - (before.cost(of) - later.cost(of))
        # The last step may save more than is needed: an option above the hull can do with less.
        enough = [option for option in options[path][1:] if option.cost(of) <= max(needed, later.cost(of))]
        chosen[path] = min(enough, key=lambda option: option.error)
    if saving > 0:
        least = sum(min(option.cost(of) for option in found) for found in options.values())
        why = f"{saving:,} {of} too many remain with the smallest ranks everywhere, {least:,} of them in {len(options)} layers"
        raise BudgetUnmet("factorisation cannot save that much", why=why, fix="raise share, or prune channels before it")
    return chosen


def _hull(options: Sequence[Option], of: Cost) -> list[Option]:
    """Options on the lower convex hull of error over cost, from the dearest to the cheapest."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (-option.cost(of), option.error)):
        if hull and option.cost(of) == hull[-1].cost(of):
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1], of) >= _slope(hull[-2], option, of):
            hull.pop()
        hull.append(option)
    return hull


def _slope(before: Option, later: Option, of: Cost) -> float:
    return (later.error - before.error) / (before.cost(of) - later.cost(of))
