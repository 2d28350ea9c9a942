"""What a program computes with some of its operators in integers, in floats: each value and weight goes through its own grid.

Nothing is prepared, converted or exported for it, so that which operators are in integers can be varied by the hundred (the
sensitivity analysis of Nagel et al., 2021, arXiv:2106.08295, section 3.7). With all of them it computes what
:func:`edgeopt.quantize.annotate.quantize` makes, but for sums whose rounding falls the other way.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from edgeopt.core import QuantScheme
from edgeopt.quantize.annotate import channel_axis, one_bias_each, rounded_weight, weight_bound
from edgeopt.quantize.graph import Op
from edgeopt.quantize.opening import opened
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.ranges import QParams
from edgeopt.quantize.rounding import WEIGHT_EPS, Moments
from edgeopt.quantize.statistics import Statistics, attribute
from edgeopt.targets.schema import TargetProfile

Values = dict[Node, Any]
"""What every node of the module gave."""
Grids = Mapping[Node, QParams | None]


@dataclass(frozen=True, slots=True)
class Simulation:
    """``module``, in floats, with what was decided for one target.

    ``moments``: by which weights are rounded. ``weights``: of layers, on their grids, as they are asked for.
    """

    module: GraphModule
    decided: Quantization
    scheme: QuantScheme
    moments: Moments = field(default_factory=Moments)
    weights: dict[Node, Tensor] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)
    """Of the module's values, as the scales were made from them."""

    @property
    def outputs(self) -> list[Node]:
        """The nodes that the module returns."""
        return list(self.module.graph.output_node().all_input_nodes)

    def run(
        self,
        sample: tuple[Tensor, ...],
        integer: Collection[Op],
        known: Mapping[Node, Any] | None = None,
        grids: Grids | None = None,
    ) -> Values:
        """All values for one sample of flat inputs, with the operators ``integer`` in integers and the rest in floats.

        ``known``: values of an earlier run that are taken as they are. ``grids``: what these values are rounded to where they
        are made and wherever they are read, instead of their own; None: they stay as they are.
        """
        run = _Run(self, integer, grids or {})
        with torch.no_grad():
            run.run(*sample, initial_env=dict(known or {}), enable_io_processing=False)
        return run.env

    def behind(self, op: Op) -> set[Node]:
        """Every node whose value may change with what ``op`` is computed in."""
        return self.behind_all((op.head, op.carrier, op.output))

    def behind_all(self, nodes: Iterable[Node]) -> set[Node]:
        """``nodes``, and every node that is computed from one of them."""
        found = set(nodes)
        for node in self.module.graph.nodes:
            if any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def rounded(self, op: Op) -> Tensor | None:
        """The weight of ``op`` where it is rounded against data, not to the nearest."""
        return rounded_weight(self.module, op, self.scheme, self.moments)

    def weight(self, op: Op) -> Tensor:
        """The weight of ``op`` on its grid, float32."""
        assert op.weight is not None
        if op.weight not in self.weights:
            rounded = self.rounded(op)
            weight = attribute(self.module, str(op.weight.target)).detach() if rounded is None else rounded
            scale, bound = self.weight_scale(op, weight), weight_bound(self.scheme)
            self.weights[op.weight] = (weight / scale).round().clamp(-bound, bound) * scale
        return self.weights[op.weight]

    def weight_scale(self, op: Op, weight: Tensor) -> Tensor:
        """The step of its grid, float32, of as many axes as ``weight``."""
        axis = channel_axis(op)
        others = [each for each in range(weight.dim()) if each != axis or not self.scheme.per_channel]
        return (weight.abs().amax(others, keepdim=True) / weight_bound(self.scheme)).clamp(min=WEIGHT_EPS)


def simulation_of(
    program: ExportedProgram,
    statistics: Statistics,
    profile: TargetProfile,
    scheme: QuantScheme,
    io_float: bool,
    moments: Moments | None = None,
    kept: Mapping[str, str] | None = None,
) -> Simulation:
    """What :func:`edgeopt.quantize.annotate.quantize` would make of the same arguments."""
    module, statistics = opened(program.module(check_guards=False), statistics, profile)
    one_bias_each(module)
    decided = decide(module, statistics, profile, scheme, io_float, kept)
    return Simulation(module, decided, scheme, moments or Moments(), statistics=statistics)


def but(values: Values, changed: Collection[Node]) -> Values:
    """``values`` without those of ``changed``: what is known for a run in which these become others."""
    return {node: value for node, value in values.items() if node not in changed}


def on_grid(value: Tensor, parameters: QParams) -> Tensor:
    """``value`` rounded to integers of that scale, clipped to their range, as floats."""
    integers = (value / parameters.scale).round() + parameters.zero_point
    return (integers.clamp(parameters.low, parameters.high) - parameters.zero_point) * parameters.scale


class _Run(Interpreter):
    def __init__(self, simulation: Simulation, integer: Collection[Op], grids: Grids) -> None:
        super().__init__(simulation.module, garbage_collect_values=False)
        self._simulation, self._scales, self._grids = simulation, simulation.decided.scales, grids
        self._reading = {op.carrier: op for op in integer} | {op.head: op for op in integer}
        own = simulation.decided.outputs
        border = own.difference(op.output for op in simulation.decided.integer) if integer else frozenset()
        self._rounded = own.intersection(op.output for op in integer) | border

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if node not in self._rounded and node not in self._grids:
            return value
        grid = self._grids.get(node, self._scales.values.get(node))
        return value if grid is None else on_grid(value, grid)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        op = self._reading.get(n)
        read: Callable[[Node], Any] = self.env.__getitem__ if op is None else lambda operand: self._read(op, n, operand)
        return map_arg(args, read)

    def _read(self, op: Op, node: Node, operand: Node) -> Any:
        if operand is op.weight:
            return self._simulation.weight(op)
        if operand in op.operands and node is op.carrier:
            grid = self._grids[operand] if operand in self._grids else self._scales.of(op, operand)
            return self.env[operand] if grid is None else on_grid(self.env[operand], grid)
        if node is op.head and op.weight is not None and self._simulation.scheme.bias == "int32":
            return self._bias(op, self.env[operand])
        return self.env[operand]

    def _bias(self, op: Op, bias: Tensor) -> Tensor:
        """In steps of input times weight, as the accumulator counts."""
        weight = attribute(self._simulation.module, str(op.weight.target)).detach()  # type: ignore[union-attr]
        step = self._simulation.weight_scale(op, weight).flatten() * self._scales.of(op, op.operands[0]).scale
        return (bias / step).round() * step
