"""Decides, for one program and one target, what is quantized, with which parameters, and why the rest stays in float.

The decisions are plain data (:class:`Quantization`); ``annotate.py`` turns them into PT2E annotations.
"""

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch.fx import GraphModule, Node

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import (
    HEAVY,
    JOINS,
    PASS_THROUGH,
    RECURRENT,
    is_float,
    value_of,
    weight_shape,
    yields_floats,
)
from edgeopt.core import KeptFloat, QuantScheme
from edgeopt.quantize.fitness import unfit_values
from edgeopt.quantize.graph import Op, gives_floats, operators
from edgeopt.quantize.partition import integer_operators
from edgeopt.quantize.ranges import QParams
from edgeopt.quantize.ranked import coarse_scores, ranked_values
from edgeopt.quantize.scales import Scales, scales_of, strangers
from edgeopt.quantize.shares import Shares, integer_shares
from edgeopt.quantize.statistics import Statistics
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class FloatBorder:
    """One input or output, by its position, that stays float although the target asks for integers."""

    side: Literal["input", "output"]
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Quantization:
    """``integer`` operators with the parameters of every quantized value, and what stays in float."""

    integer: tuple[Op, ...]
    scales: Scales
    outputs: frozenset[Node]
    """Nodes whose own result is quantized, whoever uses it: integer operators and, for integer I/O, model inputs."""
    kept_float: tuple[KeptFloat, ...]
    float_border: tuple[FloatBorder, ...]
    shares: Shares
    apart: frozenset[Node]
    """Operators in float because no one scale can hold what they join: a converter must not quantize them after all."""
    float_layers: frozenset[Node]
    """Results of layers in float that read what is quantized: a converter must not quantize these either."""
    kept_apart: tuple[FloatBorder, ...] = ()
    """Outputs that are float anyway, and whose parts no one scale could hold."""
    float_last: tuple[str, ...] = ()
    """Layers that take integers and give the floats that outputs are made of."""
    ranked: frozenset[Node] = frozenset()
    """Integer values that outputs are made of: their ranges hold the greatest of them."""
    ranges_changed: int = 0
    """Groups of values with another range than the observer's, of ``ranges_tried``, by ``range_samples`` samples."""
    ranges_tried: int = 0
    range_samples: int = 0
    rounded: int = 0
    """Layers whose weights are rounded against data, not to the nearest."""

    @property
    def parameters(self) -> dict[Node, QParams]:
        """Scale and zero point of every quantized value, as it leaves what makes it."""
        return self.scales.values


def decide(
    module: GraphModule,
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
    io_float: bool,
    kept: Mapping[str, str] | None = None,
) -> Quantization:
    """The cheapest assignment of integer and float operators, then one scale and zero point for every quantized value.

    Operators that would have to share a scale too coarse for one of their values are refused, and it is decided once more.
    ``kept``: operators, by the names of their outputs, that stay in float though they need not, each with the reason.
    """
    ops = operators(module.graph, frozenset(profile.operators.fused))
    constants = {node for node in module.graph.nodes if node.op == "get_attr"}
    unfit = unfit_values(module, ops, statistics, profile, scheme)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder" and is_float(node)]
    outputs = [node for node in module.graph.output_node().all_input_nodes if is_float(node) and node not in constants]
    border = frozenset() if io_float else frozenset(node for node in (*inputs, *outputs) if node not in unfit)
    ranked, to_floats = ranked_values(outputs), ranked_values(node for node in outputs if node not in border)
    last = to_floats if io_float else set[Node]()
    refused = coarse_scores(ops, to_floats, statistics, profile, scheme)
    refused |= {op.output: reason for op in ops if (reason := refusal(op, profile, constants, unfit, last))}
    refused |= {op.output: kept[op.output.name] for op in ops if kept and op.output.name in kept and op.output not in refused}
    strange: set[Node] = set()
    while True:
        chosen = integer_operators(ops, refused, inputs, constants, outputs, profile, border, last)
        integer = tuple(op for op in ops if op.output in chosen)
        own = _own_outputs(integer, inputs, outputs, profile, border, last)
        scales = scales_of(integer, own, statistics, profile, scheme, ranked)
        apart = strangers(integer, own, scales, statistics, profile, scheme)
        if not apart:
            break
        refused |= apart
        strange |= apart.keys()
    unable = _float_border(module, unfit)
    return Quantization(
        integer,
        scales,
        own,
        _kept(ops, chosen, refused, profile),
        () if io_float else unable,
        integer_shares(module, ops, chosen),
        frozenset(op.head for op in ops if op.output in strange or (op.output in unfit and op.head.target in JOINS)),
        frozenset(op.output for op in ops if op.output not in chosen and op.kind in HEAVY and _reads_integers(op, scales)),
        kept_apart=tuple(one for one in unable if io_float and one.side == "output"),
        float_last=tuple(layer_of(op.head) for op in integer if op.output not in own and op.output in last),
        ranked=own & ranked,
    )


def _reads_integers(op: Op, scales: Scales) -> bool:
    return any(operand in scales.values for operand in op.operands)


def refusal(op: Op, profile: TargetProfile, constants: set[Node], unfit: dict[Node, str], last: Collection[Node] = ()) -> str:
    """Why ``op`` cannot be integer on this target; "" where it can. ``last``: values that float outputs are made of."""
    if op.kind is None:
        whole = f"{profile.runtime} has no integer kernel for a whole recurrent layer" if op.head.target in RECURRENT else ""
        return unfit.get(op.output) or whole or "edgeopt does not know this operator"
    if op.kind not in profile.operators.integer:
        return f"{profile.runtime} has no integer kernel for {op.kind}"
    if op.weight is not None and op.weight not in constants:
        return "its weight is computed at run time, not stored"
    if not op.operands:
        return "it reads no float value"
    lost = [operand for operand in op.operands if operand in unfit]
    if op.output in unfit and not gives_floats(op, profile, last):
        lost.append(op.output)
    return unfit[lost[0]] if lost else _operand_refusal(op, profile)


def _operand_refusal(op: Op, profile: TargetProfile) -> str:
    for argument in op.carrier.all_input_nodes:
        if op.kind not in PASS_THROUGH and argument is not op.weight and not _float_or_none(argument):
            return "its arithmetic is on integers"
    kernel = depthwise_kernel(op)
    if profile.limits.max_depthwise_kernel is not None and kernel > profile.limits.max_depthwise_kernel:
        return f"a {kernel}-wide depthwise kernel is slower in integers on {profile.runtime}"
    rank = max((len(value_of(node).shape) for node in (*op.operands, op.output)), default=0)
    limit = profile.limits.max_rank
    return f"it has rank {rank}, {profile.name} allows {limit}" if limit is not None and rank > limit else ""


def depthwise_kernel(op: Op) -> int:
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
    inputs: list[Node],
    outputs: list[Node],
    profile: TargetProfile,
    border: frozenset[Node],
    last: Collection[Node],
) -> frozenset[Node]:
    """Integer operators whose result leaves as integers: all, but for those that can give floats and only floats are wanted."""
    bordering = border.intersection((*inputs, *outputs))
    wanted = {operand for op in integer for operand in op.operands} | bordering
    found = {op.output for op in integer if op.output in wanted or not gives_floats(op, profile, last)}
    return frozenset(found | bordering)


def _float_border(module: GraphModule, unfit: dict[Node, str]) -> tuple[FloatBorder, ...]:
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    (given,) = module.graph.output_node().args
    outputs = list(given) if isinstance(given, tuple | list) else [given]
    sides: tuple[tuple[Literal["input", "output"], list[Any]], ...] = (("input", inputs), ("output", outputs))
    return tuple(
        FloatBorder(side, position, unfit[node])
        for side, nodes in sides
        for position, node in enumerate(nodes)
        if node in unfit
    )


def _dearer(op: Op, profile: TargetProfile) -> str:
    """Why the cheapest assignment has ``op`` in float though it need not be."""
    measured = profile.costs.measured
    saved = 0.0 if measured is None else measured.saved.get(op.output.name, 0.0)
    if saved < 0:
        return f"it was measured to take {-saved / 1000:.3g} ms longer in integers"
    return "its neighbours are in float: converting to integers and back would cost more"


def _kept(ops: list[Op], chosen: set[Node], refused: dict[Node, str], profile: TargetProfile) -> tuple[KeptFloat, ...]:
    """Every operator with arithmetic of its own that stays in float; moves of float values are no news."""
    kept = []
    for op in ops:
        reads = [node for node in op.head.all_input_nodes if yields_floats(node)]
        result_of_another = op.head.target is operator.getitem and not op.operands
        if op.output in chosen or op.kind in PASS_THROUGH or result_of_another or not reads:
            continue
        reason = refused.get(op.output) or _dearer(op, profile)
        kept.append(KeptFloat(layer=layer_of(op.head), operator=op.kind or str(op.head.target), reason=reason))
    return tuple(kept)
