"""One scale and zero point for every quantized value, and a second one where a value is read in the scale of a group."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from networkx.utils import UnionFind
from torch.fx import Node

from edgeopt.capture.operator_kinds import PASS_THROUGH
from edgeopt.core import QuantScheme
from edgeopt.quantize.fitness import too_little_left
from edgeopt.quantize.graph import Op
from edgeopt.quantize.ranges import QParams, fixed, holds, qparams
from edgeopt.quantize.statistics import Histogram, Statistics
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class Scales:
    """``values``: the parameters of every quantized value. ``read``: those in which an operator (its output) reads an operand
    whose own are prescribed and do not hold what the operator's group holds: the value is quantized once more before it."""

    values: dict[Node, QParams]
    read: dict[tuple[Node, Node], QParams]

    def of(self, op: Op, operand: Node) -> QParams:
        """The parameters in which ``op`` reads ``operand``."""
        return self.read.get((op.output, operand), self.values[operand])


def scales_of(
    integer: tuple[Op, ...],
    own: frozenset[Node],
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
    ranked: Collection[Node] = (),
) -> Scales:
    """One scale for each group of values that must share it; that of ``ranked`` ones holds the greatest of them.

    A prescribed one is the group's where it holds all of the group's values, and else its operator's alone.
    """
    groups = shared_groups(integer, own, profile)
    prescribed = {
        op.output: fixed(*profile.operators.fixed_output[op.kind], scheme)
        for op in integer
        if op.kind in profile.operators.fixed_output and op.output in own
    }
    values: dict[Node, QParams] = {}
    parameters: dict[Node, QParams] = {}
    for members in groups:
        whole_top = any(member in ranked and member in own for member in members)
        found = _of_group(members, prescribed, merged(members, statistics), scheme, whole_top)
        values |= {member: prescribed.get(member, found) for member in members}
        parameters |= dict.fromkeys(members, found)
    read = {
        (op.output, operand): parameters[operand]
        for op in integer
        if op.output in own and _shares(op, profile)
        for operand in op.operands
        if parameters[operand] != values[operand]
    }
    return Scales(values, read)


def _of_group(
    members: list[Node], prescribed: dict[Node, QParams], histogram: Histogram, scheme: QuantScheme, whole_top: bool
) -> QParams:
    candidates = sorted({prescribed[member] for member in members if member in prescribed}, key=lambda one: one.scale)
    if len(members) == 1 and candidates:
        return candidates[0]
    return next((one for one in candidates if holds(one, histogram)), None) or qparams(histogram, scheme, whole_top)


def strangers(
    integer: tuple[Op, ...],
    own: frozenset[Node],
    scales: Scales,
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
) -> dict[Node, str]:
    """Operators (by their outputs) that would give one scale to values too far apart, each with the reason.

    To blame are those that change values: what others move was rounded before.
    """
    sharing = [op for op in integer if op.output in own and _shares(op, profile)]
    lost: dict[Node, float] = {}
    for op in sharing:
        for node in (*op.operands, op.output):
            parameters = scales.of(op, node) if node is not op.output else scales.values[node]
            if node not in lost and (left := too_little_left(statistics[node.name], parameters, scheme)) is not None:
                lost[node] = left
    blamed = {}
    for op in sharing:
        least = min((node for node in (*op.operands, op.output) if node in lost), key=lost.__getitem__, default=None)
        if least is not None and op.kind not in PASS_THROUGH:
            rest = f"{lost[least]:.1f} of 256 levels left for {least.name}"
            blamed[op.output] = f"what it reads and gives would share one 8-bit scale, with {rest}"
    return blamed


def _shares(op: Op, profile: TargetProfile) -> bool:
    return op.kind in PASS_THROUGH or op.kind in profile.operators.shared_range


def shared_groups(integer: tuple[Op, ...], own: frozenset[Node], profile: TargetProfile) -> Iterable[list[Node]]:
    """Every value that gets a scale, in groups that share one."""
    values = list(dict.fromkeys((*(operand for op in integer for operand in op.operands), *own)))
    union = UnionFind(values)
    for op in integer:
        if op.output in own and _shares(op, profile):
            union.union(*op.operands, op.output)
    groups: dict[Node, list[Node]] = {}
    for value in values:
        groups.setdefault(union[value], []).append(value)
    return groups.values()


def merged(members: Iterable[Node], statistics: Statistics) -> Histogram:
    """The histogram of a group, each value weighing the same however many elements it has."""
    found: Histogram | None = None
    for name in sorted({node.name for node in members}):
        found = statistics[name] if found is None else found.merge(statistics[name])
    assert found is not None
    return found
