"""Activation equalization: channels that share one 8-bit scale are scaled so that each fills its range.

Channel c of a value is multiplied by s_c where it is made, in the weights of the layers that make it, and divided by s_c in the
weights of the layers that read it: what the network computes stays what it was (cross-layer equalization: Nagel et al., 2019,
arXiv:1906.04721). Only weights change, no operator. Where the readers are depthwise, each with a weight scale for each channel,
this costs nothing and channels are scaled up to the largest; elsewhere it makes weights harder to quantize, and half of the way
(in octaves) is the best for both together (SmoothQuant: Xiao et al., 2022, arXiv:2211.10438).
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.quantize.channel_ties import Tied, tied_channels
from edgeopt.quantize.noise import Noise

LEAST_SAMPLES = 8
"""Fewer tell too little of what a channel's range is."""
FREE, SHARED = 1.0, 0.5
"""Exponents: how far a channel is scaled towards the largest, where the readers are depthwise and elsewhere."""
MOST_GAIN = 64.0
LEAST_VALUES = 256
"""Of a channel, other than zero. Of fewer the greatest is far from what the channel can reach, and a gain made for that would
have inputs that were not seen clipped. One row for each sample, as behind a global pooling, is never enough."""
HEADROOM = 1.25
"""What inputs that were not seen may have beyond those that were, before a scaled channel reaches the largest, or a clip."""
LEAST_SQNR_DB = 40.0
"""Of the equalized program against what it was made from, on what was seen."""


@dataclass(slots=True)
class Equalizer:
    """Watches ``program`` on some samples, then scales its channels.

    ``program`` is the equalized one from then on, and ``values`` says how many values were scaled.
    """

    program: ExportedProgram
    values: int = 0
    _seen: int = 0
    _tied: list[Tied] = field(default_factory=list)
    _seen_of: "dict[str, tuple[Tensor, Tensor]]" = field(default_factory=dict)
    """By the value's name, for each channel: its greatest magnitude, and how many were not zero."""
    _samples: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = field(default_factory=list)
    _watcher: "_Watcher | None" = None

    def __post_init__(self) -> None:
        self._tied = tied_channels(self.program)
        watched = {name for tied in self._tied for name in tied.values}
        self._watcher = _Watcher(self.program, watched, self._seen_of) if watched else None

    @property
    def wanted(self) -> bool:
        """Whether there is anything that could be scaled."""
        return bool(self._tied)

    def watch(self, *sample: Tensor) -> None:
        """Runs the program on one sample, flat float tensors, and keeps each channel's greatest magnitude."""
        assert self._watcher is not None
        with torch.no_grad():
            outputs = self._watcher.run(*sample)
        self._seen += 1
        if len(self._samples) < LEAST_SAMPLES:
            self._samples.append((sample, tuple(outputs)))

    def equalized(self) -> ExportedProgram:
        """A copy with scaled weights, same graph and names; the program itself where there is nothing to gain."""
        if self._seen < LEAST_SAMPLES:
            return self.program
        changed = deepcopy(self.program)
        with torch.no_grad():
            scaled = [tied for tied in self._tied if self._scale(tied, changed.state_dict)]
        if not scaled or not self._same(changed):
            return self.program
        self.values = sum(len(tied.values) for tied in scaled)
        self.program = changed
        return changed

    def _scale(self, tied: Tied, state: Mapping[str, Tensor]) -> bool:
        peaks, counts = (torch.stack(found) for found in zip(*(self._seen_of[name] for name in tied.values), strict=True))
        gains = gains_of(peaks, tied.clip, tied.free)
        gains = torch.where(counts.amax(0) >= LEAST_VALUES, gains, torch.ones_like(gains))
        if not bool(torch.isfinite(gains).all()) or bool((gains == 1).all()):
            return False
        for name, axis in tied.makers:
            state[name].mul_(_along(gains, axis, state[name]))
        for name, axis in tied.readers:
            state[name].div_(_along(gains, axis, state[name]))
        return True

    def _same(self, changed: ExportedProgram) -> bool:
        module = changed.module(check_guards=False)
        with torch.no_grad():
            pairs = [(wanted, module(*sample)) for sample, wanted in self._samples]
        outputs = [pair for wanted, found in pairs for pair in zip(wanted, found, strict=True)]
        return all(Noise.of(one, other).db >= LEAST_SQNR_DB for one, other in outputs if one.is_floating_point())


def gains_of(peaks: Tensor, clip: float | None, free: bool) -> Tensor:
    """What each channel is multiplied by, float32 [channels], at least 1. ``peaks``: greatest magnitudes, [values, channels].

    ``clip``: what the values are clipped at from above. The clip cannot be scaled with each channel; a scaled channel is
    clipped sooner, and its gain ends where what was seen still passes. A channel that was always zero stays as it is.
    """
    peak = peaks.amax(0)
    largest = peak.amax()
    used = peak > 1e-6 * largest
    expected = HEADROOM * peak.clamp(min=torch.finfo(torch.float32).tiny)
    gains = (largest / expected).clamp(min=1.0).pow(FREE if free else SHARED).clamp(max=MOST_GAIN)
    if clip is not None:
        gains = torch.minimum(gains, clip / expected).clamp(min=1.0)
    return torch.where(used, gains, torch.ones_like(gains))


class _Watcher(torch.fx.Interpreter):
    """Keeps what :class:`Equalizer` must know of each channel of the values asked for."""

    def __init__(self, program: ExportedProgram, wanted: set[str], found: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__(program.module(check_guards=False))
        self._wanted, self._found = wanted, found

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if node.name in self._wanted:
            channels = value.abs().transpose(0, 1).flatten(1)
            peaks, counts = channels.amax(1), channels.count_nonzero(1)
            if node.name in self._found:
                known, before = self._found[node.name]
                peaks, counts = torch.maximum(known, peaks), counts + before
            self._found[node.name] = peaks, counts
        return value


def _along(gains: Tensor, axis: int, weight: Tensor) -> Tensor:
    return gains.reshape([-1 if each == axis else 1 for each in range(weight.dim())])
