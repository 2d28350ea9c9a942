"""How much of a network is computed in integers: of its stored numbers, and of its multiply-accumulates; and what is not."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from edgeopt.capture import layer_of
from edgeopt.capture.macs import unfused
from edgeopt.capture.operator_kinds import HEAVY, elements, is_float, kind_of, macs, value_of
from edgeopt.core import KeptFloat
from edgeopt.quantize.graph import Op, operators


@dataclass(frozen=True, slots=True)
class Shares:
    """Between 0 and 1: ``weights`` of all stored numbers belong to integer operators, ``macs`` of the work is theirs."""

    weights: float
    macs: float


@dataclass(frozen=True, slots=True)
class Left:
    """Layers whose weights stay floats where weights alone are quantized, and their share of the work, between 0 and 1."""

    kept: tuple[KeptFloat, ...]
    macs: float


def left(graph: Graph, reasons: Iterable[tuple[Node, str]]) -> Left:
    """What stays of ``graph``: operators with why they do."""
    listed = list(reasons)
    nodes = {node for node, _ in listed}
    work = {op.head: _macs(op) for op in operators(graph, frozenset())}
    whole, theirs = sum(work.values()), sum(macs for node, macs in work.items() if node in nodes)
    kept = (KeptFloat(layer=layer_of(node), operator=kind_of(node) or str(node.target), reason=why) for node, why in listed)
    return Left(tuple(kept), theirs / whole if whole else 0.0)


def integer_shares(module: GraphModule, ops: Iterable[Op], integer: Collection[Node]) -> Shares:
    """The shares of the operators whose outputs are in ``integer``; 1 of nothing."""
    weights, work = [0, 0], [0, 0]
    seen: set[str] = set()
    for op in ops:
        constants = [node for node in op.head.all_input_nodes if node.op == "get_attr" and is_float(node)]
        stored = sum(elements(node) for node in constants if str(node.target) not in seen)
        seen |= {str(node.target) for node in constants}
        computed = _macs(op)
        for count, amount in ((weights, stored), (work, computed)):
            count[0] += amount
            count[1] += amount if op.output in integer else 0
    return Shares(*(done / whole if whole else 1.0 for whole, done in (weights, work)))


def _macs(op: Op) -> int:
    if op.kind in HEAVY:
        return macs(op.head)
    return _counted(op.head) if op.kind is None and len(op.head.all_input_nodes) > 1 else 0


def _counted(node: Node) -> int:
    """Multiply-accumulates of an operator that has no kind, a whole recurrent layer among them; 0 where it cannot tell."""
    args, kwargs = pytree.tree_map_only(Node, value_of, (node.args, node.kwargs))
    mode = next((value.fake_mode for value in pytree.tree_leaves((args, kwargs)) if hasattr(value, "fake_mode")), None)
    if mode is None or not isinstance(node.target, torch._ops.OpOverload):
        return 0
    counter = FlopCounterMode(display=False)
    target: Any = node.target
    try:
        with torch.no_grad(), unfused(), mode, counter:
            target(*args, **kwargs)
    except Exception:  # operators without a fake implementation: their work is not known
        return 0
    return counter.get_total_flops() // 2
