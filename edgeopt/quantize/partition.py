"""Which operators to compute in integers: the cheapest cut of the graph into integer and float parts.

An integer operator between float ones costs a QUANTIZE and a DEQUANTIZE and may give less than they cost; deciding operator
by operator cannot see that. Here the whole graph is decided at once: every operator that could be integer saves something, or
loses it where its integer kernel is slower (:mod:`edgeopt.quantize.costs`), every value that crosses between the parts costs
its conversion, and a minimum s-t cut finds the best assignment exactly (Greig, Porteous and Seheult, 1989).
"""

from collections.abc import Collection, Iterable

import networkx
from torch.fx import Node

from edgeopt.quantize.costs import OperatorCosts
from edgeopt.quantize.graph import Op, gives_floats
from edgeopt.targets.schema import TargetProfile

_INTEGER, _FLOAT = "integer", "float"


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
    costs = OperatorCosts(profile)
    graph = networkx.DiGraph()
    graph.add_nodes_from((_INTEGER, _FLOAT))
    for op in ops:
        if op.output not in refused:
            _gain(graph, op.output, costs.gain(op))
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
        _cross(graph, value, users, costs, free_exit)
    integer_side, _ = networkx.minimum_cut(graph, _INTEGER, _FLOAT)[1]
    return {node for node in integer_side if isinstance(node, Node)}


def _gain(graph: networkx.DiGraph, output: Node, saved: float) -> None:
    """What is lost where an operator is in float; where its integers are slower, what they lose."""
    side = (_INTEGER, output) if saved >= 0 else (output, _FLOAT)
    graph.add_edge(*side, capacity=abs(saved))


def _cross(graph: networkx.DiGraph, value: Node, users: list[object], costs: OperatorCosts, free_exit: set[Node]) -> None:
    """A value is converted once however many of its users need it: an auxiliary node each way carries that cost."""
    leave, enter = (value, "leave"), (value, "enter")
    graph.add_edge(value, leave, capacity=0.0 if value in free_exit else costs.dequantize(value))
    graph.add_edge(enter, value, capacity=costs.quantize(value))
    for user in users:
        graph.add_edge(leave, user)
        graph.add_edge(user, enter)
