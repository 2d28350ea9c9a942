"""Activations written out in operators that the target's integer kernels are fast with, for one target at a time."""

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from edgeopt.capture.operator_kinds import is_float, kind_of
from edgeopt.quantize.statistics import Histogram, Statistics
from edgeopt.targets.schema import OperatorKind, TargetProfile

aten = torch.ops.aten
_UNIT, _SIX = (0.0, 1.0), (0.0, 6.0)


class _Writer:
    """Writes operators before ``node`` with its origin and shape; ranges that are known need no calibration."""

    def __init__(self, graph: Graph, node: Node, statistics: Statistics) -> None:
        self._graph, self._node, self._statistics = graph, node, statistics

    def __call__(self, target: Any, *args: Any, within: tuple[float, float] | None = None) -> Node:
        with self._graph.inserting_before(self._node):
            written = self._graph.call_function(target, args)
        written.meta = copy(self._node.meta)
        if within is not None:
            histogram = Histogram.of(torch.linspace(*within, 1024))
            assert histogram is not None
            self._statistics[written.name] = histogram
        return written


def _hardswish(write: _Writer, x: Node) -> Node:
    """x * relu6(x + 3) / 6."""
    gate = write(aten.hardtanh.default, write(aten.add.Tensor, x, 3.0), 0.0, 6.0, within=_SIX)
    return write(aten.mul.Tensor, x, write(aten.mul.Tensor, gate, 1 / 6, within=_UNIT))


def _silu(write: _Writer, x: Node) -> Node:
    """x * sigmoid(x)."""
    return write(aten.mul.Tensor, x, write(aten.sigmoid.default, x, within=_UNIT))


_WRITTEN_OUT: dict[OperatorKind, Callable[[_Writer, Node], Node]] = {"hardswish": _hardswish, "silu": _silu}


def opened(module: GraphModule, statistics: Statistics, profile: TargetProfile) -> tuple[GraphModule, Statistics]:
    """``module`` with the activations of ``operators.opened`` written out, and the statistics of their parts.

    ``module`` itself where it has none; it is never changed.
    """
    kinds = set(profile.operators.opened)
    if not any(kind_of(node) in kinds for node in module.graph.nodes):
        return module, statistics
    graph, copies = Graph(), dict[Node, Node]()
    graph.output(graph.graph_copy(module.graph, copies))
    statistics = dict(statistics)
    for node in list(graph.nodes):
        kind = kind_of(node)
        if kind not in kinds or not is_float(node) or len(node.args) != 1:
            continue
        result = _WRITTEN_OUT[kind](_Writer(graph, node, statistics), node.args[0])
        if node.name in statistics:
            statistics[result.name] = statistics[node.name]
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    return GraphModule(module, graph), statistics
