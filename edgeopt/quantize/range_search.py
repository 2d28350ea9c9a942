"""Ranges chosen by what they do to the model's outputs, not to the value alone: ``--quality best``.

Each group of values that shares a scale is quantized alone in the float program, once in each of some ranges. The range with
the least error in the outputs is taken where it is better on samples apart, too. Errors of different values have little to do
with each other and add up, so that what is best for each is next to the best for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.capture.operator_kinds import elements, macs
from edgeopt.core import QuantScheme
from edgeopt.quantize.graph import Op
from edgeopt.quantize.ranges import QParams, clipping_range, of_range
from edgeopt.quantize.scales import Scales, merged, shared_groups
from edgeopt.quantize.statistics import Histogram, Statistics
from edgeopt.targets.schema import TargetProfile

FEWEST_SAMPLES, MOST_SAMPLES = 4, 8
"""Half of them choose, the others judge."""
MOST_WORK = 1e12
"""Multiply-accumulates of all trials together: fewer samples where they would be more, and none where four are too many."""
MOST_VALUES = 1 << 27
"""Numbers in all values of one sample together, which are in memory at once: 512 MiB."""
SHARES = (0.7, 0.85, 1.15, 1.4)
"""Of the range that the observer found, which others are tried beside min-max: from there to what was seen."""
LEAST_GAIN = 0.97
"""Of the error before: less is chance."""


@dataclass(frozen=True, slots=True)
class Searched:
    """``changed`` of ``tried`` groups of values got another range than the observer's, by ``samples`` samples."""

    scales: Scales
    changed: int = 0
    tried: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    members: frozenset[Node]
    behind: tuple[Node, ...]
    """What depends on them, in order, they included."""
    ranges: tuple[QParams, ...]
    """The first is what the observer found."""


def searched(
    module: GraphModule,
    integer: tuple[Op, ...],
    own: frozenset[Node],
    scales: Scales,
    fixed: frozenset[Node],
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
    samples: Sequence[tuple[Tensor, ...]],
) -> Searched:
    """``scales`` with the ranges that hurt the outputs of ``module`` least on ``samples``; ``fixed`` values keep theirs.

    Deterministic. The scales as they are where the samples are too few, or the model too large to try.
    """
    prescribed = {op.output for op in integer if op.kind in profile.operators.fixed_output}
    kept = fixed | prescribed | {operand for _, operand in scales.read}
    members = [frozenset(group) for group in shared_groups(integer, own, profile)]
    groups = [_group(module, one, scales, statistics, scheme) for one in members if not one & kept]
    groups = [group for group in groups if len(group.ranges) > 1]
    work = sum(macs(node) * len(group.ranges) for group in groups for node in group.behind)
    count = min(MOST_SAMPLES, len(samples), int(MOST_WORK / max(work, 1)))
    if count < FEWEST_SAMPLES or sum(elements(node) for node in module.graph.nodes) > MOST_VALUES:
        return Searched(scales)
    chosen = samples[:: len(samples) // count][:count]
    errors = torch.stack([_errors(module, groups, sample) for sample in chosen])  # [samples, groups, ranges]
    values, changed = dict(scales.values), 0
    for group, one in zip(groups, errors.unbind(1), strict=True):
        choosing, judging = one[::2].mean(0), one[1::2].mean(0)
        best = int(choosing.argmin())
        if bool(choosing[best] < LEAST_GAIN * choosing[0]) and bool(judging[best] < judging[0]):
            values |= dict.fromkeys(group.members, group.ranges[best])
            changed += 1
    return Searched(Scales(values, scales.read), changed, len(groups), count)


def _group(
    module: GraphModule, members: frozenset[Node], scales: Scales, statistics: Statistics, scheme: QuantScheme
) -> _Group:
    reached = set(members)
    for node in module.graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    taken = scales.values[next(iter(members))]
    ranges = candidates(merged(members, statistics), taken, scheme)
    return _Group(members, tuple(node for node in module.graph.nodes if node in reached), ranges)


def candidates(histogram: Histogram, taken: QParams, scheme: QuantScheme) -> tuple[QParams, ...]:
    """``taken``, and the parameters of narrower and wider ranges, up to the least and the greatest that were seen."""
    low, high = clipping_range(histogram, scheme)
    least, greatest = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    ends = [(max(low * share, least), min(high * share, greatest)) for share in SHARES]
    return tuple(dict.fromkeys((taken, *(of_range(*one, scheme) for one in (*ends, (least, greatest))))))


def _errors(module: GraphModule, groups: Sequence[_Group], sample: tuple[Tensor, ...]) -> Tensor:
    """What each range of each group costs the outputs, [groups, most ranges], infinite where a group has fewer."""
    interpreter = torch.fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        wanted = interpreter.run(*sample)
        values = dict(interpreter.env)
        found = torch.full((len(groups), max(len(group.ranges) for group in groups)), torch.inf, dtype=torch.float64)
        for row, group in enumerate(groups):
            for column, parameters in enumerate(group.ranges):
                found[row, column] = _difference(wanted, _run(interpreter, values, group, parameters))
    return found


def _run(interpreter: torch.fx.Interpreter, values: dict[Node, Any], group: _Group, parameters: QParams) -> Any:
    """The outputs with the values of ``group`` rounded to what ``parameters`` can represent."""
    interpreter.env = dict(values)
    result: Any = None
    for node in group.behind:
        result = values[node] if node.op in ("placeholder", "get_attr") else interpreter.run_node(node)
        interpreter.env[node] = _rounded(result, parameters) if node in group.members else result
    return result


def _rounded(value: Tensor, parameters: QParams) -> Tensor:
    scale, zero_point, low, high = parameters.scale, parameters.zero_point, parameters.low, parameters.high
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, low, high)


def _difference(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The sum over float outputs of noise over signal."""
    total = 0.0
    for one, other in zip(wanted, found, strict=True):
        if one.is_floating_point():
            total += float((one - other).double().square().sum() / one.double().square().sum().clamp(min=1e-30))
    return total
