"""Where exits can go in a chain of layers, what is computed before them, and the heads that fit there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.distill.losses import refuse_probabilities
from edgeopt.compress.early_exit.chain import Link, TokenMean, chain
from edgeopt.compress.early_exit.exits import Stage
from edgeopt.errors import CompressionError, did_you_mean
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments

Head = Literal["conv", "linear"]


@dataclass(frozen=True, slots=True)
class Places:
    """A network's ``links``, what each gives on the example inputs, and its MACs."""

    links: list[Link]
    values: list[Tensor]
    costs: list[int]

    @classmethod
    def of(cls, module: nn.Module, example_inputs: Batch) -> "Places":
        """Raises CompressionError where ``module`` is no chain, or gives no class scores [N, classes]."""
        links = chain(module, example_inputs)
        args, kwargs = call_arguments(example_inputs)
        value: Tensor = (*args, *kwargs.values())[0]
        values, costs = list[Tensor](), list[int]()
        with evaluating(module):
            for link in links:
                costs.append(macs(link.module, (value.clone(),)))  # a layer may work in place
                value = link.module(value.clone())
                values.append(value)
        if value.ndim != 2 or value.shape[1] < 2:
            fix = "early exits are for classifiers: answers that come with a confidence"
            raise CompressionError(f"an output of shape {tuple(value.shape)} holds no class scores", fix=fix)
        refuse_probabilities(value)
        return cls(links, values, costs)

    @property
    def macs(self) -> int:
        """Of the whole network."""
        return sum(self.costs)

    def done(self, cut: int) -> float:
        """Share of the MACs up to link ``cut``, included."""
        return sum(self.costs[: cut + 1]) / max(self.macs, 1)

    def name(self, cut: int) -> str:
        """The path of link ``cut``, or of the nearest before it that has one."""
        return next((link.path for link in reversed(self.links[: cut + 1]) if link.path), "")

    def last_of(self, layer: str) -> int:
        """The link in which the layer or container ``layer`` ends. Raises CompressionError where it is not in the chain."""
        found = [index for index, link in enumerate(self.links) if link.path == layer or link.path.startswith(f"{layer}.")]
        if not found or not layer:
            paths = [link.path for link in self.links if link.path]
            fix = did_you_mean(layer, paths) or f"layers that follow each other are {', '.join(paths)}"
            raise CompressionError(f"no exit can go after {layer!r}", why="it is no layer of the chain", fix=fix)
        return found[-1]

    def where(self, share: float) -> int:
        """The link by which ``share`` of the MACs are done, with the norm, activation or pooling that follows it."""
        cut = next(index for index in range(len(self.links)) if self.done(index) >= share - 1e-9)
        while cut + 1 < len(self.links) and not self.costs[cut + 1] and self.values[cut + 1].ndim == self.values[cut].ndim:
            cut += 1
        return cut

    def stages(self, cuts: Sequence[int], kind: Head) -> list[nn.Module]:
        """The network's own layers in stages that end after ``cuts``, with new heads."""
        parts = [self.links[start:stop] for start, stop in pairwise((0, *(cut + 1 for cut in cuts), len(self.links)))]
        trunks = [nn.Sequential(*(link.module for link in part)) for part in parts]
        heads = [self._head(cut, kind) for cut in cuts]
        return [*(Stage(trunk, head) for trunk, head in zip(trunks, heads, strict=False)), trunks[-1]]

    def _head(self, cut: int, kind: Head) -> nn.Module:
        """From the features after ``cut`` to scores, in their dtype."""
        features, classes = self.values[cut], self.values[-1].shape[1]
        computed = [link.module for link, cost in zip(self.links[: cut + 1], self.costs, strict=False) if cost]
        layers: list[nn.Module]
        if features.ndim == 4:
            width = features.shape[1]
            conv = [nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers = [*(conv if kind == "conv" else []), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
        elif features.ndim == 3 and computed and isinstance(computed[-1], nn.Conv1d):
            layers = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(features.shape[1], classes)]
        elif features.ndim == 3:
            layers = [TokenMean(), nn.LayerNorm(features.shape[2]), nn.Linear(features.shape[2], classes)]
        elif features.ndim == 2:
            layers = [nn.Linear(features.shape[1], classes)]
        else:
            fix = "put the exit after a layer that gives [N, channels, H, W], [N, tokens, width] or [N, width]"
            raise CompressionError(f"no head fits features of shape {tuple(features.shape)} after {self.name(cut)}", fix=fix)
        return nn.Sequential(*layers).to(features.dtype)
