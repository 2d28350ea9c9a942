"""Which channels hang together: a channel of one layer can go only with its places in every layer that it reaches.

As in torch-pruning (Fang et al., 2023, arXiv:2301.12900), but with a label on every element instead of index mappings between
layers. What the labels say is not taken on trust: every block is tried out by
:mod:`edgeopt.compress.channels.surgery` before anything is removed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.compress.channels.labels import broadcast, distinct
from edgeopt.compress.channels.layers import Role, has_matrices, ports
from edgeopt.compress.channels.operators import LAYER_NORM
from edgeopt.compress.channels.trace import Trace
from edgeopt.compress.common.computed_weights import computed_weight
from edgeopt.compress.common.copying import copied
from edgeopt.model.model import Batch

Place = tuple[str, Role, int | None]
"""A layer and a side of it, or a parameter with its axis."""
Places = dict[Place, list[int]]
"""Where one channel, or several that only go together, lie."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a block's channels lie in one layer, or in one parameter that belongs to no layer (along ``axis``).

    ``places``: the indices along the layer's channels by the block's channel: none, one, or several where a flattened map is
    read.
    """

    layer: str
    role: Role
    places: dict[int, tuple[int, ...]]
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Channels that go through the same layers; ``units`` are those that can only go together (one, or one of each group).

    ``reason`` says why none of them may go, "" where they may. ``group`` tells blocks of one module apart. ``splits``: numbers
    of the views that part these channels.
    """

    group: int
    units: tuple[tuple[int, ...], ...]
    slices: tuple[Slice, ...]
    reason: str = ""
    splits: frozenset[int] = frozenset()

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


class Groups:
    """What was found out about one module; ``blocks`` puts it together. Raises CompressionError where forward fails."""

    def __init__(self, module: nn.Module, example_inputs: Batch, exclude: frozenset[str] = frozenset()) -> None:
        self._module, self._exclude, self._shared = module, exclude, _shared(module)
        self._trace = Trace(copied(module), example_inputs)

    def blocks(self, flexible: Mapping[int, int] | None = None) -> list[Block]:
        """Every set of output channels of convolutions, linear and recurrent layers.

        ``flexible``: by the number of a view that parts channels, which of its axes becomes shorter with them, from the last;
        0, the last, where nothing is said (``view(n, groups, -1)``).
        """
        book = self._trace.book
        ties = [_ties(one, (flexible or {}).get(number, 0)) for number, one in enumerate(book.splits)]
        roots = united(book.count, [*book.edges, *ties])
        splits: dict[int, set[int]] = defaultdict(set)
        for number, labels in enumerate(book.splits):
            for root in distinct(roots[labels.flatten().clamp_min(0)]).tolist():
                splits[root].add(number)
        held = sorted(book.held, key=lambda one: one[1] != LAYER_NORM)  # which says most about what else it meets
        reasons = {root: reason for labels, reason in reversed(held) for root in distinct(roots[labels]).tolist()}
        whole = self._slots(roots, reasons)
        return [
            self._block(
                number,
                [whole[root] for root in alike],
                reason,
                frozenset(one for root in alike for one in splits.get(root, ())),
            )
            for number, (alike, reason) in enumerate(_alike(whole, reasons))
        ]

    def _slots(self, roots: Tensor, reasons: dict[int, str]) -> dict[int, Places]:
        """By the root of each set of labels: its places in every layer and parameter."""
        whole: dict[int, Places] = defaultdict(dict)
        for (path, role), labels in self._trace.layers.items():
            for place, root in enumerate(roots[labels].tolist()):
                whole[root].setdefault((path, role, None), []).append(place)
        for path, labels in self._trace.parameters.items():
            axis, places = _parameter_places(roots[labels], set(whole))
            for root in places:
                whole[root][path, "passes", axis] = places[root]
                if axis is None:
                    reasons.setdefault(root, f"the parameter {path} has no axis of its own for them")
        makers = {path for path, _ in self._trace.layers if has_matrices(self._module.get_submodule(path))}
        return {
            root: found for root, found in whole.items() if any(path in makers and role != "reads" for path, role, _ in found)
        }

    def _block(self, number: int, members: list[Places], reason: str, splits: frozenset[int]) -> Block:
        width = min(map(len, members[0].values()))
        units = tuple(tuple(range(i * width, (i + 1) * width)) for i in range(len(members)))
        slices = []
        for key in members[0]:
            pairs = [(unit[k], found[key][k::width]) for unit, found in zip(units, members, strict=True) for k in range(width)]
            slices.append(Slice(key[0], key[1], {channel: tuple(places) for channel, places in pairs}, key[2]))
        block = Block(number, units, tuple(slices), reason, splits)
        return replace(block, reason=self._excluded(block) or reason or self._kept(block))

    def _excluded(self, block: Block) -> str:
        makers = [*block.layers("makes"), *(name for name in block.layers("passes") if name in self._exclude)]
        if not (excluded := [name for name in makers if name in self._exclude]):
            return ""
        together = f"{excluded[0]} is excluded, and {', '.join(makers)} have their channels in common"
        return "excluded" if len(makers) == 1 else together

    def _kept(self, block: Block) -> str:
        """Why channels stay that could be followed; "" for nothing."""
        for one in block.slices:
            if one.layer in self._shared:
                return f"{one.layer} shares its weights with {self._shared[one.layer]}"
            if one.axis is None and (computed := computed_weight(self._module.get_submodule(one.layer))):
                return f"{one.layer}: {computed}"
        if hidden := self._uncalled(block):
            return f"{hidden} is not called on the example inputs, and its size fits: it may read or make these channels"
        return (
            "they are parted or joined so that only all of them could go"
            if len(block.units) == 1 and block.channels > 1
            else ""
        )

    def _uncalled(self, block: Block) -> str:
        """A layer that never ran and may have its place here: what is not seen cannot be cut with the rest."""
        made = {
            self._trace.layers[one.layer, one.role].numel() for one in block.slices if one.axis is None and one.role != "reads"
        }
        for path in sorted(self._trace.uncalled):
            layer = self._module.get_submodule(path)
            found = ports(layer)
            flattened = isinstance(layer, nn.Linear) and any(found.reads % width == 0 for width in made if width > 1)
            if found.reads in made or found.makes in made or flattened:
                return path
        return ""


def united(count: int, edges: list[Tensor]) -> Tensor:
    """The smallest label of each label's set, for ``edges`` [2, n] between labels below ``count``."""
    roots = torch.arange(count)
    if not edges:
        return roots
    a, b = torch.cat(edges, 1)
    while True:
        least = torch.minimum(roots[a], roots[b])
        before = roots.clone()
        for ends in (a, b, before[a], before[b]):
            roots.scatter_reduce_(0, ends, least, "amin")
        roots = roots[roots]
        if torch.equal(roots, before):
            return roots


def _ties(labels: Tensor, flexible: int) -> Tensor:
    """Edges between what goes together where one axis of ``labels`` is ``flexible``, counted from the last."""
    axis = labels.ndim - 1 - flexible % labels.ndim
    rows = labels.movedim(axis, 0).flatten(1)
    pairs = torch.stack(broadcast(rows[:, :1], rows)).flatten(1)
    return pairs[:, (pairs > 0).all(0)]


def _parameter_places(roots: Tensor, known: set[int]) -> tuple[int | None, dict[int, list[int]]]:
    """The axis along which a parameter has channels of layers, and the places of each; no axis where they lie across."""
    met = sorted(set(distinct(roots).tolist()) & known)
    joined = torch.isin(roots, torch.tensor(met, dtype=torch.int64))
    if not met:
        return None, {}
    for axis, size in enumerate(roots.shape):
        rows = torch.where(joined, roots, -1).movedim(axis, 0).reshape(size, -1)
        each = rows.amax(1)
        if bool(((rows == each[:, None]) | (rows < 0)).all()):
            return axis, {root: (each == root).nonzero().flatten().tolist() for root in met}
    return None, {root: [0] for root in met}


def _alike(whole: dict[int, Places], reasons: dict[int, str]) -> Iterator[tuple[list[int], str]]:
    """Roots whose channels lie in the same layers, as often in each, and stay for the same reason or may all go."""
    found: dict[Any, list[int]] = defaultdict(list)
    for root, places in whole.items():
        found[tuple((key, len(value)) for key, value in places.items()), reasons.get(root, "")].append(root)
    for (_, reason), roots in found.items():
        yield roots, reason


def widths(module: nn.Module, one: Slice) -> tuple[int, int]:
    """Channels that the layer makes and reads."""
    if one.axis is not None:
        return module.get_parameter(one.layer).shape[one.axis], 1
    found = ports(module.get_submodule(one.layer))
    return found.makes, found.reads


def _shared(module: nn.Module) -> dict[str, str]:
    """Layers by path whose parameter another layer holds too, with that layer's path."""
    owners: dict[int, list[str]] = {}
    for name, owner in module.named_modules():
        for parameter in owner.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    several = [paths for paths in owners.values() if len(paths) > 1]
    return {path: next(other for other in paths if other != path) for paths in several for path in paths if len(set(paths)) > 1}
