"""The captured graph as the planner sees it: operators with a kind, their float operands, and activations fused into them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Graph, Node

from edgeopt.kinds import FUSING, PASS_THROUGH, WEIGHTED, is_float, kind_of
from edgeopt.quantize.statistics import Statistics
from edgeopt.targets.schema import OperatorKind


@dataclass(frozen=True, slots=True)
class Op:
    """One operator, or one pattern such as convolution + ReLU.

    ``head`` computes, ``output`` carries the result (the activation where one is fused, else ``head`` itself).
    ``carrier`` is the node whose arguments ``operands`` are: another one than ``head`` only for parts of a split.
    ``kind`` is None where edgeopt does not know the operator.
    """

    kind: OperatorKind | None
    head: Node
    output: Node
    carrier: Node
    operands: tuple[Node, ...]
    weight: Node | None = None


def operators(graph: Graph, fused: frozenset[OperatorKind]) -> list[Op]:
    """Every operator that yields a float tensor, in order; kinds in ``fused`` disappear into what feeds them."""
    found: list[Op] = []
    consumed: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or not is_float(node) or node in consumed:
            continue
        kind = kind_of(node)
        output = _fused_activation(node, fused) if kind in FUSING else node
        consumed.add(output)
        carrier = node.args[0] if kind == "slice" and node.target is not None and _is_part(node) else node
        weight = node.args[1] if kind in WEIGHTED else None
        operands = tuple(dict.fromkeys(operand for operand in _operands(carrier, kind) if operand is not weight))
        found.append(Op(kind, node, output, carrier, operands, weight))
    return found


def _is_part(node: Node) -> bool:
    return not isinstance(node.args[0], Node) or not is_float(node.args[0])


def _fused_activation(node: Node, fused: frozenset[OperatorKind]) -> Node:
    users = list(node.users)
    if len(users) == 1 and kind_of(users[0]) in fused and users[0].args[0] is node:
        return users[0]
    return node


def _operands(node: Node, kind: OperatorKind | None) -> Iterator[Node]:
    """Float tensors that ``node`` computes with; biases of weighted operators stay with their operator."""
    if kind in WEIGHTED:
        yield node.args[0]  # type: ignore[misc]
        return
    for argument in node.all_input_nodes:
        if is_float(argument):
            yield argument


BOUNDED: frozenset[OperatorKind] = frozenset({"softmax", "sigmoid", "tanh", "relu6", "hardtanh"})
MASK = 1e4
"""A constant this large is no weight: it switches elements off before a softmax."""


def masked_values(graph: Graph, statistics: Statistics) -> set[Node]:
    """Values that a mask may push out of any range, now or on other inputs: padding may be missing from calibration data.

    They start where a huge constant enters (where, masked_fill, multiplication) and end at an activation that bounds them.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or not is_float(node):
            continue
        huge = any(_is_huge(argument, statistics) for argument in node.args)
        reached = any(argument in found for argument in node.all_input_nodes) and kind_of(node) not in BOUNDED
        if reached or (huge and kind_of(node) not in PASS_THROUGH):
            found.add(node)
    return found


def _is_huge(argument: object, statistics: Statistics) -> bool:
    """Whether ``argument`` is a number, or a stored tensor with one, that only a mask holds."""
    if isinstance(argument, Node) and argument.op == "get_attr":
        known = statistics.get(argument.name)
        return known is not None and max(-known.minimum, known.maximum) >= MASK
    return isinstance(argument, float | int) and abs(argument) >= MASK
