"""What whoever reads the outputs compares: logits, scores, coordinates. Two of them that become one number are a tie.

A range that cuts their greatest off makes ties just where it matters, so it is never cut; and where floats are wanted, what
has too few levels in 8 bits stays in float.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from edgeopt.capture.operator_kinds import JOINS, MOVES, PASS_THROUGH, SELECTS, is_float, kind_of
from edgeopt.core import QuantScheme
from edgeopt.quantize.graph import Op
from edgeopt.quantize.ranges import fixed
from edgeopt.quantize.statistics import Statistics
from edgeopt.targets.schema import OperatorKind, TargetProfile

aten = torch.ops.aten
FEWEST_PRESCRIBED = 128
"""Of 256 levels, those that values must reach over in a scale that the runtime prescribes: in their own they would have twice
as many."""
_KEEPING_ORDER: frozenset[OperatorKind] = PASS_THROUGH - {"embedding"} | {"softmax", "sigmoid", "tanh", "hardsigmoid"}
_CHOOSING: frozenset[Any] = frozenset(
    MOVES | SELECTS
    | {aten.argmax.default, aten.argsort.default, aten.log_softmax.int, aten._log_softmax.default, operator.getitem}
)  # fmt: skip


def ranked_values(outputs: Iterable[Node]) -> set[Node]:
    """``outputs`` that are computed, and the values from which nothing but a change that keeps their order, a move, a choice,
    a join or a ranking leads there; floats only."""
    found: set[Node] = set()
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if node in found or node.op != "call_function":
            continue
        found.add(node)
        kind = kind_of(node)
        if node.target in JOINS:
            pending += node.all_input_nodes
        elif kind in _KEEPING_ORDER or node.target in _CHOOSING or _by_a_number(node, kind):
            pending += node.all_input_nodes[:1]
    return {node for node in found if is_float(node)}


def _by_a_number(node: Node, kind: OperatorKind | None) -> bool:
    """Whether ``node`` scales or moves all of a value alike: a temperature, an offset."""
    return kind in ("mul", "div", "add", "sub") and not isinstance(node.args[1], Node)


def coarse_scores(
    ops: Iterable[Op], ranked: set[Node], statistics: Statistics, profile: TargetProfile, scheme: QuantScheme
) -> dict[Node, str]:
    """Operators (by their outputs) whose prescribed scale is too coarse for the outputs that are made of them; the reasons."""
    found = {}
    for op in ops:
        seen = statistics.get(op.output.name)
        if op.kind not in profile.operators.fixed_output or op.output not in ranked or seen is None:
            continue
        levels = (seen.maximum - seen.minimum) / fixed(*profile.operators.fixed_output[op.kind], scheme).scale
        if levels < FEWEST_PRESCRIBED:
            found[op.output] = f"outputs are made of it, and what was seen takes {levels:.0f} of its 256 levels"
    return found
