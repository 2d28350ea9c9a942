"""Which channels hang together: a channel of one layer can go only with its places in every layer that it reaches.

The dependency graph is torch-pruning's (Fang et al., 2023, arXiv:2301.12900), traced through autograd. What it says is not
taken on trust: it knows reshapes, splits and normalisations only in part, so every group is tried out by
:mod:`edgeopt.compress.structure.channel_surgery` before anything is removed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch_pruning
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_pruning import ops

from edgeopt.calling import call_arguments, flat_outputs
from edgeopt.errors import CompressionError
from edgeopt.model import Batch
from edgeopt.user_code import cause

Role = Literal["makes", "reads", "passes"]
"""Whether a group's channels are outputs of the layer, inputs of it, or both (depthwise convolutions, batch norms)."""
MOST_STEPS = 1000
"""Of a walk through the graph, beside ten for each node."""
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention)
_MIXES = {
    ops.OPTYPE.LN: "they pass a layer norm, whose statistics take in every channel: the width of the residual stream stays",
    ops.OPTYPE.GN: "they pass a group norm, whose statistics take in other channels",
    ops.OPTYPE.MHA: "they belong to attention, which loses whole heads or nothing: see the technique heads",
    ops.OPTYPE.LSTM: "a recurrent layer reads them",
    ops.OPTYPE.OUTPUT: "they are the model's outputs",
}
_REGROUPED = "its channels are split or regrouped on their way to the next layer"
_ATTENTION = ("scaleddot", "bmm", "softmax")


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a group's channels lie in one layer, or in one parameter that belongs to no layer.

    ``places``: the indices along the layer's channels by the group's channel: one, or several where a flattened map is read.
    ``prune``: torch-pruning's function that cuts this kind of layer; ``axis`` is for parameters.
    """

    layer: str
    role: Role
    places: dict[int, tuple[int, ...]]
    prune: Callable[[Any, list[int]], Any]
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Channels that go through the same layers; ``units`` are those that can only go together (one, or one of each group).

    ``reason`` says why none of them may go, "" where they may. ``group`` is common to blocks that were found together.
    """

    group: int
    units: tuple[tuple[int, ...], ...]
    slices: tuple[Slice, ...]
    reason: str = ""

    @property
    def channels(self) -> int:
        return sum(map(len, self.units))

    @property
    def key(self) -> tuple[tuple[str, Role], ...]:
        """What names the block in copies of the module that have fewer channels."""
        return tuple((one.layer, one.role) for one in self.slices)

    def layers(self, role: Role) -> tuple[str, ...]:
        """Paths of the layers in which the block has that role."""
        return tuple(one.layer for one in self.slices if one.role == role)


def blocks(module: nn.Module, example_inputs: Batch, exclude: frozenset[str] = frozenset()) -> list[Block]:
    """Every set of output channels of convolutions and linear layers. ``module`` is a copy to trace: it is spoilt.

    ``exclude``: paths of layers whose outputs stay. Raises CompressionError where tracing fails.
    """
    shared = _shared(module)
    graph = _traced(module, example_inputs)
    names = {one: name for name, one in module.named_modules()}
    found = []
    for number, (root, group) in enumerate(_groups(graph)):
        if group is None:
            found.append(_lost(number, names[root], graph.get_pruner_of_module(root)))
            continue
        slices = tuple(_slices(group, names, graph))
        reason = _held(group, slices, shared, exclude) or _ragged(slices, module)
        found += [replace(one, reason=one.reason or reason) for one in _split(number, slices, module)]
    return found


def _groups(graph: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Each group of all channels of a layer, by the layer; None where the walk through the graph fails or does not end."""
    visited: set[Any] = set()
    walk = _Walk()
    for node in graph.module2node.values():
        node.dependencies = _Limited(node.dependencies, walk)
    for root in [one for one in graph.module2node if isinstance(one, WEIGHTED)]:
        if root in visited:
            continue
        pruner = graph.get_pruner_of_module(root)
        walk.left = MOST_STEPS + 10 * len(graph.module2node)
        try:
            group = graph.get_pruning_group(root, pruner.prune_out_channels, list(range(pruner.get_out_channels(root))))
        except Exception:  # of whatever kind: its index mappings do not check what they are given
            yield root, None
            continue
        visited |= {item.dep.target.module for item in group.items if graph.is_out_channel_pruning_fn(item.dep.handler)}
        yield root, group


class _Walk:
    """How many nodes may still be looked at."""

    left = 0


class _Limited(list[Any]):
    """A node's dependencies. Looking at them is counted: torch-pruning has no end where its index mappings form a circle."""

    def __init__(self, dependencies: list[Any], walk: _Walk) -> None:
        super().__init__(dependencies)
        self._walk = walk

    def __iter__(self) -> Iterator[Any]:
        self._walk.left -= 1
        if self._walk.left < 0:
            raise RecursionError("the channels go in circles")
        return super().__iter__()


def _lost(number: int, name: str, pruner: Any) -> Block:
    return Block(number, (), (Slice(name, "makes", {}, pruner.prune_out_channels),), _REGROUPED)


def _traced(module: nn.Module, example_inputs: Batch) -> Any:
    """torch-pruning's graph. It follows gradients: frozen weights get theirs, and a forward under no_grad shows nothing."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            layer.forward = partial(_opaque, layer.forward)

    def forward(net: nn.Module, batch: Batch) -> list[Tensor]:
        args, kwargs = call_arguments(batch)
        return [value for value in flat_outputs(net(*args, **kwargs))[1] if value.grad_fn is not None]

    fix = "let forward compute in torch with gradients, or use low-rank, which takes each layer alone"
    graph: Any = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad():
            loose = _loose(module)
            graph.build_dependency(module, example_inputs, forward_fn=forward, unwrapped_parameters=loose, verbose=False)
    except Exception as error:
        raise CompressionError("the channels of this model cannot be followed", why=cause(error), fix=fix) from error
    if not graph.module2node:
        why = "no output has a gradient: forward runs under no_grad, detaches, or computes in integers or numpy"
        raise CompressionError("the channels of this model cannot be followed", why=why, fix=fix)
    for node in graph.module2node.values():
        if node.type == ops.OPTYPE.CONCAT:
            node.enable_index_mapping &= _along_channels(node.grad_fn)
    return graph


def _along_channels(concatenation: Any) -> bool:
    """Whether maps of channels are joined; torch-pruning takes the last of four axes for that too, if it is said as -1."""
    axes = len(concatenation._input_metadata[0].shape)
    axis = concatenation._saved_dim
    return axes < 4 or (axis if axis < axes else axis - 2**64 + axes) == 1


class _Recurrent(torch.autograd.Function):
    """Zero, with a node in autograd's graph behind which torch-pruning sees nothing of a recurrent layer's gates and steps."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        return torch.zeros(())


def _opaque(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        output = run(*args, **kwargs)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    link = _Recurrent.apply(*leaves)  # type: ignore[no-untyped-call]
    joined = lambda leaf: leaf + link.to(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return pytree.tree_map(joined, output)


def _loose(module: nn.Module) -> list[Any]:
    """Parameters of four axes that the user's own modules hold, with axis 1, where images have their channels.

    torch-pruning takes the last axis longer than one, which is right for the others.
    """
    return [
        torch_pruning._helpers.UnwrappedParameters(parameters=parameter, pruning_dim=1)
        for owner in module.modules()
        if ops.module2type(owner) == ops.OPTYPE.ELEMENTWISE
        for parameter in owner.parameters(recurse=False)
        if parameter.ndim == 4 and parameter.shape[1] > 1
    ]


def _shared(module: nn.Module) -> dict[str, str]:
    """Layers by path whose parameter another layer holds too, with that layer's path."""
    owners: dict[int, list[str]] = {}
    for name, owner in module.named_modules():
        for parameter in owner.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    several = [paths for paths in owners.values() if len(paths) > 1]
    return {path: next(other for other in paths if other != path) for paths in several for path in paths if len(set(paths)) > 1}


def _slices(group: Any, names: dict[nn.Module, str], graph: Any) -> Iterator[Slice]:
    for item in group.items:
        layer, prune = item.dep.target.module, item.dep.handler
        name = graph._param_to_name.get(layer) if isinstance(layer, nn.Parameter) else names.get(layer)
        pruner = prune.__self__
        if name is None or isinstance(pruner, ops.DummyPruner) or (isinstance(layer, nn.PReLU) and layer.num_parameters == 1):
            continue
        places: dict[int, list[int]] = {}
        for root, place in zip(item.root_idxs, item.idxs, strict=True):
            places.setdefault(-1 if root is None else root, []).append(place)
        axis = item.dep.target.pruning_dim if isinstance(layer, nn.Parameter) else None
        yield Slice(name, _role(prune), {root: tuple(sorted(found)) for root, found in places.items()}, prune, axis)


def _role(prune: Any) -> Role:
    pruner = prune.__self__
    if pruner.prune_in_channels == pruner.prune_out_channels:
        return "passes"
    return "makes" if prune == pruner.prune_out_channels else "reads"


def _held(group: Any, slices: tuple[Slice, ...], shared: dict[str, str], exclude: frozenset[str]) -> str:
    """Why the whole group stays, as far as it can be seen without trying; "" where nothing speaks against it."""
    makers = [one.layer for one in slices if one.role == "makes"]
    if excluded := [name for name in makers if name in exclude]:
        return (
            "excluded"
            if len(makers) == 1
            else f"{excluded[0]} is excluded, and {', '.join(makers)} have their channels in common"
        )
    for item in group.items:
        node = item.dep.target
        if node.type in _MIXES:
            return _MIXES[node.type]
        name = node.grad_fn.name().lower() if hasattr(node.grad_fn, "name") else ""
        if any(part in name for part in _ATTENTION):
            return _MIXES[ops.OPTYPE.MHA]
        if "recurrent" in name:
            return _MIXES[ops.OPTYPE.LSTM]
    for one in slices:
        if one.layer in shared:
            return f"{one.layer} shares its weights with {shared[one.layer]}"
    if not any(one.role == "reads" for one in slices):
        return _MIXES[ops.OPTYPE.OUTPUT]
    return ""


def _ragged(slices: tuple[Slice, ...], module: nn.Module) -> str:
    """Places that torch-pruning cannot trace back to one channel, or that the layer does not have."""
    for one in slices:
        made, read = widths(module, one)
        last = max(places[-1] for places in one.places.values())
        if -1 in one.places or last >= (read if one.role == "reads" else made):
            return _REGROUPED
    return ""


def widths(module: nn.Module, one: Slice) -> tuple[int, int]:
    """Channels that the layer makes and reads."""
    if one.axis is not None:
        return module.get_parameter(one.layer).shape[one.axis], 1
    pruner, layer = one.prune.__self__, module.get_submodule(one.layer)  # type: ignore[attr-defined]
    return pruner.get_out_channels(layer), pruner.get_in_channels(layer)


def _split(number: int, slices: tuple[Slice, ...], module: nn.Module) -> Iterator[Block]:
    """One block for each set of layers: of a concatenation's parts, each keeps a multiple of channels of its own."""
    roots = sorted({root for one in slices for root in one.places})
    through: dict[tuple[int, ...], list[int]] = {}
    for root in roots:
        through.setdefault(tuple(i for i, one in enumerate(slices) if root in one.places), []).append(root)
    groups = math.lcm(*(_grouped(module, one) for one in slices))
    for present, found in through.items():
        parts = tuple(replace(slices[i], places={root: slices[i].places[root] for root in found}) for i in present)
        whole = len(through) == 1 and all(
            one.places == {root: (root,) for root in roots} for one in parts if _grouped(module, one) > 1
        )
        size = len(found) // groups
        if groups > 1 and (not whole or len(found) % groups):
            reason = "a grouped convolution has only a part of its channels, or has them in another order"
            yield Block(number, tuple((root,) for root in found), parts, reason)
        else:
            reason = "a grouped convolution has one of its channels in each group" if size < 2 <= groups else ""
            yield Block(number, tuple(tuple(found[i::size]) for i in range(size)), parts, reason)


def _grouped(module: nn.Module, one: Slice) -> int:
    """Groups of a grouped convolution, each of which must lose as many channels as the others; 1 for every other layer."""
    layer = None if one.axis is not None else module.get_submodule(one.layer)
    grouped = isinstance(layer, nn.modules.conv._ConvNd) and one.role != "passes"
    return layer.groups if grouped and layer is not None else 1  # type: ignore[return-value]
