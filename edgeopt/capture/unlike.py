"""Inputs that are not like the example: what holds on them too was not read off the example alone."""

from collections.abc import Callable

import torch
from torch import Tensor

Sample = tuple[Tensor, ...]
_SEED = 0


def unlike(example: Sample) -> list[Sample]:
    """Samples of ``example``'s shapes and dtypes, the same at every call.

    Floats of another scale, zeros and random signs; integers permuted within the example's own values (they may be indices)
    and zeros; flipped booleans. A model need not take them all: those that it raises or gives NaN on say nothing about it.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def scaled(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda value: value * factor

    def signs(value: Tensor) -> Tensor:
        return value * (torch.randint(0, 2, value.shape, generator=generator) * 2 - 1).to(value.dtype)

    def shuffled(value: Tensor) -> Tensor:
        return value.reshape(-1)[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)

    def rolled(value: Tensor) -> Tensor:
        return value.reshape(-1).roll(1).reshape(value.shape)

    def kept(value: Tensor) -> Tensor:
        return value.clone()

    ways = (  # of floats, integers, booleans
        (scaled(8.0), shuffled, torch.logical_not),
        (scaled(1 / 16), kept, kept),
        (torch.zeros_like, torch.zeros_like, torch.logical_not),
        (signs, rolled, shuffled),
    )
    return [tuple(_of_kind(value, *way)(value) for value in example) for way in ways]


def _of_kind(
    value: Tensor, real: Callable[[Tensor], Tensor], integer: Callable[[Tensor], Tensor], boolean: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    if value.dtype == torch.bool:
        return boolean
    return real if value.is_floating_point() else integer
