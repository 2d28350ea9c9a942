"""The captured graph as the planner sees it: operators with a kind, their float operands, and activations fused into them."""

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from edgeopt.capture.operator_kinds import FUSING, PASS_THROUGH, WEIGHTED, is_float, kind_of, yields_floats
from edgeopt.quantize.statistics import Statistics, attribute
from edgeopt.targets.schema import OperatorKind, TargetProfile


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
    """Every operator that yields floats, in order; kinds in ``fused`` disappear into what feeds them.

    What yields several tensors, or floats of another width, has no kind: parts of a split are slices of what was split.
    """
    found: list[Op] = []
    consumed: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node in consumed or not (is_float(node) or _opaque(node)):
            continue
        kind = kind_of(node) if is_float(node) else None
        output = _fused_activation(node, fused) if kind in FUSING else node
        consumed.add(output)
        carrier = node.args[0] if kind == "slice" and node.target is not None and _is_part(node) else node
        weight = node.args[1] if kind in WEIGHTED else None
        operands = tuple(dict.fromkeys(operand for operand in _operands(carrier, kind) if operand is not weight))
        found.append(Op(kind, node, output, carrier, operands, weight))
    return found


def gives_floats(op: Op, profile: TargetProfile, last: Collection[Node]) -> bool:
    """Whether ``op`` may take integers and give floats; ``last``: values that the model's float outputs are made of."""
    return op.kind in profile.operators.float_output or (op.kind in profile.operators.float_last and op.output in last)


def _opaque(node: Node) -> bool:
    """Whether ``node`` computes floats in a form that nothing here can quantize, such as a whole recurrent layer."""
    return yields_floats(node) and kind_of(node) not in PASS_THROUGH


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
"""A value this large is no weight and no feature: it switches elements off before a softmax, or in an output."""


def masked_values(module: GraphModule, statistics: Statistics) -> set[Node]:
    """Values that a mask may push out of any range, now or on other inputs: padding may be missing from calibration data.

    They start where a huge constant enters (where, masked_fill, multiplication) or at an input with such values, and end at an
    activation that bounds them.
    """
    found: set[Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" and _is_huge_input(node, statistics):
            found.add(node)
        if node.op != "call_function" or not is_float(node):
            continue
        kind = kind_of(node)
        reached = any(argument in found for argument in node.all_input_nodes) and kind not in BOUNDED
        values = node.args[:1] if kind in WEIGHTED else node.args
        if reached or (kind not in PASS_THROUGH and any(_is_huge(argument, module) for argument in values)):
            found.add(node)
    return found


def _is_huge_input(node: Node, statistics: Statistics) -> bool:
    known = statistics.get(node.name)
    return known is not None and max(-known.minimum, known.maximum) >= MASK


def _is_huge(argument: object, module: GraphModule) -> bool:
    """Whether ``argument`` is a number, or a stored tensor with one, that only a mask holds; infinity is one."""
    if isinstance(argument, Node) and argument.op == "get_attr" and is_float(argument):
        stored = attribute(module, str(argument.target))
        return stored.numel() > 0 and bool(stored.abs().max() >= MASK)
    return isinstance(argument, float | int) and abs(argument) >= MASK and argument != sys.maxsize  # the end of an open slice
