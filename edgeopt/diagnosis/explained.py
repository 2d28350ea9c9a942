"""From measurements to findings: each layer with its figures, the user's line, what was done and what can be done."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.fx import Node

from edgeopt.capture import layer_of
from edgeopt.capture.operator_kinds import HEAVY, JOINS, is_float, kind_of
from edgeopt.diagnosis import remedies
from edgeopt.diagnosis.findings import Layer, Range
from edgeopt.diagnosis.measuring import Measured, Measurements, by_cost
from edgeopt.diagnosis.remedies import Circumstances
from edgeopt.diagnosis.sources import Source
from edgeopt.diagnosis.watching import Watched, weight_outliers
from edgeopt.model.user_code import line_in
from edgeopt.quantize.graph import Op, operators
from edgeopt.quantize.ranges import QParams, qparams
from edgeopt.quantize.simulated import Simulation
from edgeopt.quantize.statistics import attribute
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class Kept:
    """An operator in float, and why. ``grid``: what 8 bits would make of its result, where the target has integers for it."""

    op: Op
    reason: str
    grid: QParams | None


@dataclass(frozen=True, slots=True)
class Explained:
    """What findings are made from. ``weights``: of the program before equalization, by name; ``samples``: for calibration."""

    simulation: Simulation
    profile: TargetProfile
    weights: Mapping[str, Tensor]
    samples: int
    floats_selectable: bool

    def layers(self, measured: Measurements, kept: list[Kept], would: Mapping[Node, tuple[float, str]]) -> tuple[Layer, ...]:
        """Every layer, the worst first by what it alone costs, or ``would`` cost if it were not in float."""
        worst = measured.worst(measured.whole)[0]
        alone = [one for one in measured.each if one.alone is not None]
        errors = [one.alone for one in alone if one.alone is not None]
        shares = dict(zip(map(id, alone), measured.parts.shares(measured.signal, measured.whole, errors), strict=True))
        found = [(one.source.value, self._layer(one, measured, worst, shares.get(id(one)))) for one in measured.each]
        nodes = [one.op.output for one in kept]
        found += [
            (node, self._kept(one, measured.floats.get(node), would.get(node))) for node, one in zip(nodes, kept, strict=True)
        ]
        return _ordered(self.simulation, dict(found))

    def _layer(self, one: Measured, measured: Measurements, worst: float, share: float | None) -> Layer:
        source, own, op = one.source, one.own, one.source.op
        alone, part = measured.worst(one.alone) if one.alone is not None else (None, "")
        by_output, by_input = weight_outliers(self.simulation, op) if op is not None else ((), ())
        without = measured.worst(one.without)[0] if one.without is not None else None
        layer = Layer(
            layer=layer_of(source.head),
            operator=self._operator(source),
            line=line_of(source.head),
            own=own.everything.db,
            own_weights=own.weights.db if own.weights else None,
            own_inputs=own.inputs.db if own.inputs else None,
            own_result=own.result.db,
            alone=alone,
            without=without,
            gain=None if without is None else without - worst,
            share=share,
            part=part,
            reads=self._range(op.operands[0]) if op is not None and op.operands else None,
            gives=self._range(source.value),
            weight_outliers=by_output,
            weight_inputs=by_input,
            done=self._done(op),
        )
        return self._advised(_watched(layer, one.watched), source.head, self._around(one))

    def _kept(self, one: Kept, seen: Watched | None, would: tuple[float, str] | None) -> Layer:
        layer = Layer(
            layer=layer_of(one.op.head),
            operator=one.op.kind or str(one.op.head.target),
            line=line_of(one.op.head),
            in_float=one.reason,
            alone=would[0] if would else None,
            part=would[1] if would else "",
        )
        around = Circumstances(self.profile, self.simulation.scheme, self.samples)
        return self._advised(_watched(layer, seen) if seen else layer, one.op.head, around)

    def _advised(self, layer: Layer, head: Node, around: Circumstances) -> Layer:
        around = replace(around, target=head.target)
        return replace(layer, odd=remedies.odd(layer), remedy=remedies.remedy(layer, around))

    def _around(self, one: Measured) -> Circumstances:
        seen, value = one.watched, one.source.value
        reach = 0.0
        if seen.low is not None and seen.high is not None:
            reach = max(-float(seen.low.min()), float(seen.high.max()))
        leaves = self.floats_selectable and value in self.simulation.outputs
        joined = tuple(dict.fromkeys(layer_of(node) for node in one.source.joined))
        return Circumstances(self.profile, self.simulation.scheme, self.samples, leaves, joined, reach)

    def _operator(self, source: Source) -> str:
        if source.op is not None:
            return source.op.kind or str(source.op.head.target)
        if source.value.op == "placeholder":
            return "input"
        return "constant" if source.value.op == "get_attr" else "float value"

    def _range(self, node: Node) -> Range | None:
        seen, grid = self.simulation.statistics.get(node.name), self.simulation.decided.scales.values.get(node)
        if seen is None or grid is None:
            return None
        low, high = ((end - grid.zero_point) * grid.scale for end in (grid.low, grid.high))
        return Range(minimum=seen.minimum, maximum=seen.maximum, low=low, high=high, scale=grid.scale)

    def _done(self, op: Op | None) -> tuple[str, ...]:
        if op is None or op.weight is None:
            return ()
        name = str(op.weight.target)
        before, now = self.weights.get(name), attribute(self.simulation.module, name)
        equalized = before is not None and before.shape == now.shape and not bool((before == now).all())
        rounded = self.simulation.rounded(op) is not None
        return (*(["equalized"] if equalized else []), *(["rounded against data"] if rounded else []))


def kept_in_float(simulation: Simulation, profile: TargetProfile) -> list[Kept]:
    """The operators that the planner lists as left in float, with their nodes."""
    made = {op.output for op in simulation.decided.integer}
    waiting = [op for op in operators(simulation.module.graph, frozenset(profile.operators.fused)) if op.output not in made]
    found = []
    for kept in simulation.decided.kept_float:
        place = next(index for index, op in enumerate(waiting) if _is(op, kept.layer, kept.operator))
        op = waiting[place]
        waiting = waiting[place + 1 :]
        seen = simulation.statistics.get(op.output.name)
        could = op.kind in profile.operators.integer or op.head.target in JOINS
        found.append(Kept(op, kept.reason, qparams(seen, simulation.scheme) if could and seen is not None else None))
    return found


def watchable(kept: list[Kept]) -> list[Node]:
    """Results of operators in float whose values are worth a look."""
    return [one.op.output for one in kept if one.grid is not None and is_float(one.op.output)]


def worst_layers(measured: Measurements, most: int = 3) -> tuple[Source, ...]:
    """Those in integers that cost most alone."""
    return tuple(one.source for one in measured.each if one.alone is not None)[:most]


def line_of(node: Node) -> str:
    """The user's line that ``node`` comes from; empty where it is not known."""
    return line_in(node.meta.get("stack_trace") or "")


def _ordered(simulation: Simulation, found: dict[Node, Layer]) -> tuple[Layer, ...]:
    """The worst first; where others only pass an outlier channel on, the layer that it comes from is as bad as they are."""
    places = {node: place for place, node in enumerate(simulation.module.graph.nodes)}
    costs = {node: layer.alone for node, layer in found.items() if layer.alone is not None}
    named = dict(found)
    for node in sorted(found, key=places.__getitem__):
        origin = _origin(node, found, places)
        if origin is node:
            continue
        if node in costs and origin in costs:
            costs[origin] = min(costs[origin], costs[node])
        said = f"it has channel {found[node].outliers[0].channel} from {found[origin].layer}"
        named[node] = replace(found[node], odd=(*found[node].odd, said))
    known = by_cost([(cost, places[node], named[node]) for node, cost in costs.items()])
    return (*known, *(layer for node, layer in named.items() if node not in costs))


def _origin(node: Node, found: Mapping[Node, Layer], places: Mapping[Node, int]) -> Node:
    """The first layer before ``node`` in whose result the same channel stands out, through operators without weights."""
    channels = {one.channel for one in found[node].outliers[:1]}
    alike, waiting = [node], list(node.all_input_nodes) if kind_of(node) not in HEAVY and channels else []
    for before in waiting:
        layer = found.get(before)
        carries = layer is not None and bool(channels & {one.channel for one in layer.outliers})
        if carries:
            alike.append(before)
        if (layer is None or carries) and kind_of(before) not in HEAVY:
            waiting += before.all_input_nodes
    return min(alike, key=places.__getitem__)


def _is(op: Op, layer: str, operator: str) -> bool:
    return layer_of(op.head) == layer and (op.kind or str(op.head.target)) == operator


def _watched(layer: Layer, seen: Watched) -> Layer:
    return replace(
        layer,
        clipped=seen.clipped / seen.count if seen.count else None,
        saturated=seen.saturated / seen.count if seen.count and seen.clips else None,
        channels=len(seen.low) if seen.low is not None else None,
        dead=seen.dead,
        outliers=seen.outliers,
    )
