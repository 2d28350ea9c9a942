"""Training the heads of early exits, on the network's own answers (Zhang et al., 2019, arXiv:1905.08094: self-distillation)."""

import torch
from torch import Tensor, nn

from edgeopt.compress.distill.lessons import forward, imitated
from edgeopt.compress.distill.losses import soft_targets
from edgeopt.compress.early_exit.exits import EarlyExits, trunks
from edgeopt.compress.technique import TrainStep
from edgeopt.model.model import Batch

TEMPERATURE = 2.0
"""Of the answers that the heads learn: softer ones say less about which samples are hard, and confidence has to."""


class InTraining(nn.Module):
    """The network while its heads are trained: gives the last scores, and remembers those of every exit.

    With a frozen ``trunk`` only the heads train; the trunk stays in eval mode, so that its batch norms do not move.
    """

    def __init__(self, net: EarlyExits, frozen: bool) -> None:
        super().__init__()
        self.net, self._frozen = net, frozen
        self.seen: list[list[Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.net.scores(inputs)
        self.seen.append(scores)
        return scores[-1]

    def train(self, mode: bool = True) -> "InTraining":
        super().train(mode)
        if self._frozen:
            for trunk in trunks(self.net):
                trunk.eval()
        return self


def lesson(original: nn.Module, train_step: TrainStep | None, frozen: bool) -> TrainStep:
    """The loss of an :class:`InTraining`: every exit against the network's answers, and the user's where the trunk trains too.

    A frozen trunk's last exit is the network itself; for one that trains, ``original`` keeps it from drifting.
    """

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(module, InTraining)
        module.seen.clear()
        task_loss, calls = forward(module, batch, train_step)
        losses = [] if frozen or task_loss is None else [task_loss]
        for call, scores in zip(calls, module.seen, strict=True):
            wanted, pupils = scores[-1].detach(), scores[:-1]
            if not frozen:
                with torch.no_grad():
                    wanted, pupils = imitated(original(*call.args, **call.kwargs)), scores
            losses += [soft_targets(one, wanted, TEMPERATURE) for one in pupils]
        module.seen.clear()
        return torch.stack(losses).sum()

    return loss
