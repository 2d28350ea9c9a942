"""Which layers a shallower student takes over from its teacher: evenly spaced ones, as DistilBERT does (arXiv:1910.01108).

Judged without data or inputs: a layer may go where its neighbour of the same shapes could take its input as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from edgeopt.compress.common.pretrained import is_pretrained
from edgeopt.compress.layers.stacks import Stack, special, stacks

TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
CONVOLUTION = nn.modules.conv._ConvNd


@dataclass(frozen=True, slots=True)
class Run:
    """Part of an nn.Sequential that is one layer: a convolution or linear layer and what follows it up to the next one."""

    names: tuple[str, ...]
    keeps_shape: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Layers one behind the other that a student may have fewer of. ``reasons``: those that stay, by index."""

    path: str
    layers: tuple[str, ...]
    reasons: dict[int, str]
    source: Stack | tuple[Run, ...]

    def kept(self, number: int) -> list[int]:
        """Which ``number`` of the layers stay: those that must, and of the others evenly spaced ones with the ends."""
        free = [index for index in range(len(self.layers)) if index not in self.reasons]
        chosen = {free[place] for place in _spaced(len(free), number - len(self.reasons))}
        return sorted(chosen | set(self.reasons))

    def shorten(self, module: nn.Module, kept: Sequence[int]) -> None:
        """Leaves of the row in ``module`` only ``kept``, in place."""
        if isinstance(self.source, Stack):
            self.source.shorten(module, kept)
            return
        gone = {name for index, run in enumerate(self.source) if index not in kept for name in run.names}
        container = module.get_submodule(self.path)
        children = [(name, child) for name, child in container.named_children() if name not in gone]
        for name in dict(container.named_children()):
            delattr(container, name)
        for place, (name, child) in enumerate(children):
            container.add_module(str(place) if name.isdigit() else name, child)


def rows(module: nn.Module) -> Iterator[Row]:
    """Every stack of layers, and every nn.Sequential with layers spread out in it, that has one which may go."""
    found = stacks(module)
    for stack in found:
        reasons = special(stack) | ({} if _transforms(module, stack) else _shape_reasons(stack))
        paths = tuple(stack.layer_path(index) for index in range(len(stack.names)))
        if len(reasons) < len(paths):
            yield Row(stack.path, paths, reasons, stack)
    inside = tuple(f"{stack.path}." if stack.path else "" for stack in found)
    for path, container in module.named_modules():
        if isinstance(container, nn.Sequential) and not (inside and f"{path}.".startswith(inside)):
            runs = tuple(_runs(container))
            reasons = {index: CHANGES for index, run in enumerate(runs) if not run.keeps_shape}
            if len(reasons) < len(runs):
                yield Row(path, tuple(f"{path}.{run.names[0]}".lstrip(".") for run in runs), reasons, runs)


CHANGES = "its output has another shape than its input"


def _spaced(total: int, number: int) -> list[int]:
    """``number`` of ``total`` places, the first and the last among them, evenly between."""
    if number <= 1 or total <= 1:
        return [0][: min(number, total)]
    number = min(number, total)
    return [round(place * (total - 1) / (number - 1)) for place in range(number)]


def _transforms(module: nn.Module, stack: Stack) -> bool:
    """Whether they are a transformer's layers, which all take and give [.., positions, hidden size]."""
    if all(isinstance(layer, TRANSFORMER_LAYERS) for layer in stack.layers):
        return True
    parts = stack.path.split(".")
    above = [module.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1)]
    attends = all(any(type(child).__name__.endswith("Attention") for child in layer.modules()) for layer in stack.layers)
    alike = len({_shapes(layer) for layer in stack.layers}) <= 2
    return any(is_pretrained(parent) for parent in above) and attends and alike


def _shape_reasons(stack: Stack) -> dict[int, str]:
    """Layers unlike their neighbours, or with a stride."""
    shapes = [_shapes(layer) for layer in stack.layers]
    alike = [
        shape in (*shapes[max(index - 1, 0) : index], *shapes[index + 1 : index + 2]) for index, shape in enumerate(shapes)
    ]
    return {
        index: CHANGES if _strides(layer) else "no neighbour has its shapes"
        for index, layer in enumerate(stack.layers)
        if _strides(layer) or not alike[index]
    }


def _shapes(layer: nn.Module) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((name, tuple(value.shape)) for name, value in layer.named_parameters())


def _strides(layer: nn.Module) -> bool:
    """Whether anything in it makes an image smaller or larger."""
    return any(getattr(child, "stride", 1) not in (1, (1,), (1, 1), (1, 1, 1)) for child in layer.modules())


def _runs(container: nn.Sequential) -> Iterator[Run]:
    """The layers of a flat nn.Sequential."""
    children = list(container.named_children())
    heads = [place for place, (_, child) in enumerate(children) if isinstance(child, nn.Linear | CONVOLUTION)]
    for start, stop in pairwise([*heads, len(children)]):
        part = children[start:stop]
        keeps = all(_keeps_shape(child) for _, child in part)
        yield Run(tuple(name for name, _ in part), keeps)


def _keeps_shape(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if isinstance(layer, CONVOLUTION) and not layer.transposed:
        return layer.in_channels == layer.out_channels and not _strides(layer) and _padded_whole(layer)
    name = type(layer).__name__
    elementwise = type(layer).__module__ == "torch.nn.modules.activation" and name not in ("GLU", "MultiheadAttention")
    return elementwise or "Norm" in name or name.startswith(("Dropout", "Identity"))


def _padded_whole(layer: nn.modules.conv._ConvNd) -> bool:
    """Whether padding makes up for the kernel's size."""
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    reach = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [2 * int(padding) for padding in layer.padding] == reach
