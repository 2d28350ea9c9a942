"""Attention-head pruning: the heads that matter least go, with their rows and columns in every projection.

Are Sixteen Heads Really Better than One? (Michel, Levy & Neubig, 2019, arXiv:1905.10650).
"""

from typing import Literal

import torch
from torch import nn

from edgeopt.compress.common.attention import Slimmed
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.head_layouts import AttentionLayer, attention_layers, shared_modules
from edgeopt.compress.common.measures import macs
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.common.pretrained import Told, tell_heads
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.responses import differing, firsts, samples, within
from edgeopt.compress.heads.importance import Gates, Importance, by_ablation, by_gradient
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError, ForwardError

UNUSED = "it does not run on this data: nothing tells which heads matter"


@data_class
class Heads:
    """Removes attention heads (key-value groups where query heads share them) of any Hugging Face model and of plain torch.

    ``amount``: share of the heads; ``count`` instead: their number. ``scope`` ``layer`` takes as many from each layer, which
    a configuration with one number of heads can say (Llama, ViT: from_pretrained reads the result back); ``global`` takes
    the least important of all, at least one staying in each layer; then, and in BERT's family always,
    :func:`edgeopt.compress.common.pretrained.load_pretrained` reads what save_pretrained wrote.

    ``importance`` ``gradient``: Michel et al.'s expected gradient at a gate on each head, of the training loss where the
    context has ``train_step`` and ``train_batches``; without labels, of random projections of the outputs, whose mean square
    is, to first order, the squared change of the outputs without the head. ``ablation``: that change itself, one run per head
    and batch.
    ``exclude``: paths of attention layers, or of what they lie in. ``batches``: how many of the data are used.
    """

    amount: float = 0.25
    count: int | None = None
    scope: Literal["layer", "global"] = "layer"
    importance: Literal["gradient", "ablation"] = "gradient"
    exclude: tuple[str, ...] = ()
    batches: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is the share of heads to remove, from 0 up to but not 1: not {self.amount}")
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is a number of heads to remove: not {self.count}")
        if self.batches < 1:
            raise ValueError(f"batches must be at least 1: not {self.batches}")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy of ``module`` with fewer heads. Raises CompressionError where a layer would lose all, or no cut fits."""
        slimmed = Slimmed.of(copied(module))
        layers, left = self._considered(slimmed.module)
        chosen: dict[str, list[int]] = {}
        if layers and self._asks:
            importance = self._importance(slimmed.module, layers, context)
            left += [_left(layer, UNUSED) for layer in layers if layer.path not in importance]
            layers = [layer for layer in layers if layer.path in importance]
            chosen = {path: units for path, units in self._choose(layers, importance).items() if units}
        told = _cut(slimmed.module, layers, chosen, context) if chosen else Told()
        copy = slimmed.restored(chosen)
        order = {path: place for place, (path, _) in enumerate(module.named_modules())}
        changes = sorted((*_changes(layers, chosen), *left), key=lambda change: order[change.layer])
        notes = _notes(module, copy, context, chosen, told)
        return Compressed(
            module=copy, record=Record(technique="heads", settings=to_data(self), layers=tuple(changes), notes=notes)
        )

    @property
    def _asks(self) -> bool:
        return (self.amount if self.count is None else self.count) > 0

    def _considered(self, module: nn.Module) -> tuple[list[AttentionLayer], list[LayerChange]]:
        layers: list[AttentionLayer] = []
        left: list[LayerChange] = []
        shared, excluded = shared_modules(module), within(module, self.exclude)
        for found in attention_layers(module):
            if isinstance(found, LayerChange):
                left.append(found)
            elif found.path in excluded:
                left.append(_left(found, "excluded"))
            elif any(getattr(found.module, name) in shared for name in found.names) or found.output in shared:
                left.append(_left(found, "other layers share its weights"))
            elif found.units == 1:
                left.append(_left(found, "it has one head"))
            else:
                layers.append(found)
        return layers, left

    def _importance(self, module: nn.Module, layers: list[AttentionLayer], context: Context) -> Importance:
        context.tell(f"heads: importance of {sum(layer.units for layer in layers)} heads by {self.importance}")
        with evaluating(module):
            data = samples(context, self.batches)
            if self.importance == "ablation":
                return by_ablation(module, layers, data)
            return by_gradient(module, layers, data, context, self.batches)

    def _choose(self, layers: list[AttentionLayer], importance: Importance) -> dict[str, list[int]]:
        """Units to remove by layer."""
        if self.scope == "layer":
            return {layer.path: _least(importance[layer.path], self._number(layer.units, layer.path)) for layer in layers}
        removable = [
            (float(importance[layer.path][unit]), layer.path, unit)
            for layer in layers
            for unit in _least(importance[layer.path], layer.units - 1)
        ]
        total = sum(layer.units for layer in layers)
        number = int(self.amount * total) if self.count is None else self.count
        if number > len(removable):
            raise _too_many(number, f"all {len(layers)} layers together", total, len(removable))
        chosen: dict[str, list[int]] = {layer.path: [] for layer in layers}
        for _, path, unit in sorted(removable)[:number]:
            chosen[path].append(unit)
        return {path: sorted(units) for path, units in chosen.items()}

    def _number(self, units: int, path: str) -> int:
        number = int(self.amount * units) if self.count is None else self.count
        if number >= units:
            raise _too_many(number, path, units, units - 1)
        return number


def _least(importance: torch.Tensor, number: int) -> list[int]:
    return sorted(importance.argsort(stable=True)[:number].tolist())


def _too_many(number: int, where: str, units: int, most: int) -> CompressionError:
    return CompressionError(
        f"{number} heads cannot be removed", why=f"{where} has {units}, and one stays in each layer",
        fix=f"remove at most {most}, or drop whole layers (technique layers)",
    )  # fmt: skip


def _cut(module: nn.Module, layers: list[AttentionLayer], chosen: dict[str, list[int]], context: Context) -> Told:
    """Cuts in place, and proves it: the cut model computes what the whole one does with those heads switched off.

    The first output tells: attention weights, which some models give as well, are others with fewer heads.
    """
    with evaluating(module):
        with Gates(layers) as gates:
            for path, units in chosen.items():
                gates.values[path][units] = 0
            expected = firsts(module, context.example_inputs)
        for layer in layers:
            gone = chosen.get(layer.path, [])
            if gone:
                layer.cut([unit for unit in range(layer.units) if unit not in gone])
        fix = "exclude these layers, or report the model's attention: its layout is not known here"
        try:
            wrong = differing(module, expected)
        except ForwardError as error:
            raise CompressionError("the model does not run with fewer heads", why=error.why, fix=fix) from error
    if wrong:
        why = f"without the removed heads' rows and columns {wrong}"
        raise CompressionError("the heads of this model do not lie where its class has them elsewhere", why=why, fix=fix)
    return tell_heads(module, chosen)


def _left(layer: AttentionLayer, reason: str) -> LayerChange:
    return LayerChange(layer=layer.path, action="left", before=_heads(layer, layer.units), reason=reason)


def _changes(layers: list[AttentionLayer], chosen: dict[str, list[int]]) -> list[LayerChange]:
    changes = []
    for layer in layers:
        before, gone = _heads(layer, layer.units), chosen.get(layer.path, [])
        if gone:
            reason = f"the least important: {', '.join(map(str, gone))}"
            after = _heads(layer, layer.units - len(gone))
            changes.append(LayerChange(layer=layer.path, action="changed", before=before, after=after, reason=reason))
        else:
            changes.append(_left(layer, "none of its heads is among the least important, or the amount is less than one head"))
    return changes


def _heads(layer: AttentionLayer, units: int) -> str:
    if layer.units == layer.heads:
        return f"{units} heads"
    return f"{units * layer.heads // layer.units} heads on {units} key-value heads"


def _notes(
    module: nn.Module, copy: nn.Module, context: Context, chosen: dict[str, list[int]], told: Told
) -> tuple[str, ...]:  # fmt: skip
    if not chosen:
        return ("no head was removed: the model is as it was",)
    before, after = macs(module, context.example_inputs), macs(copy, context.example_inputs)
    notes = [f"{before:,} multiply-accumulates per call before, {after:,} after ({1 - after / before:.1%} fewer)"]
    multiple = 1 if context.profile is None else context.profile.channel_multiple
    widths = {layer.heads * layer.head_dim for layer in attention_layers(copy) if isinstance(layer, AttentionLayer)}
    if odd := sorted(width for width in widths if width % multiple):
        notes.append(f"projections {odd[0]} wide: the target's kernels like multiples of {multiple}")
    if told.models and not told.readable:
        notes.append(
            "the model's configuration cannot say these head counts: read a saved folder with "
            "edgeopt.compress.common.pretrained.load_pretrained(ModelClass, folder), not with from_pretrained"
        )
    return tuple(notes)
