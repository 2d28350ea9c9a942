"""Where integers bring noise in: the weights and the result of each layer, and values that come from floats.

Each rounding belongs to one source: that of a result to the layer that makes it, not to those that read it. A layer that reads
values which another has made too coarse is not to blame for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch.fx import Node

from edgeopt.capture.operator_kinds import JOINS, PASS_THROUGH, is_float, kind_of
from edgeopt.quantize.graph import Op
from edgeopt.quantize.ranges import QParams, qparams
from edgeopt.quantize.simulated import Simulation

STRETCHED = 1.5
"""From so many times the step that a value would have alone, the values it is joined with are to blame."""


@dataclass(frozen=True, slots=True)
class Source:
    """``value``: what it gives. ``op``: None for a value that no integer operator makes and integer operators read.

    ``alone``: what values go through while this source alone rounds; ``without``: while all others do. ``joined``: of a
    concatenation whose parts share its scale, those that would have a much finer one alone.
    """

    value: Node
    op: Op | None
    alone: dict[Node, QParams | None] = field(default_factory=dict)
    without: dict[Node, QParams | None] = field(default_factory=dict)
    joined: tuple[Node, ...] = ()

    @property
    def head(self) -> Node:
        """The node that it is named after."""
        return self.value if self.op is None else self.op.head

    @property
    def changes(self) -> set[Node]:
        """Nodes whose values this source alone may change, before all that is computed from them."""
        return {self.value} if self.op is None else {self.op.head, self.op.carrier, self.op.output}


def sources_of(simulation: Simulation) -> list[Source]:
    """In the graph's order: what integers read from floats, then each integer operator that changes values."""
    stretched = _stretched(simulation)
    own = {node: grid for fine in stretched.values() for node, grid in fine.items()}
    made = {op.output for op in simulation.decided.integer}
    entering = [node for node in simulation.decided.scales.values if node not in made]
    found = [Source(node, None, _alone(simulation, node), _none(simulation, node)) for node in entering]
    for op in simulation.decided.integer:
        if op.kind in PASS_THROUGH:
            continue
        alone: dict[Node, QParams | None] = {operand: None for operand in op.operands if operand is not op.output}
        if op.output in own:
            alone[op.output] = own[op.output]
        fine = stretched.get(op.output, {})
        joined = tuple(node for node in fine if kind_of(node) not in PASS_THROUGH)
        found.append(Source(op.output, op, alone, {**fine, **_none(simulation, op.output)}, joined))
    order = {node: place for place, node in enumerate(simulation.module.graph.nodes)}
    return sorted(found, key=lambda source: order[source.value])


def _alone(simulation: Simulation, node: Node) -> dict[Node, QParams | None]:
    return {node: simulation.decided.scales.values[node]}


def _none(simulation: Simulation, node: Node) -> dict[Node, QParams | None]:
    """No grid for ``node`` nor for what only moves it: integers move a value in the scale that it has."""
    moved: dict[Node, QParams | None] = {node: None}
    for op in simulation.decided.integer:
        if op.kind in PASS_THROUGH and op.operands and all(operand in moved for operand in op.operands):
            moved[op.output] = None
    return moved


def _stretched(simulation: Simulation) -> dict[Node, dict[Node, QParams]]:
    """Of each join, by its output, the values before it that share its scale, with the finer ones that they would have."""
    found: dict[Node, dict[Node, QParams]] = {}
    for op in simulation.decided.integer:
        shared = simulation.decided.scales.values.get(op.output)
        if op.head.target in JOINS and shared is not None:
            fine = dict(_finer(simulation, op, shared))
            if fine:
                found[op.output] = fine
    return found


def _finer(simulation: Simulation, op: Op, shared: QParams) -> Iterator[tuple[Node, QParams]]:
    """What is read in ``shared`` and would be, or is as it is made, on a finer grid."""
    waiting = list(op.operands)
    for node in waiting:
        seen, made = simulation.statistics.get(node.name), simulation.decided.scales.values.get(node)
        if seen is None or made is None:
            continue
        alone = qparams(seen, simulation.scheme) if made == shared else made
        if shared.scale > STRETCHED * alone.scale:
            yield node, alone
        if kind_of(node) in PASS_THROUGH:
            waiting += [each for each in node.all_input_nodes if is_float(each)]
