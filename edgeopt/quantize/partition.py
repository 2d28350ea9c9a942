"""Which operators to compute in integers: the cheapest cut of the graph into integer and float parts.

An integer operator between float ones costs a QUANTIZE and a DEQUANTIZE and may give less than they cost; deciding operator
by operator cannot see that. Here the whole graph is decided at once: every operator that could be integer gains
something (its multiply-accumulates or its elements), every value that crosses between the parts costs its
elements, and a minimum s-t cut finds the best assignment exactly (Greig, Porteous and Seheult, 1989).
"""

from collections.abc import Collection, Iterable

import networkx
from torch.fx import Node

from edgeopt.capture.operator_kinds import HEAVY, PASS_THROUGH, elements, macs
from edgeopt.quantize.graph import Op, gives_floats
from edgeopt.targets.schema import TargetProfile

_INTEGER, _FLOAT = "integer", "float"
PASS_THROUGH_GAIN = 0.05
"""Per element: moving a quarter of the bytes is worth a little, never a conversion of its own."""


def integer_operators(
    ops: list[Op],
    refused: Collection[Node],
    inputs: Iterable[Node],
    constants: Iterable[Node],
    outputs: Iterable[Node],
    profile: TargetProfile,
    border: Collection[Node],
    last: Collection[Node] = (),
) -> set[Node]:
    """Output nodes of the operators to compute in integers, model inputs included where they arrive as integers.

    ``refused``: outputs of the operators that cannot be. ``border``: the inputs and outputs that are integers.
    ``last``: values that float outputs are made of.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from((_INTEGER, _FLOAT))
    for op in ops:
        if op.output not in refused:
            graph.add_edge(_INTEGER, op.output, capacity=gain(op, profile))
        else:
            graph.add_edge(op.output, _FLOAT)
    for node in inputs:
        graph.add_edge(*((_INTEGER, node) if node in border else (node, _FLOAT)))
    free = set(constants)
    consumers: dict[Node, list[object]] = {}
    for op in ops:
        for operand in op.operands:
            if operand not in free:
                consumers.setdefault(operand, []).append(op.output)
    for node in outputs:
        consumers.setdefault(node, []).append(_INTEGER if node in border else _FLOAT)
    free_exit = {op.output for op in ops if gives_floats(op, profile, last)}
    for value, users in consumers.items():
        _cross(graph, value, users, profile, free_exit)
    integer_side, _ = networkx.minimum_cut(graph, _INTEGER, _FLOAT)[1]
    return {node for node in integer_side if isinstance(node, Node)}


def gain(op: Op, profile: TargetProfile) -> float:
    """What ``op`` in integers saves against floats, in the unit of the profile's costs."""
    size = elements(op.output)
    if op.kind in HEAVY:
        return macs(op.head) * profile.costs.mac_gain + size * profile.costs.element_gain
    if op.kind == "embedding":
        return float(elements(op.operands[0]))  # a table four times smaller, read row by row, is worth its conversion
    return size * (PASS_THROUGH_GAIN if op.kind in PASS_THROUGH else profile.costs.element_gain)


def _cross(graph: networkx.DiGraph, value: Node, users: list[object], profile: TargetProfile, free_exit: set[Node]) -> None:
    """A value is converted once however many of its users need it: an auxiliary node each way carries that cost."""
    size = elements(value)
    leave, enter = (value, "leave"), (value, "enter")
    graph.add_edge(value, leave, capacity=0.0 if value in free_exit else size * profile.costs.dequantize)
    graph.add_edge(enter, value, capacity=size * profile.costs.quantize)
    for user in users:
        graph.add_edge(leave, user)
        graph.add_edge(user, enter)
