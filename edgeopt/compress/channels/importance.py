"""How much each channel matters: from the weights that make and read it, from batch norms, or from data.

Every score is a sum over all layers that a channel goes through, since it leaves them together (arXiv:2301.12900).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.channels.groups import Block, Slice
from edgeopt.compress.channels.layers import has_matrices, reads_inputs
from edgeopt.compress.channels.surgery import channel_axis
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.head_layouts import is_transposed
from edgeopt.compress.technique import Context
from edgeopt.errors import CompressionError
from edgeopt.model.signature import Signature, flat_outputs

Importance = Literal["l1", "l2", "batch-norm", "taylor", "activation"]
MOST_SAMPLES, MOST_BATCHES = 128, 16
"""Samples, or training batches, that are looked at."""
DRAWS = 2
"""Random directions per sample in which the gradient of the outputs is taken."""
Scores = list[Tensor]
"""One float32 [channels] per block, in the order of its units, empty for one that stays. High: much is lost without it."""


def scores(module: nn.Module, blocks: list[Block], importance: Importance, context: Context) -> Scores:
    """The score of every channel of every block; NaN where the blocks have nothing to judge by (no batch norm).

    ``l1``, ``l2``: sums of |w| and w^2 over all weights of a channel (Li et al., 2017, arXiv:1608.08710).
    ``batch-norm``: |scale| (network slimming: Liu et al., 2017, arXiv:1708.06519).
    ``activation``: mean square of a channel times the squared norm of the weights that read it: what its readers lose, by
    channels what Wanda (Sun et al., 2023, arXiv:2306.11695) takes by weights.
    ``taylor``: squared change of the loss without the channel, to first order (Molchanov et al., 2019, arXiv:1906.10771),
    averaged over ``context.train_batches`` where the user gave a ``train_step``. Without labels the loss is the squared
    distance to the model's own outputs. Its gradient is zero; half its second derivative towards a channel's removal is
    |df|^2, with df the change of the outputs to first order, and that is the mean of (e . df)^2 over random normal e
    (Fisher pruning, Theis et al., 2018, arXiv:1801.05787, for a normal distribution around the outputs).

    Raises CompressionError where data is needed and was not given.
    """
    blocks = [one if not one.reason else replace(one, units=(), slices=()) for one in blocks]
    sums = [_Sum(one) for one in blocks]
    if importance == "taylor":
        return _taylor(module, sums, context)
    if importance == "activation":
        _need_data(importance, context)
        seen = _mean_squares(module, {name for one in blocks for name in one.layers("reads")}, context)
        return [one(lambda part: _energy(module, part, seen)) for one in sums]
    return [one(lambda part: _weighed(module, part, importance)) for one in sums]


class _Sum:
    """The sum over the layers of a block, float32 [channels] in the order of its units; NaN where no layer has a score."""

    def __init__(self, block: Block) -> None:
        order = [channel for unit in block.units for channel in unit]
        self.channels = len(order)
        self._parts = []
        for part in block.slices:
            pairs = [(row, place) for row, channel in enumerate(order) for place in part.places[channel]]
            self._parts.append((part, *torch.tensor(pairs).T))

    def __call__(self, of: Callable[[Slice], Tensor | None]) -> Tensor:
        """``of`` gives a layer's scores by place, or None where it has none."""
        found = [(rows, by_place[places]) for part, rows, places in self._parts if (by_place := of(part)) is not None]
        if not found:
            return torch.full((self.channels,), torch.nan)
        total = torch.zeros(self.channels)
        for rows, values in found:
            total.index_add_(0, rows, values.float().cpu())
        return total


def _weighed(module: nn.Module, part: Slice, importance: Importance) -> Tensor | None:
    if part.axis is not None:
        return None
    layer = module.get_submodule(part.layer)
    if importance == "batch-norm":
        return layer.weight.detach().abs() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine else None
    power = 1 if importance == "l1" else 2
    return _by_channel(layer, part, lambda weight: weight.detach().float().abs() ** power) if has_matrices(layer) else None


def _by_channel(layer: nn.Module, part: Slice, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums of ``of`` each weight, of its shape, over all but the channels that the layer makes or reads."""
    if isinstance(layer, nn.RNNBase):
        return _by_state(layer, part, of)
    values = of(layer.weight)  # type: ignore[arg-type]
    if is_transposed(layer):
        values = values.T
    groups: int = getattr(layer, "groups", 1)
    first = values.flatten(2).sum(2) if values.ndim > 2 else values
    by_group = first.reshape(groups, len(first) // groups, first.shape[1])  # [groups, outputs, inputs] of each
    if getattr(layer, "transposed", False):
        by_group = by_group.transpose(1, 2)
    return by_group.sum(1 if part.role == "reads" else 2).flatten()


def _by_state(layer: nn.RNNBase, part: Slice, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The same for a recurrent layer, whose rows are those of its gates one behind the other."""
    if part.role == "reads":
        return torch.stack([of(weight).sum(0) for name, weight in layer.named_parameters() if reads_inputs(name)]).sum(0)
    weights = [weight for name, weight in layer.named_parameters() if name.startswith("weight")]
    return torch.stack([of(weight).view(-1, layer.hidden_size, weight.shape[1]).sum((0, 2)) for weight in weights]).sum(0)


def _energy(module: nn.Module, part: Slice, seen: dict[str, Tensor]) -> Tensor | None:
    layer = None if part.axis is not None else module.get_submodule(part.layer)
    if part.role != "reads" or layer is None or not has_matrices(layer) or part.layer not in seen:
        return None
    return _by_channel(layer, part, lambda weight: weight.detach().float() ** 2) * seen[part.layer]


def _mean_squares(module: nn.Module, layers: set[str], context: Context) -> dict[str, Tensor]:
    """Mean of x^2 of every input channel of ``layers`` over the data; layers that never run are missing."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    copy = copied(module).eval()

    def record(name: str, layer: nn.Module, inputs: Tensor) -> None:
        rows = inputs.detach().float().movedim(channel_axis(layer), -1).flatten(0, -2)
        totals[name] = totals.get(name, 0) + (rows**2).sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    for name in layers:
        hook = partial(lambda name, layer, args: record(name, layer, args[0]), name)
        copy.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        for args, kwargs in _samples(module, context):
            copy(*args, **kwargs)
    return {name: total / counts[name] for name, total in totals.items()}


def _taylor(module: nn.Module, sums: list[_Sum], context: Context) -> Scores:
    copy = copied(module).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    total = [torch.zeros(one.channels) for one in sums]
    losses = 0
    for loss in _losses(copy, context):
        copy.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(loss())
        total = [sofar + one(lambda part: _change(copy, part)) ** 2 for sofar, one in zip(total, sums, strict=True)]
        losses += 1
    return [one / max(losses, 1) for one in total]


def _change(module: nn.Module, part: Slice) -> Tensor | None:
    """Minus the first-order change of the loss where this layer no longer reads a channel."""
    layer = None if part.axis is not None else module.get_submodule(part.layer)
    if part.role != "reads" or layer is None or not has_matrices(layer):
        return None
    return _by_channel(layer, part, _times_slope)


def _times_slope(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.detach().float() * weight.grad.float()


def _losses(module: nn.Module, context: Context) -> Iterator[Callable[[], Tensor]]:
    if context.train_step is not None and context.train_batches is not None:
        step, given = context.train_step, context.train_batches
        for batch in islice(given() if callable(given) else given, MOST_BATCHES):
            yield lambda batch=batch: step(module, batch)  # type: ignore[misc]
        return
    _need_data("taylor", context)
    generator = torch.Generator().manual_seed(0)
    for args, kwargs in _samples(module, context):
        for _ in range(DRAWS):
            yield lambda args=args, kwargs=kwargs: _projected(module(*args, **kwargs), generator)  # type: ignore[misc]


def _projected(output: object, generator: torch.Generator) -> Tensor:
    """The outputs in one random direction."""
    values = [value.float() for value in flat_outputs(output)[1] if value.requires_grad]
    total = [(value * torch.randn(value.shape, generator=generator).to(value.device)).sum() for value in values]
    return torch.stack(total).sum()


def _need_data(importance: str, context: Context) -> None:
    if context.batches is None:
        fix = 'give calibration batches, or use importance = "l2"'
        raise CompressionError(f"importance {importance} is measured on data", why="no batches were given", fix=fix)


def _samples(module: nn.Module, context: Context) -> Iterator[tuple[tuple[object, ...], dict[str, object]]]:
    signature, _ = Signature.of(module.forward, context.example_inputs)
    flat = (one for batch in context.data() for one in signature.split(batch, "a batch"))
    for sample in islice(flat, MOST_SAMPLES):
        yield pytree.tree_unflatten(list(sample), signature.tree)
