"""Channels silenced in place: as if they were removed, without the surgery. For looking only; nothing smaller comes of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.modes import evaluating
from edgeopt.compress.technique import Context
from edgeopt.model.signature import call_arguments


class Silenced:
    """A copy of a module in which one layer at a time has a share of its output channels silenced, the smallest by L1 norm.

    A batch norm right behind the layer is silenced too: alone it would make a constant of a silent channel.
    """

    def __init__(self, module: nn.Module, context: Context) -> None:
        self._module = copied(module)
        self._layers = dict(self._module.named_modules())
        self._norms = _norms_behind(self._module, context)
        self._before: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: str, amount: float) -> nn.Module | str:
        """The copy with ``layer`` alone cut; or why it cannot be. The copy is the same each time."""
        self._restore()
        found = self._layers[layer]
        if not isinstance(found, nn.Linear | _ConvNd):
            return f"a {type(found).__name__} is none of torch's convolutions or linear layers"
        axis = 1 if isinstance(found, _ConvTransposeNd) and found.groups == 1 else 0
        norms = found.weight.detach().abs().movedim(axis, 0).flatten(1).sum(1)
        silent = norms.argsort()[: round(amount * len(norms))]
        self._silence(found.weight, silent, axis)
        for value in (found.bias, *self._norms.get(layer, ())):
            if value is not None:
                self._silence(value, silent, 0)
        return self._module

    def _silence(self, value: Tensor, channels: Tensor, axis: int) -> None:
        with torch.no_grad():
            self._before.append((value, value.detach().clone()))
            value.index_fill_(axis, channels, 0)

    def _restore(self) -> None:
        with torch.no_grad():
            for value, before in self._before:
                value.copy_(before)
        self._before = []


def _norms_behind(module: nn.Module, context: Context) -> dict[str, tuple[Tensor, ...]]:
    """By layer: weight and bias of the batch norm that is given the layer's very output."""
    made: dict[int, tuple[str, Any]] = {}
    found: dict[str, tuple[Tensor, ...]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            made[id(output)] = (name, output)  # held, so that its id is not given to another tensor

        return hook

    def match(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        name, _ = made.get(id(inputs[0]), ("", None))
        if name and isinstance(norm, _BatchNorm) and norm.affine:
            found[name] = (norm.weight, norm.bias)

    handles = [
        layer.register_forward_hook(remember(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    ]
    handles += [layer.register_forward_pre_hook(match) for layer in module.modules() if isinstance(layer, _BatchNorm)]
    args, kwargs = call_arguments(context.example_inputs)
    try:
        with evaluating(module):
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found
