"""Inputs unlike the example: what holds for one batch by chance does not hold for these."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgeopt.model.model import Batch

SCALE = 8.0
"""Of the inputs of another scale: far enough that saturations and thresholds fall otherwise."""


def unlike(batch: Batch) -> list[tuple[str, Batch]]:
    """The example inputs at another scale, with random signs, and as zeros, by a name for each.

    Token ids, positions and masks must stay valid, so whole numbers are mirrored along their last axis instead.
    """
    signs = torch.Generator().manual_seed(0)
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "of another scale": lambda value: value * SCALE,
        "negated": lambda value: -value,
        "with random signs": lambda value: value * (torch.randint(0, 2, value.shape, generator=signs) * 2 - 1).to(value),
        "of zeros": torch.zeros_like,
    }
    return [(name, pytree.tree_map(lambda leaf, change=change: _changed(leaf, change), batch)) for name, change in made.items()]


def _changed(leaf: object, change: Callable[[Tensor], Tensor]) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_floating_point():
        return change(leaf)
    return leaf.flip(-1) if leaf.ndim else leaf
