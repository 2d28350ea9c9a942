"""Lottery tickets: train, prune, set the weights that are left back to their early values, and again.

Frankle & Carbin, 2018 (arXiv:1803.03635); late rewinding, which larger networks need: Frankle et al., 2019 (arXiv:1903.01611).
"""

from copy import deepcopy
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.technique import Compressed, Context, Fit, Keep, LayerChange, Record
from edgeopt.compress.zeros.magnitude import Magnitude, last_one, put_zeros
from edgeopt.compress.zeros.masks import Weight, keep_zeros, zeros
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError


@data_class
class Lottery:
    """Finds a ticket of ``sparsity`` in ``rounds`` rounds of ``epochs`` epochs each, in a module that is not trained yet.

    ``rewind_to``: the epoch whose weights are the early ones; 0 is the module as given. Each training goes from there to
    ``epochs``. ``scope`` and ``exclude`` as for :class:`Magnitude`; every round prunes the same share of what is left.
    """

    sparsity: float = 0.8
    rounds: int = 5
    epochs: int = 10
    rewind_to: int = 0
    scope: Literal["layer", "global"] = "global"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}: there is at least one")
        self._pruning()
        if not 0 <= self.rewind_to < self.epochs:
            raise ValueError(f"rewind_to is {self.rewind_to}: give an epoch from 0 to below epochs, {self.epochs}")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """The ticket, trained. Raises CompressionError without ``context.fit``."""
        ticket = self.ticket(module, context)
        fine_tune(_given(context.fit), ticket.module, self.epochs - self.rewind_to, ticket.keep)
        return ticket

    def ticket(self, module: nn.Module, context: Context) -> Compressed:
        """The ticket itself: early weights, those not in it zero; ``keep`` holds them zero when it is trained."""
        fit, network = _given(context.fit), copied(module)
        if self.rewind_to:
            fine_tune(fit, network, self.rewind_to)
        early = deepcopy(network.state_dict())
        weights = self._pruning().weights(network)
        chosen = [weight for weight in weights if not weight.reason]
        keep = partial(keep_zeros, names=tuple(weight.name for weight in chosen))
        for number, share in enumerate(self._pruning().shares(), start=1):
            context.tell(f"lottery ticket, round {number} of {self.rounds}: {share:.1%} zeros")
            fine_tune(fit, network, self.epochs - self.rewind_to, keep)
            put_zeros(chosen, share, self.scope)
            _rewind(network, early, keep)
        layers = tuple(change for weight in weights for change in self._change(weight))
        return Compressed(module=network, record=Record(technique="lottery", settings=to_data(self), layers=layers), keep=keep)

    def _change(self, weight: Weight) -> list[LayerChange]:
        if weight.reason:
            return weight.left()
        count, total = zeros(weight.value), weight.value.numel()
        return weight.changed(f"{total:,} weights", f"{total - count:,} weights in the ticket", last_one(weight, self.scope))

    def _pruning(self) -> Magnitude:
        """The same as a pruning schedule, its settings checked."""
        same: dict[str, Any] = {"sparsity": self.sparsity, "scope": self.scope, "exclude": self.exclude}
        return Magnitude(steps=self.rounds, schedule="iterative", **same)


def _rewind(network: nn.Module, early: dict[str, Any], keep: Keep) -> None:
    """Everything as it was early, statistics of norms too, but the zeros."""
    restore = keep(network)
    with torch.no_grad():
        network.load_state_dict(early)
    restore()


def _given(fit: Fit | None) -> Fit:
    if fit is None:
        fix = "give the training code: fit(model, epochs), or train_step"
        raise CompressionError("a lottery ticket is found by training", why="there is no fit", fix=fix)
    return fit
