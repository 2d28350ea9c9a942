"""Taking channels out of a copy of a module, and the proof that nothing but these channels went.

A channel that no layer reads any more computes nothing. So the cut module must give the outputs of the whole one whose
readers see zeros in its place: this holds for every net and every choice of channels, and fails wherever the dependency graph
has misread a reshape, a split or a normalisation between them.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.calling import call_arguments, flat_outputs
from edgeopt.compress.copying import copied
from edgeopt.compress.structure.channel_groups import Block, Slice
from edgeopt.model import Batch
from edgeopt.user_code import summary

Removed = Mapping[int, frozenset[int]]
"""Channels to take away by the position of their block."""
_MISREAD = "outputs change by more than what its readers lose: channels are split, mixed or reordered on their way"


def cut(module: nn.Module, blocks: list[Block], removed: Removed) -> nn.Module:
    """A copy of ``module`` without the channels: modes, dtypes, buffers and what is trained stay; no gradients."""
    copy = copied(module)
    trained = {name: parameter.requires_grad for name, parameter in copy.named_parameters()}
    for one, places in _places(blocks, removed):
        if one.axis is None:
            one.prune(copy.get_submodule(one.layer), places)
        else:
            _cut_parameter(copy, one, places)
    for name, parameter in copy.named_parameters():
        parameter.requires_grad_(trained[name])
    return copy


def _cut_parameter(module: nn.Module, one: Slice, places: list[int]) -> None:
    pruner: Any = one.prune.__self__  # type: ignore[attr-defined]
    pruner.pruning_dim = one.axis
    owner, _, name = one.layer.rpartition(".")
    holder = module.get_submodule(owner)
    setattr(holder, name, one.prune(getattr(holder, name), places))


def tried(module: nn.Module, blocks: list[Block], example_inputs: Batch) -> list[Block]:
    """``blocks`` with the reason in those that cannot be cut: half of the channels of each are taken out for a trial.

    All at once, which nearly always succeeds; else group by group to find the one that does not.
    """
    half = {i: frozenset(c for unit in one.units[::2] for c in unit) for i, one in enumerate(blocks) if not one.reason}
    half = {i: channels for i, channels in half.items() if len(channels) < blocks[i].channels}
    if not difference(module, blocks, half, example_inputs):
        return blocks
    reasons = {
        number: difference(module, blocks, {i: half[i] for i in half if blocks[i].group == number}, example_inputs)
        for number in {blocks[i].group for i in half}
    }
    return [replace(one, reason=one.reason or reasons.get(one.group, "")) for one in blocks]


def difference(module: nn.Module, blocks: list[Block], removed: Removed, example_inputs: Batch) -> str:
    """What is wrong with the module cut so, "" where it gives what the whole one gives without these channels."""
    if not removed:
        return ""
    expected = _outputs(_blinded(module, blocks, removed), example_inputs)
    try:
        found = _outputs(cut(module, blocks, removed), example_inputs)
    except Exception as error:
        return f"forward does not run with fewer channels: {summary(error, 160)}"
    if [value.shape for value in found] != [value.shape for value in expected]:
        return "the model's outputs would have another shape"
    return "" if all(map(_close, found, expected)) else _MISREAD


def _places(blocks: list[Block], removed: Removed) -> list[tuple[Slice, list[int]]]:
    """What to cut from each layer and side of it, from all blocks at once: no cut shifts the places of another."""
    gathered: dict[tuple[str, str], tuple[Slice, set[int]]] = {}
    for index, channels in removed.items():
        for one in blocks[index].slices:
            _, places = gathered.setdefault((one.layer, one.role), (one, set()))
            places.update(place for channel in channels for place in one.places[channel])
    return [(one, sorted(places)) for one, places in gathered.values()]


def _blinded(module: nn.Module, blocks: list[Block], removed: Removed) -> nn.Module:
    """A copy whose reading layers see zeros in the places of ``removed``."""
    copy = copied(module)
    for one, places in _places(blocks, removed):
        if one.role == "reads":
            copy.get_submodule(one.layer).register_forward_pre_hook(partial(_zeroed, torch.tensor(places)))
    return copy


def _zeroed(places: Tensor, layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs, *rest = args
    return (inputs.index_fill(channel_axis(layer), places.to(inputs.device), 0.0), *rest)


def channel_axis(layer: nn.Module) -> int:
    """Where a convolution's or linear layer's input has its channels, from the end: with or without a batch axis."""
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]


def _outputs(module: nn.Module, example_inputs: Batch) -> tuple[Tensor, ...]:
    args, kwargs = call_arguments(example_inputs)
    with torch.no_grad():
        return flat_outputs(module.eval()(*args, **kwargs))[1]


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of summation, which shorter rows change."""
    if not expected.is_floating_point():
        return bool((found == expected).all())
    relative = torch.finfo(expected.dtype).eps ** 0.5
    bound = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=relative, atol=relative * bound, equal_nan=True)
