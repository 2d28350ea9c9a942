"""What the float model's values are like: peaks of channels, channels that never change, values that are cut off."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from edgeopt.capture.operator_kinds import groups_of, kind_of
from edgeopt.diagnosis.findings import OutlierChannel
from edgeopt.quantize.graph import Op
from edgeopt.quantize.ranges import QParams
from edgeopt.quantize.simulated import Simulation
from edgeopt.quantize.statistics import attribute

OUTLIER = 6.0
"""Times the median channel's peak, from which a channel is one."""
WEIGHT_OUTLIER = 4.0
"""The same of weights, by their peak over their channel's root mean square."""
MOST_OUTLIERS = 5
LEAST_CHANNELS = 4
"""With something in them, before one of them can be an outlier."""
LEAST_VALUES = 8
"""Of a channel, before it is called one that never changes."""


@dataclass(slots=True)
class Watched:
    """Of one value, over samples. ``low`` and ``high``: of each channel the least and the greatest value, float32."""

    low: Tensor | None = None
    high: Tensor | None = None
    count: int = 0
    clipped: int = 0
    saturated: int = 0
    clips: bool = False
    """Whether the layer itself cuts the value off."""

    def add(self, value: Tensor, axis: int | None, grid: QParams | None, clip: float | None) -> None:
        """``axis``: of the channels. ``grid``: what 8 bits hold of it; ``clip``: what the layer itself cuts it off at."""
        channels = value.flatten()[None] if axis is None else value.movedim(axis, 0).flatten(1)
        low, high = channels.amin(1), channels.amax(1)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.count += value.numel()
        if grid is not None:
            ends = ((end - grid.zero_point) * grid.scale for end in (grid.low - 0.5, grid.high + 0.5))
            least, greatest = ends
            self.clipped += int(((value < least) | (value > greatest)).sum())
        if clip is not None:
            self.clips = True
            self.saturated += int((value >= clip).sum())

    @property
    def dead(self) -> int:
        """How many channels never change."""
        if self.low is None or self.high is None or self.count < LEAST_VALUES * len(self.low):
            return 0
        return int((self.low == self.high).sum())

    @property
    def outliers(self) -> tuple[OutlierChannel, ...]:
        """Channels with a peak far beyond the median channel's, the greatest first."""
        if self.low is None or self.high is None:
            return ()
        return _outliers(torch.maximum(self.low.abs(), self.high.abs()), MOST_OUTLIERS, OUTLIER)


def weight_outliers(simulation: Simulation, op: Op) -> tuple[tuple[OutlierChannel, ...], tuple[OutlierChannel, ...]]:
    """Output channels in which one weight stands out as in no other, and input channels whose weights stand out in all."""
    if op.weight is None:
        return (), ()
    weight = attribute(simulation.module, str(op.weight.target)).detach()
    weight = weight.movedim(1, 0) if op.kind == "conv_transpose" else weight
    rows = weight.reshape(*weight.shape[:2], -1)  # [out, in / groups, taps]
    if rows[0].numel() == 1:
        return (), ()
    usual = rows.square().mean((1, 2)).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    by_output = _outliers(rows.abs().amax((1, 2)) / usual, MOST_OUTLIERS, WEIGHT_OUTLIER)
    by_input = _outliers(rows.abs().amax((0, 2)), MOST_OUTLIERS, OUTLIER) if groups_of(op.head) == 1 else ()
    return by_output, by_input


def channel_axis(node: Node, value: Tensor) -> int | None:
    """The second axis of images, series and matrices with a batch; the last one of sequences; None where there is none."""
    if value.dim() < 2:
        return None
    is_image = value.dim() > 3 or any(kind_of(each) == "conv" for each in (node, *node.all_input_nodes))
    return 1 if is_image or value.dim() == 2 else value.dim() - 1


def clip_of(node: Node) -> float | None:
    """What a ReLU6 or hardtanh cuts its values off at from above; None for every other operator."""
    kind = kind_of(node)
    if kind == "relu6":
        return 6.0
    return float(node.args[2]) if kind == "hardtanh" and len(node.args) > 2 else None  # type: ignore[arg-type]


def _outliers(peaks: Tensor, most: int, times: float) -> tuple[OutlierChannel, ...]:
    used = peaks[peaks > 0]
    if len(used) < LEAST_CHANNELS:
        return ()
    ratios = peaks / used.median()
    found = sorted(((float(ratio), index) for index, ratio in enumerate(ratios.tolist()) if ratio >= times), reverse=True)
    return tuple(OutlierChannel(channel=index, times=ratio) for ratio, index in found[:most])
