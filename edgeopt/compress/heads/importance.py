"""How much each attention head matters, measured on data through a gate on each head before the output projection."""

from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.compress.common.head_layouts import AttentionLayer, weight_of
from edgeopt.compress.common.responses import change, outputs
from edgeopt.compress.technique import Context
from edgeopt.model.model import Batch

Importance = dict[str, Tensor]
"""float64 [units] by the path of the attention layer; layers that did not run are not there."""


class Gates:
    """While it lasts, each unit's numbers are multiplied by ``values[path][unit]``, 1 at first, on their way to the output."""

    def __init__(self, layers: list[AttentionLayer]) -> None:
        self._layers = layers
        self.values = {layer.path: torch.ones(layer.units, device=weight_of(layer.output).device) for layer in layers}
        self.ran: set[str] = set()
        self._handles: list[Any] = []

    def __enter__(self) -> "Gates":
        self._handles = [layer.output.register_forward_pre_hook(self._hook(layer)) for layer in self._layers]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: AttentionLayer) -> Any:
        def gate(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self.ran.add(layer.path)
            factors = self.values[layer.path].to(args[0].dtype).repeat_interleave(layer.unit_width)
            return (args[0] * factors, *args[1:])

        return gate


def by_ablation(module: nn.Module, layers: list[AttentionLayer], data: list[Batch]) -> Importance:
    """The squared relative change of the outputs without each unit, summed over ``data``: one run per unit and batch."""
    found = {layer.path: torch.zeros(layer.units, dtype=torch.float64) for layer in layers}
    with Gates(layers) as gates:
        for batch in data:
            reference = outputs(module, batch)
            for layer in layers:
                for unit in range(layer.units if layer.path in gates.ran else 0):
                    gates.values[layer.path][unit] = 0
                    found[layer.path][unit] += change(outputs(module, batch), reference)
                    gates.values[layer.path][unit] = 1
    return {path: values for path, values in found.items() if path in gates.ran}


def by_gradient(module: nn.Module, layers: list[AttentionLayer], data: list[Batch], context: Context, most: int) -> Importance:
    """Michel et al. (arXiv:1905.10650): the expected gradient at each gate, one forward and backward pass per batch.

    Of the training loss where the context has one: its absolute value, divided by the layer's norm as in the paper. Else of the
    outputs times random signs: its square, whose mean is the squared change of the outputs to first order (Hutchinson, 1989).
    """
    found = {layer.path: torch.zeros(layer.units, dtype=torch.float64) for layer in layers}
    trained = context.train_step is not None and context.train_batches is not None
    scalars = _losses(module, context, most) if trained else _projections(module, data)
    with Gates(layers) as gates, torch.enable_grad():
        for value in gates.values.values():
            value.requires_grad_()
        for scalar in scalars:
            slopes = torch.autograd.grad(scalar, list(gates.values.values()), allow_unused=True)
            for path, slope in zip(gates.values, slopes, strict=True):
                if slope is not None:
                    found[path] += (slope.abs() if trained else slope.square()).double().cpu()
    if trained:
        found = {path: values / values.norm().clamp_min(1e-30) for path, values in found.items()}
    return {path: values for path, values in found.items() if path in gates.ran}


def _losses(module: nn.Module, context: Context, most: int) -> Iterator[Tensor]:
    assert context.train_step is not None and context.train_batches is not None
    batches = context.train_batches() if callable(context.train_batches) else context.train_batches
    for batch in islice(batches, most):
        yield context.train_step(module, batch)


def _projections(module: nn.Module, data: list[Batch]) -> Iterator[Tensor]:
    """For each batch one scalar: every output, relative to its norm, times random signs that are the same in every run."""
    generator = torch.Generator().manual_seed(0)
    for batch in data:
        total = torch.zeros(())
        for value in outputs(module, batch):
            signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
            total = total.to(value.device) + (value * signs).sum().float() / value.detach().float().norm().clamp_min(1e-30)
        yield total
