"""How many channels, and which ones, are taken from each block for a share of channels, MACs or parameters.

Costs are computed, not measured: a layer's MACs fall with the product of the channels it makes and reads, so that hundreds of
plans are tried without touching the module.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.channels.groups import Block, Slice, widths
from edgeopt.compress.channels.importance import Scores
from edgeopt.compress.channels.layers import reads_inputs
from edgeopt.compress.channels.surgery import Removed
from edgeopt.errors import CompressionError

Scope = Literal["layer", "global"]
Left = Callable[[Removed], float]
"""The share of the original's cost that is left after a plan."""
TINY = torch.finfo(torch.float32).tiny
MOST_REASONS = 4
"""Named where the share cannot be reached."""
HALVINGS = 24
"""Of the range of ratios: far below one channel of any layer."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """A block that may lose channels: its units from the least to the most important, and how many may stay."""

    index: int
    order: tuple[tuple[int, ...], ...]
    scores: Tensor
    whole: int
    """Units of the original model: what shares refer to."""
    allowed: tuple[int, ...]

    @property
    def width(self) -> int:
        return len(self.order[0])


class Planner:
    """Plans for one module. ``multiple``: the channels that stay in a block are a multiple of it, where any go.

    ``originals``: channels by :attr:`Block.key` before earlier rounds, for shares that add up over the rounds.
    """

    def __init__(self, blocks: list[Block], scores: Scores, multiple: int, scope: Scope, originals: dict[object, int]) -> None:
        self._scope = scope
        self._choices = [
            _choice(index, one, found, multiple, originals.get(one.key, one.channels))
            for index, (one, found) in enumerate(zip(blocks, scores, strict=True))
            if not one.reason
        ]
        self._blocks = blocks

    def at(self, ratio: float) -> Removed:
        """Channels to remove, by the position of their block, where ``ratio`` of the original's channels go.

        Raises CompressionError where a layer would have no channel left.
        """
        kept = self._by_layer(ratio) if self._scope == "layer" else self._overall(ratio)
        return self._removed(kept)

    def reaching(self, share: float, left: Left) -> Removed:
        """The plan that takes away at least ``share``, and little more; ``left`` says what share a plan leaves.

        The ratio is found by bisection. What rounding took beyond the share is given back, the most important channels
        first. Raises CompressionError where every layer is at its least before.
        """
        most = self._removed([one.allowed[0] for one in self._choices])
        if 1 - left(most) < share:
            why = f"with every layer at its least, {1 - left(most):.0%} go{self._staying()}"
            fix = "ask for less, lower multiple, or exclude less"
            raise CompressionError(f"{share:.0%} cannot be taken away", why=why, fix=fix)
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = 1 - left(self._clamped(middle)) >= share
            low, high = (low, middle) if enough else (middle, high)
        return self._given_back(self._kept(high), share, left)

    def _staying(self) -> str:
        """Which layers stay as they are and why, each reason once."""
        first: dict[str, str] = {}
        for one in self._blocks:
            if one.reason and (makers := one.layers("makes") or one.layers("passes")):
                first.setdefault(one.reason, makers[0])
        told = [f"{layer}: {reason}" for reason, layer in list(first.items())[:MOST_REASONS]]
        return f"; what stays: {'; '.join(told)}" if told else ""

    def _kept(self, ratio: float) -> list[int]:
        if ratio >= 1:
            return [one.allowed[0] for one in self._choices]
        return self._by_layer(ratio, clamp=True) if self._scope == "layer" else self._overall(ratio)

    def _clamped(self, ratio: float) -> Removed:
        return self._removed(self._kept(ratio))

    def _by_layer(self, ratio: float, clamp: bool = False) -> list[int]:
        kept = []
        for one in self._choices:
            exact = one.whole * (1 - ratio)
            if exact < 0.5 and 1 in one.allowed[:-1] and not clamp:
                names = self._blocks[one.index].layers("makes")
                why = f"of {one.whole * one.width} channels {exact * one.width:.2g} would stay"
                fix = f"ask for less, or exclude it: exclude = {list(names)}"
                raise CompressionError(f"taking away {ratio:.0%} of the channels empties {', '.join(names)}", why=why, fix=fix)
            kept.append(_nearest(one, exact))
        return kept

    def _overall(self, ratio: float) -> list[int]:
        """One threshold for all: scores are compared after division by their mean in the block."""
        relative = [one.scores / one.scores.mean().clamp_min(TINY) for one in self._choices]
        if not relative:
            return []
        before = sum(one.whole * one.width for one in self._choices)
        gone = before - sum(len(one.order) * one.width for one in self._choices)
        every = torch.cat(relative)
        widths = torch.cat([torch.full((len(one.order),), float(one.width)) for one in self._choices])
        rank = every.argsort(stable=True)
        count = int((widths[rank].cumsum(0) <= ratio * before - gone + 1e-6).sum())
        owner = torch.cat([torch.full((len(one.order),), i) for i, one in enumerate(self._choices)])[rank[:count]]
        return [_nearest(one, len(one.order) - int((owner == i).sum())) for i, one in enumerate(self._choices)]

    def _given_back(self, kept: list[int], share: float, left: Left) -> Removed:
        def next_score(i: int) -> float:
            one = self._choices[i]
            return float(one.scores[len(one.order) - kept[i] - 1] / one.scores.mean().clamp_min(TINY))

        open_choices = {i for i, one in enumerate(self._choices) if kept[i] < one.allowed[-1]}
        while open_choices:
            best = max(open_choices, key=next_score)
            one = self._choices[best]
            more = next(count for count in one.allowed if count > kept[best])
            trial = [more if i == best else count for i, count in enumerate(kept)]
            if 1 - left(self._removed(trial)) >= share:
                kept = trial
            else:
                open_choices.discard(best)
            open_choices = {i for i in open_choices if kept[i] < self._choices[i].allowed[-1]}
        return self._removed(kept)

    def _removed(self, kept: list[int]) -> Removed:
        found = {
            one.index: frozenset(channel for unit in one.order[: len(one.order) - count] for channel in unit)
            for one, count in zip(self._choices, kept, strict=True)
        }
        return {index: channels for index, channels in found.items() if channels}


def _choice(index: int, block: Block, scores: Tensor, multiple: int, original: int) -> _Choice:
    width = len(block.units[0])
    by_unit = scores.view(-1, width).mean(1)
    order = by_unit.argsort(stable=True)
    step = math.lcm(multiple, width) // width
    allowed = (*range(step, len(block.units), step), len(block.units))
    units = tuple(block.units[i] for i in order.tolist())
    return _Choice(index, units, by_unit[order], original // width, allowed)


def _nearest(one: _Choice, exact: float) -> int:
    """The allowed number of units nearest to ``exact``; of two the larger."""
    return min(one.allowed, key=lambda count: (abs(count - exact), -count))


class ChannelCosts:
    """What a module costs once channels are gone, computed from what each layer costs before.

    ``macs``: those of each layer by its path; without them parameters are counted.
    """

    def __init__(self, module: nn.Module, blocks: list[Block], macs: dict[str, int] | None) -> None:
        self._blocks = blocks
        self._widths = {part.layer: widths(module, part) for one in blocks for part in one.slices}
        self._terms = {part.layer: _terms(module, part, macs) for one in blocks for part in one.slices}
        whole = sum(parameter.numel() for parameter in module.parameters())
        self._whole = whole if macs is None else sum(macs.values())

    def left(self, removed: Removed) -> float:
        """Parameters or MACs without ``removed``."""
        makes, reads = dict.fromkeys(self._widths, 1.0), dict.fromkeys(self._widths, 1.0)
        for index, channels in removed.items():
            for part in self._blocks[index].slices:
                made, read = self._widths[part.layer]
                gone = sum(len(part.places[channel]) for channel in channels)
                if part.role == "reads":
                    reads[part.layer] -= gone / read
                else:
                    makes[part.layer] -= gone / made
        lost = sum(
            cost * (1 - makes[name] ** made * reads[name] ** read)
            for name, terms in self._terms.items()
            for cost, made, read in terms
        )
        return self._whole - lost


def _terms(module: nn.Module, part: Slice, macs: dict[str, int] | None) -> list[tuple[float, int, int]]:
    """What a layer costs, as (cost, power of the channels that it makes, power of those that it reads)."""
    if part.axis is not None:
        return [] if macs is not None else [(module.get_parameter(part.layer).numel(), 1, 0)]
    layer = module.get_submodule(part.layer)
    own = dict(layer.named_parameters(recurse=False))
    read = 0 if getattr(layer, "groups", 1) == getattr(layer, "in_channels", 0) > 1 else 1
    terms: list[tuple[float, int, int]] = [
        (value.numel(), *_powers(layer, name, read)) for name, value in own.items() if value.ndim > 1
    ]
    if macs is None:
        return [*terms, *((value.numel(), 1, 0) for value in own.values() if value.ndim < 2)]
    whole = max(sum(cost for cost, *_ in terms), 1)
    return [(cost / whole * macs.get(part.layer, 0), *powers) for cost, *powers in terms]  # type: ignore[misc]


def _powers(layer: nn.Module, name: str, read: int) -> tuple[int, int]:
    if isinstance(layer, nn.RNNBase) and not reads_inputs(name):
        return 2, 0  # it reads the states that it makes
    return 1, read
