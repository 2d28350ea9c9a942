"""Stacks of layers in a model, and a model with fewer of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from torch import Tensor, nn

from edgeopt.compress.common.pretrained import pruned_heads, renumber, tell_layers, tell_pruned_heads


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers in a row: children of the nn.ModuleList or nn.Sequential at ``path``, by name, and the module of each."""

    path: str
    names: tuple[str, ...]
    layers: tuple[nn.Module, ...]

    def layer_path(self, index: int) -> str:
        """The path of one layer in the model."""
        return f"{self.path}.{self.names[index]}" if self.path else self.names[index]

    def shorten(self, module: nn.Module, kept: Sequence[int]) -> None:
        """Leaves of the stack in ``module`` only the layers at ``kept`` (ascending); configurations and numbers follow."""
        if len(kept) == len(self.names):
            return
        container, parent = module.get_submodule(self.path), module.get_submodule(self.path.rpartition(".")[0])
        layers = [self.layers[index] for index in kept]
        tell_layers(module, self.path, len(self.names), kept)
        told = pruned_heads(module)
        renumber(layers)
        for name in self.names:
            delattr(container, name)
        for place, index in enumerate(kept):
            name = self.names[index]
            container.add_module(str(place) if name.isdigit() else name, self.layers[index])
        tell_pruned_heads(module, told)
        if isinstance(parent, nn.TransformerEncoder | nn.TransformerDecoder):
            parent.num_layers = len(kept)


def stacks(module: nn.Module) -> list[Stack]:
    """Every nn.ModuleList or nn.Sequential of at least two layers, each with children of its own.

    What lies in a stack's layer is part of it and makes no stack of its own.
    """
    found: list[Stack] = []
    for path, container in module.named_modules():
        inside = any(path.startswith(f"{stack.path}." if stack.path else "") for stack in found)
        if not inside and _is_stack(container):
            children = dict(container.named_children())
            found.append(Stack(path, tuple(children), tuple(children.values())))
    return found


def special(stack: Stack) -> dict[int, str]:
    """Layers that others rely on, with the reason: they hold parameters that the rest does not have."""
    held = [frozenset(name for name, _ in layer.named_parameters()) for layer in stack.layers]
    usual = Counter(held).most_common(1)[0][0]
    extra = {index: sorted(names - usual) for index, names in enumerate(held)}
    return {index: f"it holds what the others do not have: {names[0]}" for index, names in extra.items() if names}


class Watch:
    """While it lasts, sees each layer's input and output, and lets through those that ``skipped`` names as if not there.

    ``passes``: whether the output could stand for the input, by name, of the layers that ran; ``calls``: how often they did.
    """

    def __init__(self, layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None] | None = None) -> None:
        self._layers, self._see = layers, see
        self.skipped: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.passes: dict[str, bool] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "Watch":
        hooks = [(layer, self._hook(name)) for name, layer in self._layers.items()]
        self._handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer, hook in hooks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def watch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given: Any = args[0] if args else next(iter(kwargs.values()), None)
            made = output[0] if isinstance(output, tuple) and output else output
            tensors = isinstance(given, Tensor) and isinstance(made, Tensor)
            passes = tensors and given.shape == made.shape and given.dtype == made.dtype
            self.calls[name] += 1
            self.passes[name] = self.passes.get(name, True) and passes
            if passes and self._see is not None:
                self._see(name, given, made)
            if not passes or name not in self.skipped:
                return None
            return (given, *output[1:]) if isinstance(output, tuple) else given

        return watch


def _is_stack(container: nn.Module) -> bool:
    """A container whose every child is there once and has children of its own, as a layer has and a mere operator has not.

    Stages of several layers each, all of other sizes, are no layers. Where one has all that another has, and some more (as the
    first of T5's), both are.
    """
    if not isinstance(container, nn.ModuleList | nn.Sequential) or len(container) < 2:
        return False
    children = list(container.children())
    if len(children) < len(container) or not all(any(True for _ in child.children()) for child in children):
        return False
    shapes = [{(name, value.shape) for name, value in child.named_parameters()} for child in children]
    alike = any(one <= other for one, other in permutations(shapes, 2))
    return alike or not any(_is_stack(inner) for child in children for inner in child.modules())
