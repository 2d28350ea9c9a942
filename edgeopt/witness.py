"""The user's own module, run as it was given: what every program and every artifact must agree with."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgeopt.calling import flat_outputs

_WITHOUT_OWN_NUMPY = (torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True)
class Witness:
    """Computes what ``module`` computes, for flat tensors of the example's shapes, with none of edgeopt's rewriting.

    Every run starts from the state that the module was given in, and leaves it and torch's random numbers as they were.
    """

    module: nn.Module
    """In eval mode; never run itself, only copies of it are."""
    tree: pytree.TreeSpec
    dtypes: tuple[torch.dtype, ...]
    """What the user's own inputs have: a module in float64 gets float64."""

    def __call__(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The flat outputs, in float32 where they are float16, bfloat16 or float64."""
        return self.named(flat)[1]

    def named(self, flat: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
        """The outputs' names, and what :meth:`__call__` gives."""
        names, outputs = self.run(copied(self.module), flat)
        return names, tuple(_plain(output) for output in outputs)

    def run(self, module: nn.Module, flat: tuple[Tensor, ...]) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
        """The outputs of ``module``, a copy of the user's that keeps what it writes."""
        inputs = [value.to(dtype, copy=True) for value, dtype in zip(flat, self.dtypes, strict=True)]
        args, kwargs = pytree.tree_unflatten(inputs, self.tree)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return flat_outputs(module(*args, **kwargs))


def _plain(value: Tensor) -> Tensor:
    value = value.detach()
    return value.float() if value.dtype in _WITHOUT_OWN_NUMPY else value.clone()


class _Detaching(TorchFunctionMode):
    """Inside, results of a computation are copied without it: torch refuses them, and a trained module may hold some."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            value, memo = args
            memo[id(value)] = value.detach().clone()
            return memo[id(value)]
        return func(*args, **(kwargs or {}))


def copied(module: nn.Module) -> nn.Module:
    """A copy that shares no tensor with ``module``."""
    with _Detaching():
        return deepcopy(module)
