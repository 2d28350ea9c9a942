"""How example inputs and data use each linear layer and convolution: at how many positions, and who else reads its weights."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeopt.compress.common.modes import evaluating, layer_by_layer
from edgeopt.compress.technique import Context
from edgeopt.errors import ForwardError
from edgeopt.model.signature import Signature, call_arguments
from edgeopt.model.user_code import cause

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(slots=True)
class Use:
    """What one call of the model does with a layer. ``calls``: (samples, spatial sizes in, spatial sizes out) of each."""

    layer: nn.Module
    calls: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    example: Tensor | None = None
    read: bool = False
    """Whether something other than the layer's own forward takes its weight or bias."""

    def positions(self) -> list[int]:
        """At how many positions it computes once its first 0, 1, ... spatial axes have been convolved."""
        axes = len(self.calls[0][1]) if self.calls else 0
        return [
            sum(samples * math.prod((*after[:done], *before[done:])) for samples, before, after in self.calls)
            for done in range(axes + 1)
        ]


def uses(module: nn.Module, context: Context) -> dict[str, Use]:
    """Every linear layer and convolution of ``module`` by its path, as one call on the example inputs uses it.

    ``module`` is as before afterwards. Raises ForwardError where it does not run.
    """
    found = {path: Use(layer) for path, layer in module.named_modules() if isinstance(layer, KINDS)}
    with evaluating(module), layer_by_layer(), ExitStack() as stack:
        for use in found.values():
            stack.enter_context(_watched(use))
            stack.callback(use.layer.register_forward_hook(partial(_note, use)).remove)
        args, kwargs = call_arguments(context.example_inputs)
        _call(module, args, kwargs)
    return found


def second_moments(module: nn.Module, context: Context, layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The mean of x x^T over all inputs x of linear layers and 1x1 convolutions on the context's data: float64 by path.

    Inputs that are not finite are left out. A layer that no batch reaches has no entry.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(path: str, layer: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        found = _rows(layer, args[0])
        totals[path] = totals.get(path, 0) + found.T @ found
        counts[path] = counts.get(path, 0) + len(found)

    signature, _ = Signature.of(module.forward, context.example_inputs)
    with evaluating(module), layer_by_layer(), ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(add, path)).remove)
        for number, batch in enumerate(context.data()):
            for flat in signature.split(batch, f"batch {number}"):
                args, kwargs = pytree.tree_unflatten(flat, signature.tree)
                _call(module, args, kwargs)
    return {path: total / counts[path] for path, total in totals.items() if counts[path]}


def _call(module: nn.Module, args: Any, kwargs: Any) -> None:
    try:
        module(*args, **kwargs)
    except Exception as error:
        fix = "check that it runs on the example inputs and the data"
        raise ForwardError("the model raised in forward", why=cause(error), fix=fix) from error


@contextmanager
def _watched(use: Use) -> Iterator[None]:
    """Inside, the layer notices who reads its parameters: nn.Module looks them up in __getattr__, not as plain attributes."""
    original, inside = type(use.layer), [0]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        try:
            return original.__call__(self, *args, **kwargs)
        finally:
            inside[0] -= 1

    def get(self: Any, name: str) -> Any:
        use.read |= name in ("weight", "bias") and not inside[0]
        return original.__getattr__(self, name)

    use.layer.__class__ = type(original.__name__, (original,), {"__call__": call, "__getattr__": get})
    try:
        yield
    finally:
        use.layer.__class__ = original


def _note(use: Use, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    value: Tensor = args[0]
    if isinstance(layer, nn.Linear):
        use.calls.append((value.numel() // max(value.shape[-1], 1), (), ()))
    else:
        axes = layer.weight.ndim - 2  # type: ignore[operator]
        use.calls.append((math.prod(value.shape[: -1 - axes]), tuple(value.shape[-axes:]), tuple(output.shape[-axes:])))
    use.example = value if use.example is None else use.example


def _rows(layer: nn.Module, value: Tensor) -> Tensor:
    """Finite inputs of a linear layer or 1x1 convolution, float64 [positions, inputs]: those that its stride looks at."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        strides: Any = (slice(None, None, step) for step in layer.stride)  # padding adds zeros, which weigh nothing
        value = value[(..., *strides)].movedim(-1 - len(layer.stride), -1)
    found = value.detach().reshape(-1, value.shape[-1]).double()
    return found[found.isfinite().all(1)]
