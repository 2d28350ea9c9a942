"""Taking channels out of a copy of a module, and the proof that nothing but these channels went.

A channel that no layer reads any more computes nothing. So the cut module must give the outputs of the whole one whose
readers see zeros in its place: this holds for every net and every choice of channels, and fails wherever the dependency graph
has misread a reshape, a split or a normalisation between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.channels.groups import Block, Groups, Slice
from edgeopt.compress.channels.layers import cut_layer, cut_parameter, hidden_columns
from edgeopt.compress.common.comparing import unequal
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.common.modes import evaluating
from edgeopt.model.model import Batch
from edgeopt.model.signature import call_arguments, flat_outputs
from edgeopt.model.user_code import summary

Removed = Mapping[int, frozenset[int]]
"""Channels to take away by the position of their block."""
GUESSES = 3
"""Of the axis that becomes shorter where code parts an axis of channels in up to so many."""
_MISREAD = "outputs change by more than what its readers lose: channels are split, mixed or reordered on their way"


def cut(module: nn.Module, blocks: list[Block], removed: Removed) -> nn.Module:
    """A copy of ``module`` without the channels: modes, dtypes, buffers and what is trained stay; no gradients."""
    copy = copied(module)
    for parameter in copy.parameters():
        parameter.grad = None
    for one, places in _places(blocks, removed):
        if one.axis is None:
            cut_layer(copy.get_submodule(one.layer), one.role, places)
        else:
            cut_parameter(copy, one.layer, one.axis, places)
    return copy


def tried(module: nn.Module, groups: Groups, example_inputs: Batch) -> list[Block]:
    """The module's blocks, with the reason in those that cannot be cut: some channels of each are taken out for a trial.

    Where code parts an axis of channels, which of the parts becomes shorter is not known: the others are tried where the first
    guess fails.
    """
    flexible: dict[int, int] = {}
    found = _tried(module, groups.blocks(flexible), example_inputs)
    for guess in range(1, GUESSES):
        wrong = {number for one in found if one.reason and one.splits for number in one.splits}
        if not wrong:
            return found
        others = flexible | dict.fromkeys(wrong, guess)
        again = _tried(module, groups.blocks(others), example_inputs)
        if _free(again) > _free(found):
            flexible, found = others, again
    return found


def _free(blocks: list[Block]) -> int:
    return sum(one.channels for one in blocks if not one.reason)


def _tried(module: nn.Module, blocks: list[Block], example_inputs: Batch) -> list[Block]:
    """All blocks at once, which nearly always succeeds; else block by block to find the one that does not."""
    wrong = ""
    for share in (_every_other, _the_first):
        wrong = wrong or difference(module, blocks, share(blocks), example_inputs)
    if not wrong:
        return blocks
    return without_misfits(module, blocks, (_every_other(blocks), _the_first(blocks)), example_inputs)


def without_misfits(
    module: nn.Module, blocks: list[Block], plans: Sequence[Removed], example_inputs: Batch
) -> list[Block]:  # fmt: skip
    """``blocks`` with the reason in those whose share of one of the ``plans`` cannot be taken alone."""
    found = list(blocks)
    for index in sorted({index for plan in plans for index in plan}):
        for plan in plans:
            if index in plan and not found[index].reason:
                wrong = difference(module, blocks, {index: plan[index]}, example_inputs)
                found[index] = replace(found[index], reason=wrong)
    return found


def _every_other(blocks: list[Block]) -> Removed:
    """Half of each block's units, evenly: what a regular split would bear."""
    return {i: frozenset(c for unit in one.units[::2] for c in unit) for i, one in enumerate(blocks) if _cuttable(one)}


def _the_first(blocks: list[Block]) -> Removed:
    """The first third of them: what only an arbitrary choice shows."""
    return {
        i: frozenset(c for unit in one.units[: -(-len(one.units) // 3)] for c in unit)
        for i, one in enumerate(blocks)
        if _cuttable(one)
    }


def _cuttable(one: Block) -> bool:
    return not one.reason and len(one.units) > 1


def difference(module: nn.Module, blocks: list[Block], removed: Removed, example_inputs: Batch) -> str:
    """What is wrong with the module cut so, "" where it gives what the whole one gives without these channels.

    On the example inputs, and on inputs unlike them as far as the whole one runs on these.
    """
    if not removed:
        return ""
    try:
        smaller = cut(module, blocks, removed)
    except Exception as error:
        return f"a layer cannot be made narrower: {summary(error, 160)}"
    blinded = _blinded(module, blocks, removed)
    for number, (_, batch) in enumerate((("", example_inputs), *unlike(example_inputs))):
        try:
            expected = _outputs(blinded, batch)
        except Exception:
            if number:
                continue  # inputs that the model does not take
            raise
        if wrong := _differs(smaller, batch, expected):
            return wrong
    return ""


def _differs(smaller: nn.Module, batch: Batch, expected: tuple[Tensor, ...]) -> str:
    try:
        found = _outputs(smaller, batch)
    except Exception as error:
        return f"forward does not run with fewer channels: {summary(error, 160)}"
    if [value.shape for value in found] != [value.shape for value in expected]:
        return "the model's outputs would have another shape"
    return f"{_MISREAD} ({wrong})" if (wrong := unequal(found, expected)) else ""


def _places(blocks: list[Block], removed: Removed) -> list[tuple[Slice, list[int]]]:
    """What to cut from each layer and side of it, from all blocks at once: no cut shifts the places of another."""
    gathered: dict[tuple[str, str], tuple[Slice, set[int]]] = {}
    for index, channels in removed.items():
        for one in blocks[index].slices:
            _, places = gathered.setdefault((one.layer, one.role), (one, set()))
            places.update(place for channel in channels for place in one.places[channel])
    return [(one, sorted(places)) for one, places in gathered.values()]


def _blinded(module: nn.Module, blocks: list[Block], removed: Removed) -> nn.Module:
    """A copy whose reading layers see zeros in the places of ``removed``, recurrent ones in their own states too."""
    copy = copied(module)
    for one, places in _places(blocks, removed):
        layer = None if one.axis is not None else copy.get_submodule(one.layer)
        if layer is not None and one.role == "reads":
            layer.register_forward_pre_hook(partial(_zeroed, torch.tensor(places)), with_kwargs=True)
        elif isinstance(layer, nn.RNNBase):
            with torch.no_grad():
                for name, columns in hidden_columns(layer, torch.tensor(places)).items():
                    getattr(layer, name)[:, columns] = 0
    return copy


def _zeroed(places: Tensor, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    def zero(leaf: Any) -> Any:
        return leaf.index_fill(channel_axis(layer), places.to(leaf.device), 0.0) if isinstance(leaf, Tensor) else leaf

    changed: tuple[Any, Any] = pytree.tree_map(zero, (args, kwargs))
    return changed


def channel_axis(layer: nn.Module) -> int:
    """Where what a layer reads has its channels, from the end: with or without a batch axis."""
    return -1 - len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else -1


def _outputs(module: nn.Module, example_inputs: Batch) -> tuple[Tensor, ...]:
    args, kwargs = call_arguments(example_inputs)
    with evaluating(module), torch.random.fork_rng():
        return flat_outputs(module(*args, **kwargs))[1]
