"""Which values one 8-bit scale can hold, and why not the others: these stay in float wherever they go, outputs included.

A value is judged by what it consists of. Pixels beside probabilities in one concatenation have a range that 256 levels cover,
and the probabilities get none of them: each part is asked how many levels it keeps, against what it would have alone.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgeopt.capture.operator_kinds import JOINS, MOVES, PASS_THROUGH, SELECTS, is_float, kind_of
from edgeopt.core import QuantScheme
from edgeopt.quantize.graph import Op, masked_values
from edgeopt.quantize.ranges import QParams, fixed, levels_of_the_bulk, qparams
from edgeopt.quantize.statistics import Histogram, Statistics, bordering_values
from edgeopt.targets.schema import OperatorKind, TargetProfile

GREATEST_VALUE = 1e4
"""A value beyond it is a mask, and 8 bits over such a range would leave nothing of the rest."""
FEWEST_LEVELS = 3.0
"""Of 256 integers, those that the middle half of a value's elements must at least spread over, and the root mean square of
each of its channels: below it noise is nearer than 20 dB."""
FEWEST_ELEMENTS = 8
"""Fewer elements say nothing about the scale of a channel."""
MASKED = "a mask may push its values out of any range that 8 bits can hold"
WIDE = "outliers stretch its range: 8 bits would be blind to most of its values"

_KEEPING_PARTS: frozenset[OperatorKind] = frozenset(
    {"pad", "avg_pool", "adaptive_avg_pool", "resize_nearest", "resize_bilinear", "relu", "leaky_relu"}
)
"""Kinds that change values, but no part of them more than another."""


def unfit_values(
    module: GraphModule, ops: Iterable[Op], statistics: Statistics, profile: TargetProfile, scheme: QuantScheme
) -> dict[Node, str]:
    """Every value that no single scale can hold, with the reason, in terms of the value ("its ...")."""
    judge = _Judge(module, statistics, scheme)
    for node in judge.masked:
        judge.unfit[node] = MASKED
    for op in ops:
        prescribed = profile.operators.fixed_output.get(op.kind) if op.kind else None
        judge.look_at(op.output, op.kind, None if prescribed is None else fixed(*prescribed, scheme))
        for constant in op.operands:
            if constant.op == "get_attr":
                judge.look_at(constant, None, None)
    for node in module.graph.nodes:
        if node.op == "placeholder" and is_float(node):
            judge.look_at(node, None, None)
    _spread(module, judge.unfit)
    return judge.unfit


def too_little_left(histogram: Histogram, parameters: QParams, scheme: QuantScheme) -> float | None:
    """The levels that a part keeps in a scale that others stretch, where they are few and it would have twice as many alone."""
    if histogram.minimum == histogram.maximum:
        return None  # nothing to tell apart
    left = levels_of_the_bulk(histogram, parameters)
    alone = levels_of_the_bulk(histogram, qparams(histogram, scheme))
    return left if left < min(FEWEST_LEVELS, alone / 2) else None


class _Judge:
    """Looks at one value after another, in the order of the graph."""

    def __init__(self, module: GraphModule, statistics: Statistics, scheme: QuantScheme) -> None:
        self.unfit: dict[Node, str] = {}
        self.masked = masked_values(module, statistics)
        self._statistics, self._scheme = statistics, scheme
        self._bordering = bordering_values(module.graph)

    def look_at(self, node: Node, kind: OperatorKind | None, prescribed: QParams | None) -> None:
        """Notes why ``node`` is unfit, if it is; ``prescribed`` is the scale that the runtime would give it."""
        if node in self.unfit or not is_float(node):
            return
        histogram = self._statistics.get(node.name)
        if histogram is None:
            if node.op != "get_attr":  # of constants only some are observed
                self.unfit[node] = f"{node.name} is infinite or NaN on the calibration data"
            return
        reason = self._reason(node, kind, histogram, prescribed or qparams(histogram, self._scheme))
        if reason:
            self.unfit[node] = reason

    def _reason(self, node: Node, kind: OperatorKind | None, histogram: Histogram, parameters: QParams) -> str:
        greatest = max(-histogram.minimum, histogram.maximum)
        if greatest > GREATEST_VALUE:
            return f"{node.name} reaches {greatest:.3g}, as masks do"
        if node.op != "get_attr" and kind not in PASS_THROUGH and levels_of_the_bulk(histogram, parameters) < FEWEST_LEVELS:
            return WIDE
        return self._lost_part(node, histogram) or (_lost_channel(histogram, parameters) if node in self._bordering else "")

    def _lost_part(self, node: Node, histogram: Histogram) -> str:
        """What a join would lose; an addition joins only where nothing but light operators follows: its result is rounded
        all the same where a layer reads it."""
        source = node.args[0] if kind_of(node) in ("relu", "relu6", "hardtanh") and isinstance(node.args[0], Node) else node
        sums = kind_of(source) in ("add", "sub") and node in self._bordering
        if source.target not in JOINS and not sums:
            return ""
        parts = [part for part in source.all_input_nodes if is_float(part) and part.name in self._statistics]
        if sums and any(part.op == "get_attr" for part in parts):
            return ""  # an offset
        joined = _with_numbers(histogram, source.args)
        parameters = qparams(joined, self._scheme)
        for part in parts:
            left = too_little_left(self._statistics[part.name], parameters, self._scheme)
            if left is not None:
                reach = max(-joined.minimum, joined.maximum)
                return (
                    f"it joins values too far apart for one 8-bit scale: {left:.1f} of 256 levels for the middle half of "
                    + (f"{part.name} in a range up to {reach:.3g}")
                )
        return ""


def _with_numbers(histogram: Histogram, arguments: tuple[object, ...]) -> Histogram:
    """The histogram with the numbers that a where or masked_fill may put in, also where the data never asked for them."""
    for number in arguments:
        if isinstance(number, float) and math.isfinite(number):
            single = Histogram.of(torch.tensor([number]))
            assert single is not None
            histogram = histogram.merge(single)
    return histogram


def _lost_channel(histogram: Histogram, parameters: QParams) -> str:
    for channels in histogram.channels:
        if channels.count < FEWEST_ELEMENTS:
            continue
        levels = np.sqrt(channels.power / channels.count) / parameters.scale
        lost = np.flatnonzero((levels > 0) & (levels < FEWEST_LEVELS))
        if len(lost) and levels.max() > 2 * FEWEST_LEVELS:
            worst = int(lost[np.argmin(levels[lost])])
            where = f"{len(lost)} of {len(levels)} along axis {channels.axis} keep less than {FEWEST_LEVELS:g} of 256 levels"
            return f"its channels lie too far apart for one 8-bit scale: {where}, channel {worst} {levels[worst]:.2g}"
    return ""


def _spread(module: GraphModule, unfit: dict[Node, str]) -> None:
    """What only moves values is unfit where its source is, and the other way round."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and is_float(node)]
    for node in nodes:
        source = _source(node)
        if source in unfit and (_moves(node) or kind_of(node) in _KEEPING_PARTS or node.target in SELECTS):
            unfit.setdefault(node, unfit[source])
    for node in reversed(nodes):
        source = _source(node)
        if node in unfit and source is not None and source.op == "call_function" and _moves(node):
            unfit.setdefault(source, unfit[node])


def _source(node: Node) -> Node | None:
    first = node.args[0] if node.args else None
    if isinstance(first, Node) and kind_of(node) == "slice" and not is_float(first):
        first = first.args[0]  # a part of a split
    return first if isinstance(first, Node) and is_float(first) else None


def _moves(node: Node) -> bool:
    return node.target in MOVES or (kind_of(node) in PASS_THROUGH and kind_of(node) != "embedding")
