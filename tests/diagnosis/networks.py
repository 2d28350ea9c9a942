"""Networks with a fault that 8 bits cannot bear in a place that is known, and what becomes of it without an export."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeopt.diagnosis.measuring import Measurements
from edgeopt.quantize.simulated import Simulation, simulation_of
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed


class Chain(nn.Module):
    """Four linear layers behind which nothing is bounded; where ``masked``, one input of each is switched off."""

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("reached", (torch.arange(16) != 3).float())
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x * self.reached if self.masked else x).relu()
        return x


def stretched_weight(planted: int, size: float = 20.0) -> Chain:
    """One weight has a column that no input reaches and that takes the others' steps."""
    chain = Chain(masked=True)
    with torch.no_grad():
        chain.layers[planted].weight[:, 3] = size  # type: ignore[index,operator]
    return chain


def outlier_channel(planted: int, times: float = 30.0) -> Chain:
    """One channel of a layer's result is ``times`` as large, and the next layer reads it as much smaller: the same function."""
    chain = Chain()
    layer, reader = chain.layers[planted], chain.layers[planted + 1]
    with torch.no_grad():
        layer.bias[5] += 1.0  # type: ignore[index,operator]
        layer.weight[5] *= times  # type: ignore[index,operator]
        layer.bias[5] *= times  # type: ignore[index,operator]
        reader.weight[:, 5] /= times  # type: ignore[index,operator]
    return chain


class Detector(nn.Module):
    """A head as YOLO has it: boxes in pixels and scores of classes in one tensor, [N, 4 + classes, anchors]."""

    def __init__(self, size: float = 640.0, classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()
        )
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, classes, 1)
        self.size = size
        with torch.no_grad():
            self.boxes.weight *= 5
            self.scores.weight *= 5

    def forward(self, image: Tensor) -> Tensor:
        seen = self.stem(image)
        boxes = self.boxes(seen).sigmoid() * self.size
        return torch.cat([boxes.flatten(2), self.scores(seen).sigmoid().flatten(2)], 1)


def simulated(
    module: nn.Module, data: Sequence[tuple[Tensor, ...]], target: str = "x86-fbgemm", io_float: bool = True
) -> Simulation:
    """Without equalization and rounding against data."""
    captured, _, statistics = captured_and_observed(module.eval(), *data[0], data=data)
    profile = loader.load(target)
    return simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float)


def measured(
    module: nn.Module, data: Sequence[tuple[Tensor, ...]], target: str = "x86-fbgemm", io_float: bool = True
) -> Measurements:
    """All samples, without an end of time."""
    far = 1e12
    found = Measurements.begun(simulated(module, data, target, io_float), data, {}, (), far)
    found.first(far)
    found.more(far)
    return found
