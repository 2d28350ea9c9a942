"""Unstructured magnitude pruning: the weights nearest to zero become zero.

Han et al., 2015 (arXiv:1506.02626); in steps after Zhu & Gupta, 2017 (arXiv:1710.01878). It makes a download smaller. Dense
kernels, which all of edgeopt's targets have, multiply zeros like other numbers: it makes nothing faster.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.technique import Compressed, Context, Keep, LayerChange, Record
from edgeopt.compress.zeros.masks import Weight, download, keep_zeros, smallest, weights_of, zeros
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError


@data_class
class Magnitude:
    """``sparsity``: the share of zeros in the end. Biases, norms and what is in ``exclude`` (paths, ``*``) stay as they are.

    ``scope``: "layer" gives every layer that share; "global" gives it to all of them together, one threshold for the model.
    ``steps``: 1 is one-shot. With more, ``context.fit`` trains for ``epochs_between`` epochs between two of them, and
    ``schedule`` says how the zeros come: "cubic" many at first and few at last (Zhu & Gupta), "iterative" the same share of
    what remains each time (Han et al.), "linear" equally many.
    """

    sparsity: float = 0.5
    scope: Literal["layer", "global"] = "global"
    steps: int = 1
    schedule: Literal["cubic", "iterative", "linear"] = "cubic"
    epochs_between: int = 1
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity {self.sparsity} leaves nothing to compute with: give a share from 0 to below 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: there is at least one")
        if self.epochs_between < 0:
            raise ValueError(f"epochs_between is {self.epochs_between}: give 0 or more")

    def shares(self) -> list[float]:
        """The share of zeros after each step; the last is ``sparsity``."""
        done = [step / self.steps for step in range(1, self.steps + 1)]
        if self.schedule == "cubic":
            return [self.sparsity * (1 - (1 - part) ** 3) for part in done]
        if self.schedule == "iterative":
            return [1 - (1 - self.sparsity) ** part for part in done]
        return [self.sparsity * part for part in done]

    def weights(self, module: nn.Module) -> list[Weight]:
        """The weights of ``module`` and why some stay dense, small layers too whose own share of zeros would be all of them."""
        found = weights_of(module, self.exclude)
        return [replace(weight, reason=weight.reason or self._too_small(weight.value.numel())) for weight in found]

    def _too_small(self, count: int) -> str:
        if self.scope == "global" or round(self.sparsity * count) < count:
            return ""
        return f"only {count} weights: {self.sparsity:.1%} zeros would leave none"

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy with zeros. Raises CompressionError where a layer would be left without weights, or training is not given."""
        if self.steps > 1 and self.epochs_between and context.fit is None:
            fix = "give the training code (fit, or train_step), or set epochs_between = 0 or steps = 1"
            raise CompressionError(f"pruning in {self.steps} steps trains between them", why="there is no fit", fix=fix)
        pruned = copied(module)
        weights = self.weights(pruned)
        chosen = [weight for weight in weights if not weight.reason]
        before = {weight.name: _described(weight) for weight in chosen}
        keep = partial(keep_zeros, names=tuple(before) if self.sparsity else ())
        if chosen and self.sparsity:
            self._prune(pruned, chosen, keep, context)
        record = Record(
            technique="magnitude",
            settings=to_data(self),
            layers=tuple(change for weight in weights for change in self._change(weight, before)),
            notes=(_worth(module, pruned, context) if chosen and self.sparsity else "there is nothing to prune",),
        )
        return Compressed(module=pruned, record=record, keep=keep)

    def _prune(self, module: nn.Module, chosen: list[Weight], keep: Keep, context: Context) -> None:
        if self.scope == "global":
            _refuse_emptied(chosen, self.sparsity)  # before any training
        for number, share in enumerate(self.shares(), start=1):
            if number > 1 and self.epochs_between and context.fit is not None:
                fine_tune(context.fit, module, self.epochs_between, keep)
            put_zeros(chosen, share, self.scope)
            if self.steps > 1:
                context.tell(f"pruning, step {number} of {self.steps}: {share:.1%} zeros")

    def _change(self, weight: Weight, before: dict[str, str]) -> list[LayerChange]:
        if weight.name in before:
            after = _described(weight)
            none_came = "it has no smaller weights than the other layers" if self.sparsity else "sparsity is 0"
            if after == before[weight.name]:
                return weight.left(none_came)
            return weight.changed(before[weight.name], after, last_one(weight, self.scope))
        return weight.left()


def put_zeros(weights: list[Weight], share: float, scope: Literal["layer", "global"]) -> None:
    """Makes ``share`` of the weights zero, in each or of all together, rounded to whole weights; zeros they have count.

    A layer's largest weight stays: training moves weights between two steps, and no late step may empty a layer.
    """
    groups = [[weight] for weight in weights] if scope == "layer" else [weights] if weights else []
    for group in groups:
        values = [weight.value for weight in group]
        total = sum(value.numel() for value in values)
        masks = smallest([_greatest_last(value) for value in values], min(round(share * total), total - len(values)))
        with torch.no_grad():
            for value, mask in zip(values, masks, strict=True):
                value.masked_fill_(mask, 0.0)


def _greatest_last(value: Tensor) -> Tensor:
    """Magnitudes, the first of the greatest being infinite."""
    magnitudes = value.detach().abs()
    magnitudes.view(-1)[magnitudes.argmax()] = torch.inf
    return magnitudes


def _refuse_emptied(weights: list[Weight], share: float) -> None:
    """Raises CompressionError where one threshold for all weights, as they are now, takes a whole layer."""
    masks = smallest([weight.value for weight in weights], round(share * sum(weight.value.numel() for weight in weights)))
    for weight, mask in zip(weights, masks, strict=True):
        if bool(mask.all()):
            why = f"all its {mask.numel():,} weights are among the {share:.1%} nearest to zero of the model"
            fix = 'set scope = "layer", a smaller sparsity, or exclude this layer'
            raise CompressionError(f"{weight.layer} would be left without weights", why=why, fix=fix)


def last_one(weight: Weight, scope: Literal["layer", "global"]) -> str:
    """What to say of a layer that one threshold for all has left nothing but its largest weight; "" of others."""
    emptied = scope == "global" and zeros(weight.value) == weight.value.numel() - 1
    return "only its largest weight is left, which one threshold for all never takes: exclude this layer" if emptied else ""


def _described(weight: Weight) -> str:
    count, total = zeros(weight.value), weight.value.numel()
    return f"{count:,} of {total:,} zero ({count / total:.1%})"


def _worth(before: nn.Module, after: nn.Module, context: Context) -> str:
    """What this technique is for, with both figures, and that it is for nothing else."""
    target = f"on {context.profile.name}" if context.profile else "on dense kernels"
    return f"{download(before, after)}; no speed {target}, where a zero is multiplied like any other weight"
