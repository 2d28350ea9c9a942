"""A network with early exits (Teerapittayanon et al., 2016, BranchyNet, arXiv:1709.01686) as stages that run one by one.

On a device: run stage 1; where the greatest softmax probability of its scores reaches the first threshold, that is the answer;
else stage 2 goes on from its features, and so on. Each stage exports as an artifact of its own:

    for stage, example in net.parts(example_inputs):
        edgeopt.export(stage, example, out=...)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments


class Stage(nn.Module):
    """A part of the network with an exit behind it."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What the stage before gives -> scores [N, classes], and features for the next stage."""
        features = self.trunk(features)
        return self.head(features), features


class EarlyExits(nn.Module):
    """All stages: the last is a plain nn.Sequential that gives scores alone. ``thresholds``: one for each but the last.

    ``forward`` gives the scores that the stages would answer with, each sample from its own exit: for evaluating and exporting
    as one network. It computes all stages: only running them one by one saves work.
    """

    def __init__(self, stages: Sequence[nn.Module], thresholds: Sequence[float]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.thresholds = tuple(thresholds)

    def forward(self, inputs: Tensor) -> Tensor:
        *early, answer = self.scores(inputs)
        for scores, threshold in zip(reversed(early), reversed(self.thresholds), strict=True):
            leaves = confidence(scores) >= threshold
            answer = torch.where(leaves[:, None], scores, answer)
        return answer

    def scores(self, inputs: Tensor) -> list[Tensor]:
        """Every exit's scores [N, classes]."""
        found, features = [], inputs
        *early, last = self.stages
        for stage in early:
            scores, features = stage(features)
            found.append(scores)
        return [*found, last(features)]

    def parts(self, example_inputs: Batch) -> list[tuple[nn.Module, tuple[Tensor]]]:
        """Each stage with its example inputs, for export; all of them are put into eval mode."""
        args, kwargs = call_arguments(example_inputs)
        value: Tensor = (*args, *kwargs.values())[0]
        found: list[tuple[nn.Module, tuple[Tensor]]] = []
        with torch.no_grad():
            for stage in self.stages:
                stage.eval()
                found.append((stage, (value,)))
                result = stage(value)
                value = result[1] if isinstance(result, tuple) else result
        return found


def confidence(scores: Tensor) -> Tensor:
    """The greatest softmax probability of each sample; [N, classes] -> [N]."""
    return scores.softmax(-1).amax(-1)


def trunks(net: EarlyExits) -> list[nn.Module]:
    """The network without its heads, stage by stage."""
    *early, last = net.stages
    return [*(stage.trunk for stage in early if isinstance(stage, Stage)), last]
