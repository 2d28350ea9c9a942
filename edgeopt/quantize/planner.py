"""Decides, for one program and one target, what is quantized, with which parameters, and why the rest stays in float.

The decisions are plain data (:class:`Quantization`); ``annotate.py`` turns them into PT2E annotations.
"""

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from edgeopt.capture import layer_of
from edgeopt.core import KeptFloat, QuantScheme
from edgeopt.kinds import PASS_THROUGH, is_float, value_of, weight_shape
from edgeopt.quantize.graph import Op, masked_values, operators
from edgeopt.quantize.partition import integer_operators
from edgeopt.quantize.ranges import QParams, fixed, levels_of_the_bulk, qparams
from edgeopt.quantize.statistics import Histogram, Statistics
from edgeopt.targets.schema import TargetProfile

GREATEST_VALUE = 1e4
"""A value beyond it is a mask, and 8 bits over such a range would leave nothing of the rest."""


FEWEST_LEVELS = 3.0
"""Of 256 integers, those that the middle half of a value's elements must at least spread over."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """``integer`` operators with the parameters of every quantized value (by node), and what stays in float."""

    integer: tuple[Op, ...]
    parameters: dict[Node, QParams]
    outputs: frozenset[Node]
    """Nodes whose own result is quantized, whoever uses it: integer operators and, for integer I/O, model inputs."""
    kept_float: tuple[KeptFloat, ...]


def decide(
    module: GraphModule, statistics: Statistics, profile: TargetProfile, scheme: QuantScheme, io_float: bool
) -> Quantization:
    """The cheapest assignment of integer and float operators, then one scale and zero point for every quantized value."""
    ops = operators(module.graph, frozenset(profile.operators.fused))
    constants = {node for node in module.graph.nodes if node.op == "get_attr"}
    masked, wide = masked_values(module.graph, statistics), _wide_values(ops, statistics, scheme)
    refused = {op.output: reason for op in ops if (reason := refusal(op, statistics, profile, constants, masked, wide))}
    inputs = [node for node in module.graph.nodes if node.op == "placeholder" and is_float(node)]
    outputs = [node for node in module.graph.output_node().all_input_nodes if is_float(node) and node not in constants]
    chosen = integer_operators(ops, lambda op: op.output not in refused, inputs, constants, outputs, profile, io_float)
    integer = tuple(op for op in ops if op.output in chosen)
    own = frozenset(_own_outputs(integer, ops, inputs, outputs, profile, io_float, chosen))
    parameters = _parameters(integer, own, statistics, profile, scheme)
    return Quantization(integer, parameters, own, _kept(ops, chosen, refused))


def refusal(
    op: Op, statistics: Statistics, profile: TargetProfile, constants: set[Node], masked: set[Node], wide: set[Node]
) -> str:
    """Why ``op`` cannot be integer on this target; "" where it can."""
    if op.kind is None:
        return "edgeopt does not know this operator"
    if op.kind not in profile.operators.integer:
        return f"{profile.runtime} has no integer kernel for {op.kind}"
    if op.weight is not None and op.weight not in constants:
        return "its weight is computed at run time, not stored"
    if not op.operands:
        return "it reads no float value"
    if masked.intersection((*op.operands, op.output)):
        return "a mask may push its values out of any range that 8 bits can hold"
    if wide.intersection(op.operands) or (op.output in wide and op.kind not in profile.operators.float_output):
        return "outliers stretch its range: 8 bits would be blind to most of its values"
    return _operand_refusal(op, statistics, profile)


def _wide_values(ops: list[Op], statistics: Statistics, scheme: QuantScheme) -> set[Node]:
    """Computed values whose middle half would fall on fewer than FEWEST_LEVELS integers."""
    values = {op.output for op in ops if op.kind not in PASS_THROUGH and op.output.name in statistics}
    found = set()
    for node in values:
        histogram = statistics[node.name]
        if levels_of_the_bulk(histogram, qparams(histogram, scheme)) < FEWEST_LEVELS:
            found.add(node)
    return found


def _operand_refusal(op: Op, statistics: Statistics, profile: TargetProfile) -> str:
    for argument in op.carrier.all_input_nodes:
        if op.kind not in PASS_THROUGH and argument is not op.weight and not _float_or_none(argument):
            return "its arithmetic is on integers"
    for node in (*op.operands, op.output):
        histogram = statistics.get(node.name)
        if histogram is None:
            return f"{node.name} is infinite or NaN on the calibration data"
        if max(-histogram.minimum, histogram.maximum) > GREATEST_VALUE:
            return f"{node.name} reaches {max(-histogram.minimum, histogram.maximum):.3g}, as masks do"
    kernel = _depthwise_kernel(op)
    if profile.limits.max_depthwise_kernel is not None and kernel > profile.limits.max_depthwise_kernel:
        return f"a {kernel}-wide depthwise kernel is slower in integers on {profile.runtime}"
    rank = max((len(value_of(node).shape) for node in (*op.operands, op.output)), default=0)
    limit = profile.limits.max_rank
    return f"it has rank {rank}, {profile.name} allows {limit}" if limit is not None and rank > limit else ""


def _depthwise_kernel(op: Op) -> int:
    """The greatest side of a depthwise convolution's kernel; 0 for every other operator."""
    if op.kind != "conv" or op.weight is None:
        return 0
    shape = weight_shape(op.head)
    channels = int(value_of(op.operands[0]).shape[1])
    return max(shape[2:]) if shape[1] == 1 and channels > 1 else 0


def _float_or_none(node: Node) -> bool:
    value = value_of(node)
    return not hasattr(value, "dtype") or is_float(node)


def _own_outputs(
    integer: tuple[Op, ...],
    ops: list[Op],
    inputs: list[Node],
    outputs: list[Node],
    profile: TargetProfile,
    io_float: bool,
    chosen: set[Node],
) -> set[Node]:
    """Integer operators whose result leaves as integers: all, but for those that can give floats and only floats are wanted."""
    wanted = {operand for op in integer for operand in op.operands} | (set() if io_float else set(outputs))
    found = {op.output for op in integer if op.output in wanted or op.kind not in profile.operators.float_output}
    found |= set() if io_float else set(outputs)
    return found | {node for node in inputs if node in chosen}


def _parameters(
    integer: tuple[Op, ...], own: frozenset[Node], statistics: Statistics, profile: TargetProfile, scheme: QuantScheme
) -> dict[Node, QParams]:
    """One scale and zero point per group of values that must share them; a prescribed one wins over an observed one."""
    shared = PASS_THROUGH | set(profile.operators.shared_range)
    groups = _Groups()
    for op in integer:
        for operand in op.operands:
            groups.add(operand)
        if op.output in own:
            groups.add(op.output)
            if op.kind in shared:
                groups.join((*op.operands, op.output))
    for node in own:
        groups.add(node)
    prescribed = {
        groups.find(op.output): fixed(*profile.operators.fixed_output[op.kind], scheme)
        for op in integer
        if op.kind in profile.operators.fixed_output and op.output in own
    }
    result: dict[Node, QParams] = {}
    for root, members in groups.members().items():
        found = prescribed.get(root) or qparams(_merged(members, statistics), scheme)
        result |= dict.fromkeys(members, found)
    return result


def _merged(members: list[Node], statistics: Statistics) -> Histogram:
    """The histogram of a group, each value weighing the same however many elements it has."""
    merged: Histogram | None = None
    for name in sorted({node.name for node in members}):
        merged = statistics[name] if merged is None else merged.merge(statistics[name])
    assert merged is not None
    return merged


class _Groups:
    """Union-find over values."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}

    def add(self, node: Node) -> None:
        self._parent.setdefault(node, node)

    def find(self, node: Node) -> Node:
        while self._parent[node] is not node:
            node = self._parent[node]
        return node

    def join(self, nodes: tuple[Node, ...]) -> None:
        first = self.find(nodes[0])
        for node in nodes[1:]:
            self._parent[self.find(node)] = first

    def members(self) -> dict[Node, list[Node]]:
        result: dict[Node, list[Node]] = {}
        for node in self._parent:
            result.setdefault(self.find(node), []).append(node)
        return result


def _kept(ops: list[Op], chosen: set[Node], refused: dict[Node, str]) -> tuple[KeptFloat, ...]:
    """Every operator with arithmetic of its own that stays in float; moves of float values are no news."""
    kept = []
    for op in ops:
        if op.output in chosen or op.kind in PASS_THROUGH or not op.operands:
            continue
        reason = refused.get(op.output) or "its neighbours are in float: converting to integers and back would cost more"
        kept.append(KeptFloat(layer=layer_of(op.head), operator=op.kind or str(op.head.target), reason=reason))
    return tuple(kept)
