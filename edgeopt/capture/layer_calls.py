"""The layers that a runtime will execute for a program, and the text by which a table of latencies knows each.

An activation belongs to the layer before it, as runtimes fuse it. Reshaping costs nothing; constants are computed once.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from edgeopt.capture import operator_kinds
from edgeopt.model.signature import dtype_name

_FREE = frozenset({"reshape", "getitem"})
_ACTIVATIONS = frozenset(
    {"relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "gelu", "leaky_relu", "elu", "prelu"}
)
_SIZED = frozenset({"layer_norm", "group_norm"})
"""Kinds with sizes among their arguments: those do not tell one kernel from another."""


def layers(graph: Graph, constants: set[Node]) -> Iterator[list[Node]]:
    """Operators that run as one: each alone, but activations with what they follow. ``constants``: placeholders of weights."""
    depends = {node for node in graph.find_nodes(op="placeholder") if node not in constants}
    groups: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not depends.intersection(node.all_input_nodes):
            continue
        depends.add(node)
        before = node.all_input_nodes[0]
        if _kind(node) in _ACTIVATIONS and before in groups and len(before.users) == 1:
            groups[node] = groups.pop(before)
            groups[node].append(node)
        elif _kind(node) not in _FREE:
            groups[node] = [node]
    yield from groups.values()


def call(nodes: list[Node]) -> str:
    """Operators, shapes and settings of one layer: the same text for layers that take the same time."""
    return " > ".join(_text(node, nodes, sized=True) for node in nodes)


def form(nodes: list[Node]) -> str:
    """The text without sizes: layers of one form run the same kernels."""
    return " > ".join(_text(node, nodes, sized=False) for node in nodes)


def _kind(node: Node) -> str:
    if node.target is operator.getitem:
        return "getitem"
    return operator_kinds.kind_of(node) or str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def elements(node: Node) -> int:
    """Numbers that ``node`` writes, over all its results."""
    return sum(value.numel() for value in pytree.tree_leaves(operator_kinds.value_of(node)) if isinstance(value, Tensor))


def _text(node: Node, nodes: list[Node], *, sized: bool) -> str:
    """``conv(float32[1,16,14,14], float32[16,16,3,3], [1, 1])``; unsized ``conv(float32[4], float32[kernel 3,3], [1, 1])``."""
    kind = _kind(node)
    if not sized and kind in _SIZED:
        return kind
    arguments: Iterable[Any] = [*node.args, *node.kwargs.values()]
    said = [_argument(one, node, nodes, sized) for one in arguments]
    return f"{kind}({', '.join(one for one in said if one)})"


def _argument(value: Any, node: Node, nodes: list[Node], sized: bool) -> str:
    if isinstance(value, list | tuple) and any(isinstance(one, Node) for one in value):
        return "[" + ", ".join(_argument(one, node, nodes, sized) for one in value) + "]"
    if not isinstance(value, Node):
        depthwise = not sized and value == _channels(node) and len(node.args) == 7 and value is node.args[6]
        return "depthwise" if depthwise else str(value)
    if value in nodes:
        return ""
    found = operator_kinds.value_of(value)
    if not isinstance(found, Tensor):
        return str(type(found).__name__)
    weight = operator_kinds.kind_of(node) in operator_kinds.WEIGHTED and value is node.args[1]
    shape = list(found.shape) if sized else [f"{found.ndim} axes", *found.shape[2:]] if weight else [f"{found.ndim} axes"]
    return f"{dtype_name(found.dtype)}[{','.join(map(str, shape))}]"


def _channels(node: Node) -> int:
    """Of the input of a convolution; 1 for anything else, which no group count is compared with."""
    value = operator_kinds.value_of(node.all_input_nodes[0])
    return (
        int(value.shape[1]) if isinstance(value, Tensor) and value.ndim > 1 and operator_kinds.kind_of(node) == "conv" else -1
    )
