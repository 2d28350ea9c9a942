"""Small networks for the planner's tests, captured and run as an export does."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeopt.capture import Captured, capture
from edgeopt.model.model import Model
from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.statistics import Recorder, Statistics
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile


class Convolutional(nn.Module):
    """Convolution + ReLU, a residual sum, pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.stem(image).relu()
        return self.head((hidden + self.body(hidden).relu()).mean((2, 3)))


class Attention(nn.Module):
    """One head of attention; ``keep`` masks keys as padding does."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        mask = None if keep is None else (keep[:, None, :] > 0)
        return nn.functional.scaled_dot_product_attention(q, k, v, mask)


def captured_and_observed(
    module: nn.Module, *example: Tensor, data: Iterable[tuple[Tensor, ...]] = ()
) -> tuple[Captured, GraphModule, Statistics]:
    """The captured module, its graph, and the statistics of ``example`` and ``data``."""
    captured = capture(Model(module, example))
    graph = captured.program.module(check_guards=False)
    recorder = Recorder(graph)
    for sample in (example, *data):
        recorder.run(*sample)
    return captured, graph, recorder.statistics


def decided(
    module: nn.Module, *example: Tensor, target: str | TargetProfile = "arm-xnnpack", io_float: bool = False
) -> Quantization:
    """What the planner decides for ``target``."""
    profile = loader.load(target) if isinstance(target, str) else target
    _, graph, statistics = captured_and_observed(module, *example)
    return decide(graph, statistics, profile, profile.schemes[0], io_float)


def quantized_nodes(
    module: nn.Module, *example: Tensor, target: str | TargetProfile = "arm-xnnpack", io_float: bool = False
) -> list[torch.fx.Node]:
    """The nodes of the program with quantize and dequantize nodes for ``target``."""
    profile = loader.load(target) if isinstance(target, str) else target
    captured, _, statistics = captured_and_observed(module, *example)
    program, _ = quantize(captured.program, captured.example, statistics, profile, profile.schemes[0], io_float, fold=False)
    return list(program.graph.nodes)


def kinds(quantization: Quantization) -> list[Any]:
    """Kinds of the operators that are computed in integers, in order."""
    return [op.kind for op in quantization.integer]
