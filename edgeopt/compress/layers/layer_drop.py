"""Layer dropping for transformers: the layers whose absence is felt least go as a whole.

ShortGPT (Men et al., 2024, arXiv:2403.03853); On the Effect of Dropping Layers of Pre-trained Transformer Models (Sajjad et
al., 2020, arXiv:2004.03844).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.measures import macs, parameters
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.common.pretrained import outermost, rebuilds
from edgeopt.compress.common.proof import proved
from edgeopt.compress.common.responses import change, differing, firsts, outputs, samples, within
from edgeopt.compress.layers.stacks import Stack, Watch, special, stacks
from edgeopt.compress.technique import Compressed, Context, LayerChange, Record
from edgeopt.core import data_class, to_data
from edgeopt.errors import CompressionError, ForwardError
from edgeopt.model.model import Batch


@data_class
class Layers:
    """Drops layers from every stack of them (nn.ModuleList or nn.Sequential): in Hugging Face's models, torch's own, others.

    ``amount``: share of each stack's layers, rounded down; ``count`` instead: how many from each. ``importance`` ``output``:
    the change of the model's outputs without the layer, measured anew after each one that went; ``cosine``: ShortGPT's block
    influence, one less the cosine between what goes into a layer and what comes out, one run for all. ``exclude``: paths of
    layers or of stacks. ``batches``: how many of the data are used. Configurations follow: from_pretrained reads the result.
    """

    amount: float = 0.25
    count: int | None = None
    importance: Literal["output", "cosine"] = "output"
    exclude: tuple[str, ...] = ()
    batches: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is the share of layers to drop, from 0 up to but not 1: not {self.amount}")
        if self.count is not None and self.count < 0:
            raise ValueError(f"count is a number of layers to drop: not {self.count}")
        if self.batches < 1:
            raise ValueError(f"batches must be at least 1: not {self.batches}")

    @proved
    def apply(self, module: nn.Module, context: Context) -> Compressed:
        """A copy of ``module`` with fewer layers. Raises CompressionError where a stack would be empty or cannot be shorter."""
        copy = copied(module)
        found = stacks(copy)
        with evaluating(copy):
            left = self._held(copy, found, context)
            dropped = self._choose(copy, found, left, context)
            gone = {path for paths in dropped.values() for path in paths}
            if gone:
                _shorten(copy, found, gone, context)
        layers = tuple(
            self._change(stack, index, left, dropped[stack.path]) for stack in found for index in range(len(stack.names))
        )
        notes = _notes(module, copy, context, bool(gone))
        return Compressed(module=copy, record=Record(technique="layers", settings=to_data(self), layers=layers, notes=notes))

    def _held(self, module: nn.Module, found: list[Stack], context: Context) -> dict[str, str]:
        """Why layers stay, by path."""
        layers = _by_path(found)
        with Watch(layers) as watch:
            outputs(module, context.example_inputs)
        reasons = {stack.layer_path(index): reason for stack in found for index, reason in special(stack).items()}
        excluded = within(module, self.exclude)
        for path in layers:
            if path in excluded:
                reasons[path] = "excluded"
            elif watch.calls[path] != 1:
                reasons[path] = f"it runs {watch.calls[path]} times in a call"
            elif not watch.passes[path]:
                reasons[path] = "its output has another shape than its input"
        return reasons

    def _choose(self, module: nn.Module, found: list[Stack], left: Mapping[str, str], context: Context) -> dict[str, list[str]]:
        """Paths of layers to drop, by stack, the least important first."""
        free = {stack.path: [path for path in _by_path([stack]) if path not in left] for stack in found}
        numbers = {stack.path: self._number(stack, len(free[stack.path])) for stack in found}
        if not any(numbers.values()):
            return {stack.path: [] for stack in found}
        layers = {path: layer for path, layer in _by_path(found).items() if path not in left}
        context.tell(f"layers: importance of {len(layers)} layers by {self.importance}")
        data = samples(context, self.batches)
        if self.importance == "output":
            return _by_output(module, layers, free, numbers, data)
        influence = block_influence(module, layers, data)
        return {path: sorted(names, key=influence.__getitem__)[: numbers[path]] for path, names in free.items()}

    def _number(self, stack: Stack, free: int) -> int:
        """How many go from ``stack``, of which ``free`` may."""
        total = len(stack.names)
        number = int(self.amount * total) if self.count is None else self.count
        most = min(free, total - 1)
        if self.count is not None and free and number > most:
            why = f"it has {total} layers, of which {free} can go, and one must stay"
            fix = f"drop at most {most}, or exclude this stack"
            raise CompressionError(f"{number} layers cannot be dropped from {stack.path or 'the model'}", why=why, fix=fix)
        return min(number, most)

    def _change(self, stack: Stack, index: int, left: Mapping[str, str], dropped: list[str]) -> LayerChange:
        path, before = stack.layer_path(index), f"layer {index + 1} of {len(stack.names)}"
        if path in dropped:
            reason = f"number {dropped.index(path) + 1} of the least important by {self.importance}"
            return LayerChange(layer=path, action="changed", before=before, after="dropped", reason=reason)
        return LayerChange(
            layer=path, action="left", before=before, reason=left.get(path, "others matter less, or enough went")
        )


def block_influence(module: nn.Module, layers: Mapping[str, nn.Module], data: list[Batch]) -> dict[str, float]:
    """ShortGPT's measure by path: 1 - cosine between a layer's input and output, the mean over positions and ``data``.

    The vectors lie along the last axis, of images [N, C, H, W] along the second.
    """
    sums = dict.fromkeys(layers, 0.0)

    def see(name: str, given: Tensor, made: Tensor) -> None:
        axis = 1 if given.ndim == 4 else -1
        sums[name] += 1 - float(torch.cosine_similarity(given.float(), made.float(), axis).mean())

    with Watch(layers, see):
        for batch in data:
            outputs(module, batch)
    return sums


def _by_output(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    free: Mapping[str, list[str]],
    numbers: Mapping[str, int],
    data: list[Batch],
) -> dict[str, list[str]]:
    """Greedily: again and again the layer without which, besides those gone, the outputs change least."""
    dropped: dict[str, list[str]] = {path: [] for path in free}
    with Watch(layers) as watch:
        references = [outputs(module, batch) for batch in data]
        for _ in range(sum(numbers.values())):
            losses = {}
            for stack, names in free.items():
                for name in names if len(dropped[stack]) < numbers[stack] else ():
                    if name not in watch.skipped:
                        watch.skipped.add(name)
                        losses[name, stack] = sum(
                            change(outputs(module, batch), reference) for batch, reference in zip(data, references, strict=True)
                        )
                        watch.skipped.remove(name)
            name, stack = min(losses, key=losses.__getitem__)
            watch.skipped.add(name)
            dropped[stack].append(name)
    return dropped


def _shorten(module: nn.Module, found: list[Stack], gone: set[str], context: Context) -> None:
    """In place, and proved: the shorter model computes what the whole one does with these layers let through."""
    with Watch(_by_path(found)) as watch:
        watch.skipped = gone
        expected = firsts(module, context.example_inputs)
    for stack in found:
        stack.shorten(module, [index for index in range(len(stack.names)) if stack.layer_path(index) not in gone])
    fix = "exclude these layers: the model's own code relies on their number or order"
    try:
        wrong = differing(module, expected)
    except ForwardError as error:
        raise CompressionError("the model does not run with fewer layers", why=error.why, fix=fix) from error
    if wrong:
        why = f"compared with the layers let through, {wrong}"
        raise CompressionError("the layers of this model cannot be dropped", why=why, fix=fix)


def _by_path(found: list[Stack]) -> dict[str, nn.Module]:
    return {stack.layer_path(index): layer for stack in found for index, layer in enumerate(stack.layers)}


def _notes(module: nn.Module, copy: nn.Module, context: Context, changed: bool) -> tuple[str, ...]:
    if not changed:
        none = "" if stacks(copy) else ": it has no two layers in a row, each a module of its own"
        return (f"no layer was dropped, the model is as it was{none}",)
    before, after = macs(module, context.example_inputs), macs(copy, context.example_inputs)
    notes = [
        f"{before:,} multiply-accumulates per call before, {after:,} after ({1 - after / before:.1%} fewer)",
        f"{parameters(module):,} parameters before, {parameters(copy):,} after",
    ]
    if not all(rebuilds(model) for _, model in outermost(copy)):
        notes.append("its configuration could not be made to say so: from_pretrained does not read the result back")
    return tuple(notes)
