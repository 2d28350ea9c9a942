"""A profile's costs from a table of latencies: what each layer of a model saves in integers on one device, in microseconds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch.export import ExportedProgram

from edgeopt.capture import layer_calls
from edgeopt.capture.operator_kinds import HEAVY
from edgeopt.errors import ConfigError
from edgeopt.model.latency_table import LatencyTable, LayerTime
from edgeopt.quantize.costs import OperatorCosts
from edgeopt.quantize.graph import Op, operators
from edgeopt.targets.schema import MeasuredCosts, TargetProfile

US = 1000.0
"""In a millisecond."""
SAVED = 0.5
"""Of a layer's time in floats, what the profile's costs mean by its gain: by this they are turned into microseconds."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """An operator with weights, the text of its layer, and its times where the table has both."""

    op: Op
    call: str
    time: LayerTime | None


def with_table(profile: TargetProfile, program: ExportedProgram, table: LatencyTable, name: str) -> TargetProfile:
    """``profile`` with the costs of ``table``, called ``name``, for the captured ``program``.

    Layers that the table lacks, light operators and conversions have the profile's costs, in the same unit. Raises ConfigError
    where the table has no layer of the program in integers and in floats.
    """
    layers = list(_layers(profile, program, {entry.call: entry for entry in table.layers}))
    known = [(layer.op, layer.time) for layer in layers if layer.time is not None]
    floats = sum(time.float_ms or 0.0 for _, time in known) * US
    assumed = sum(OperatorCosts(replace(profile, costs=replace(profile.costs, measured=None))).gain(op) for op, _ in known)
    unit = SAVED * floats / assumed if assumed else 0.0
    if not unit:
        where = f"--layers TABLE --target {profile.name} --device {table.device}"
        why = "it has no layer with weights of this model that was measured both in integers and in floats"
        fix = f"measure this model's: edgeopt bench MODEL {where}, with a new file"
        raise ConfigError(f"{name} has no costs for this model on {profile.name}", why=why, fix=fix)
    measured = MeasuredCosts(
        quantize=unit * profile.costs.quantize,
        dequantize=unit * profile.costs.dequantize,
        unit=unit,
        saved={op.output.name: ((time.float_ms or 0.0) - time.ms) * US for op, time in known},
        source=_source(name, table, layers),
    )
    return replace(profile, costs=replace(profile.costs, measured=measured))


def _layers(profile: TargetProfile, program: ExportedProgram, times: dict[str, LayerTime]) -> Iterator[_Layer]:
    module = program.module(check_guards=False)
    ops = {op.head.name: op for op in operators(module.graph, frozenset(profile.operators.fused)) if op.kind in HEAVY}
    inputs = set(program.graph_signature.user_inputs)
    constants = {node for node in program.graph.find_nodes(op="placeholder") if node.name not in inputs}
    for nodes in layer_calls.layers(program.graph, constants):
        op = ops.get(nodes[0].name)
        if op is not None and op.kind in profile.operators.integer:
            call = layer_calls.call(nodes)
            entry = times.get(call)
            yield _Layer(op, call, entry if entry is not None and entry.float_ms is not None else None)


def _source(name: str, table: LatencyTable, layers: list[_Layer]) -> str:
    unknown = list(dict.fromkeys(layer.call for layer in layers if layer.time is None))
    shown = "; ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    lacking = f"; not in it, so with the profile's costs: {shown}" if unknown else ""
    known = sum(layer.time is not None for layer in layers)
    told = f"{name}, measured on {table.device} with {table.threads} thread{'s' * (table.threads > 1)}"
    return f"{told}: {known} of {len(layers)} layers with weights{lacking}"
