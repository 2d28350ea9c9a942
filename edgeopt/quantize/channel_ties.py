"""Values whose channels must be scaled alike, and the weights that can do it: found in the captured program's graph.

Channels are the second axis: of images and series [N, C, *size], and of matrices [N, C]. A channel's scale passes through
what is computed channel by channel and in proportion (ReLU, poolings, resizing); a sum gives all its values one scale for
each channel; a clip from above passes as long as it does not clip. Everything else holds the channels around it as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from networkx.utils import UnionFind
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture.operator_kinds import groups_of, is_float, kind_of, value_of
from edgeopt.targets.schema import OperatorKind

PROPORTIONAL: frozenset[OperatorKind] = frozenset({
    "relu", "leaky_relu", "prelu", "max_pool", "avg_pool", "adaptive_avg_pool", "mean", "reshape", "resize_nearest",
    "resize_bilinear",
})  # fmt: skip
POOLS: frozenset[OperatorKind] = frozenset({"max_pool", "avg_pool", "adaptive_avg_pool"})
CLIPS: frozenset[OperatorKind] = frozenset({"relu6", "hardtanh"})
Weight = tuple[str, int]
"""A tensor's name in the program's state, and the axis of the channels."""


@dataclass(frozen=True, slots=True)
class Tied:
    """Values (by their nodes' names) with one scale for each channel. ``free``: all readers are depthwise."""

    values: tuple[str, ...]
    makers: tuple[Weight, ...]
    readers: tuple[Weight, ...]
    clip: float | None
    free: bool


def tied_channels(program: ExportedProgram) -> list[Tied]:
    """What can be scaled, in the program's order."""
    return [*_Ties(program).found()]


class _Ties:
    def __init__(self, program: ExportedProgram) -> None:
        self._state = _weights(program)
        self._nodes = [node for node in program.graph.nodes if is_float(node)]
        self._union = UnionFind(self._nodes)
        self._held = {node for node in self._nodes if node.op != "call_function"}
        self._held.update(node for node in program.graph.output_node().all_input_nodes if is_float(node))
        self._makers: dict[Node, list[Weight]] = {}
        self._readers: dict[Node, list[tuple[Weight, bool]]] = {}
        self._clips: dict[Node, float] = {}
        for node in program.graph.nodes:
            if node.op == "call_function":
                self._look_at(node)

    def found(self) -> Iterator[Tied]:
        groups: dict[Node, list[Node]] = {}
        for node in self._nodes:
            groups.setdefault(self._union[node], []).append(node)
        for members in groups.values():
            makers = [weight for node in members for weight in self._makers.get(node, ())]
            readers = [reader for node in members for reader in self._readers.get(node, ())]
            if makers and readers and not self._held.intersection(members):
                clips = [self._clips[node] for node in members if node in self._clips]
                values = tuple(node.name for node in members if not self._is_taken_in(node))
                weights = tuple(weight for weight, _ in readers)
                yield Tied(values, tuple(makers), weights, min(clips, default=None), all(free for _, free in readers))

    def _is_taken_in(self, node: Node) -> bool:
        """Whether the activation behind it is computed with it, so that it is no value of its own."""
        users = list(node.users)
        return len(users) == 1 and kind_of(users[0]) in CLIPS | {"relu"} and kind_of(node) in ("conv", "linear", "add")

    def _look_at(self, node: Node) -> None:
        kind = kind_of(node)
        operands = [each for each in node.all_input_nodes if is_float(each) and each.op == "call_function"]
        if kind in ("conv", "linear") and self._is_layer(node):
            return
        if kind in PROPORTIONAL | CLIPS and is_float(node) and self._passes(node, operands):
            self._union.union(operands[0], node)
            if kind in CLIPS:
                self._clips[node] = float(node.args[2])  # type: ignore[arg-type]
            return
        if kind == "add" and len(operands) == len(node.args) == 2 and _alike(node, *operands):
            self._union.union(*operands, node)
            return
        self._held.update(operands)
        if is_float(node):
            self._held.add(node)

    def _is_layer(self, node: Node) -> bool:
        """Notes what a convolution or linear layer can scale; False where it can scale nothing."""
        source, weight, bias = (*node.args[:3], None)[:3]
        names = [self._state.get(each) for each in (weight, bias) if isinstance(each, Node)]
        shape = value_of(node).shape
        if None in names or not names or not isinstance(source, Node) or (kind_of(node) == "linear" and len(shape) != 2):
            return False
        rank = value_of(weight).dim()  # type: ignore[arg-type]
        if rank < 2 or (kind_of(node) == "conv" and len(shape) != rank):
            return False  # one row alone, whose outputs have no channel axis; or no batch axis
        self._makers[node] = [(str(name), 0) for name in names]
        own = (str(names[0]), 1)
        groups = groups_of(node)
        if groups == 1:
            self._readers.setdefault(source, []).append((own, False))
        elif groups == shape[1] == value_of(source).shape[1]:
            self._readers.setdefault(source, []).append(((own[0], 0), True))
        else:
            self._held.add(source)
        return True

    def _passes(self, node: Node, operands: list[Node]) -> bool:
        if len(operands) != 1 or operands[0] is not node.args[0]:
            return False
        before, after = value_of(operands[0]).shape, value_of(node).shape
        if kind_of(node) in CLIPS and (len(node.args) < 3 or node.args[1] != 0 or not isinstance(node.args[2], int | float)):
            return False
        if kind_of(node) in POOLS and len(before) < 2 + (2 if "2d" in str(node.target) else 1):
            return False  # it takes the channels for a side of the image
        if kind_of(node) == "reshape" and any(size != 1 for size in (*before[2:], *after[2:])):
            return False  # more than the flattening of one pixel
        return len(after) >= 2 and after[:2] == before[:2] and len(before) >= 2 and not _mixes_channels(node)


def _mixes_channels(node: Node) -> bool:
    """Whether a mean goes over the channels."""
    if kind_of(node) != "mean":
        return False
    axes = node.args[1] if len(node.args) > 1 else None
    rank = value_of(node.args[0]).dim()  # type: ignore[arg-type]
    return not isinstance(axes, list | tuple) or any(int(axis) % rank in (0, 1) for axis in axes)


def _alike(*nodes: Node) -> bool:
    return len({value_of(node).shape for node in nodes}) == 1 and value_of(nodes[0]).dim() >= 2


def _weights(program: ExportedProgram) -> dict[Node, str]:
    """Float tensors of the program's state that one operator alone reads, by their nodes."""
    signature, state = program.graph_signature, program.state_dict
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    shared = _same_storage(state) | {name for name, value in state.items() if _overlaps(value)}
    return {
        node: names[node.name]
        for node in program.graph.nodes
        if node.name in names and len(node.users) == 1 and is_float(node)
        and names[node.name] in state and counts[names[node.name]] == 1 and names[node.name] not in shared
    }  # fmt: skip


def _same_storage(state: dict[str, Tensor]) -> set[str]:
    """Names of tensors that are views of the same memory: to scale one would scale the other."""
    owners: dict[int, list[str]] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.numel():
            owners.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _overlaps(value: object) -> bool:
    """Whether elements of an expanded tensor are one number in memory: they cannot be scaled each on its own."""
    return isinstance(value, Tensor) and any(
        size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True)
    )
