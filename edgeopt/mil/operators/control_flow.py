"""Conditions and loops. Inner blocks are functions of their inputs; they see what is around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeopt.mil.operator import operator
from edgeopt.mil.values import tensor

Blocks = tuple[Callable[..., tuple[Any, ...]], ...]


@operator("cond", exact=True, half=True)
def cond(pred: bool, blocks: Blocks) -> tuple[Any, ...]:
    """What the first block gives, or the second where ``pred`` is false."""
    return blocks[0]() if pred else blocks[1]()


@operator("while_loop", exact=True, half=True)
def while_loop(loop_vars: Any, blocks: Blocks) -> tuple[Any, ...]:
    """What the second block makes of ``loop_vars``, again and again as long as the first gives true."""
    goes_on, body = blocks
    values = tuple(each if isinstance(each, list) else tensor(each) for each in loop_vars)
    while bool(goes_on(*values)[0]):
        values = body(*values)
    return values


@operator("select", exact=True, half=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond``, else ``b``."""
    return torch.where(cond, a, b)
