"""N:M semi-structured sparsity: of each M weights along a layer's inputs at most N are not zero (2:4: arXiv:2104.08378).

NVIDIA's tensor cores since Ampere skip the zeros of 2:4; what else there is gains a smaller download only.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.proof import proved
from edgeopt.compress.technique import Compressed, Context, Record
from edgeopt.compress.zeros.layer_inputs import Convolution, Observed
from edgeopt.compress.zeros.masks import Weight, download, inputs_first, is_conv1d, keep_zeros, weights_of
from edgeopt.core import data_class, to_data
from edgeopt.quantize.replay import from_matrix, matrix
from edgeopt.quantize.sparse24 import gains_nothing
from edgeopt.quantize.sparsegpt import Pattern, by_magnitude, by_saliency, prune_rows
from edgeopt.targets.schema import Sparsity, TargetProfile

MAGNITUDE, SPARSEGPT = "magnitude", "sparsegpt"
HAS_IT = "it has the pattern already"
"""The reason for which a layer is left and its zeros are kept all the same."""


@data_class
class NM:
    """``pattern``: "2:4" keeps two of each four. Linear layers, ungrouped convolutions and attention's projections have it.

    ``method`` chooses what stays: "magnitude"; "wanda" magnitude times the norm of the input (arXiv:2306.11695); "sparsegpt"
    by the error it makes, which the weights that are left take over (arXiv:2301.00774). The last two run the first
    ``samples`` of ``context.batches``, each of the example inputs' size, once per layer. ``exclude``: paths, ``*``.

    Fine-tune after "wanda" where there are batch norms: its choice moves the means that they have kept. The Fashion-MNIST
    example, 92.4% right, has 81.6% with it, 90.2% by magnitude and 91.8% by SparseGPT; with the norms' statistics taken anew
    and nothing else trained 91.1%, 91.2% and 92.1%.
    """

    pattern: str = "2:4"
    method: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    samples: int = 64
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.pattern)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f'pattern {self.pattern!r} is none: "2:4" keeps 2 of each 4, the first number being the smaller')
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: give 1 or more")

    @property
    def kept(self) -> Pattern:
        """The pattern in numbers."""
        kept, _, group = self.pattern.partition(":")
        return Pattern(int(kept), int(group))

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy with the pattern where it pays on ``context.profile``; without one, wherever it fits.

        Raises CompressionError where the method needs data that is not given, InputError where the data does not fit.
        """
        pruned = copied(module)
        weights = weights_of(pruned, self.exclude)
        limits = self._limits(context.profile)
        reasons = {weight.name: self._reason(weight, limits) for weight in weights}
        done = self._prune(pruned, [weight for weight in weights if not reasons[weight.name]], context)
        for weight in weights:
            if not reasons[weight.name] and weight.name not in done:
                reasons[weight.name] = "no data reaches it"
        changes = [
            change
            for weight in weights
            for change in (weight.changed("dense", self.pattern) if weight.name in done else weight.left(reasons[weight.name]))
        ]
        notes = (self._gain(context.profile), download(module, pruned)) if done else ("there is no layer to prune",)
        record = Record(technique="nm", settings=to_data(self), layers=tuple(changes), notes=notes)
        names = tuple(weight.name for weight in weights if weight.name in done or reasons[weight.name] == HAS_IT)
        return Compressed(module=pruned, record=record, keep=partial(keep_zeros, names=names))

    def _prune(self, module: nn.Module, chosen: list[Weight], context: Context) -> set[str]:
        """Puts the pattern into ``chosen``; the names of those that have it now."""
        if chosen and self.method != MAGNITUDE:
            return self._prune_on_data(Observed(module, context, self.samples), chosen, context)
        for weight in chosen:
            _put(weight, [by_magnitude(_rows(weight), self.kept)])
        return {weight.name for weight in chosen}

    def _prune_on_data(self, observed: Observed, chosen: list[Weight], context: Context) -> set[str]:
        """Layer by layer in the order of their calls; the names of those that were called."""
        ordered = observed.in_order(chosen)
        for number, weight in enumerate(ordered, start=1):
            context.tell(f"{self.pattern} by {self.method}: layer {number} of {len(ordered)}")
            moments = observed.moments(weight, full=self.method == SPARSEGPT)
            parts = _rows(weight).chunk(len(moments))
            _put(weight, [self._pruned(part, moment) for part, moment in zip(parts, moments, strict=True)])
        return {weight.name for weight in ordered}

    def _pruned(self, rows: Tensor, moment: Tensor) -> Tensor:
        if self.method == SPARSEGPT:
            return prune_rows(rows, moment, self.kept)
        return by_saliency(rows, rows.abs() * moment.sqrt(), self.kept)

    def _reason(self, weight: Weight, limits: Sparsity | None) -> str:
        """Why ``weight`` stays dense; "" where it can have the pattern and gain by it."""
        if weight.reason:
            return weight.reason
        unfit = next((reason for reason in map(_unfit, weight.owners.values()) if reason), "")
        if unfit:
            return unfit if len(weight.owners) == 1 else f"its weights serve another layer as well, {unfit}"
        if len({inputs_first(owner) for owner in weight.owners.values()}) > 1:
            return "the layers that share its weights multiply with different axes of them"
        inputs, outputs = _channels(weight)
        if inputs % self.kept.group:
            return f"{inputs} input channels: not a multiple of {self.kept.group}"
        if bool((_rows(weight).reshape(-1, self.kept.group).count_nonzero(1) <= self.kept.kept).all()):
            return HAS_IT
        return gains_nothing(inputs, outputs, limits) if limits else ""

    def _limits(self, profile: TargetProfile | None) -> Sparsity | None:
        """The target's, where it has kernels that this pattern satisfies: 1:2 and 1:4 are 2:4 as well."""
        if profile is None or profile.sparsity is None:
            return None
        kept, group = map(int, profile.sparsity.pattern.split(":"))
        times, rest = divmod(group, self.kept.group)
        return profile.sparsity if times and not rest and self.kept.kept * times <= kept else None

    def _gain(self, profile: TargetProfile | None) -> str:
        if profile is None:
            return "no target is named: layers too small to gain are pruned too, and only sparse kernels gain speed"
        if profile.sparsity is None:
            return f"no speed on {profile.name}: it has no kernels that skip zeros"
        if self._limits(profile) is None:
            return f"no speed on {profile.name}: its kernels take {profile.sparsity.pattern}, not {self.pattern}"
        return f"{profile.name} has kernels for {profile.sparsity.pattern}: the layers left dense would not gain"


def _unfit(owner: nn.Module) -> str:
    """What the layer is, where no sparse kernel computes such a one."""
    if isinstance(owner, Convolution):
        return "a grouped or depthwise convolution: its reduction axis is too short" if owner.groups > 1 else ""
    if isinstance(owner, nn.Linear | nn.MultiheadAttention) or is_conv1d(owner):
        return ""
    if isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return "a transposed convolution: sparse kernels take convolutions and matrix products"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "an embedding: its rows are read, not multiplied"
    return f"{type(owner).__name__}: sparse kernels take convolutions and matrix products"


def _channels(weight: Weight) -> tuple[int, int]:
    """Inputs and outputs."""
    first, second = weight.value.shape[:2]
    return (first, second) if _is_transposed(weight) else (second, first)


def _rows(weight: Weight) -> Tensor:
    """The weight as [outputs, kernel positions x inputs]."""
    value = weight.value.detach()
    return matrix(value.T if _is_transposed(weight) else value)


def _put(weight: Weight, parts: Iterable[Tensor]) -> None:
    """Writes what :func:`_rows` gives, in parts of some outputs each."""
    rows = torch.cat(list(parts))
    with torch.no_grad():
        weight.value.copy_(rows.T if _is_transposed(weight) else from_matrix(rows, weight.value.shape))


def _is_transposed(weight: Weight) -> bool:
    return any(map(inputs_first, weight.owners.values()))
