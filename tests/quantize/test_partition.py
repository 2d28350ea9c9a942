from dataclasses import replace
from itertools import product
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Graph, Node

from edgeopt.capture.operator_kinds import HEAVY, PASS_THROUGH, elements, macs
from edgeopt.quantize.costs import PASS_THROUGH_GAIN, OperatorCosts
from edgeopt.quantize.graph import Op, operators
from edgeopt.quantize.partition import integer_operators
from edgeopt.targets import loader
from edgeopt.targets.schema import Costs, MeasuredCosts, TargetProfile

aten = torch.ops.aten
PROFILE = replace(loader.load("arm-xnnpack"), costs=Costs(quantize=1.0, dequantize=1.0, element_gain=0.5, mac_gain=0.1))
BINARY = [aten.add.Tensor, aten.matmul.default, aten.cat.default]
UNARY = [aten.relu.default, aten.reshape.default, aten.sigmoid.default]


def value(graph: Graph, node: Node, size: int) -> Node:
    node.meta["val"] = torch.empty(1, size, device="meta")
    return node


@st.composite
def graphs(draw: Any) -> tuple[Graph, list[Node]]:
    """Up to eight operators of every cost class on random earlier values, with one or two outputs."""
    graph = Graph()
    nodes = [value(graph, graph.placeholder(f"x{i}"), draw(st.integers(1, 20))) for i in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(1, 8))):
        target = draw(st.sampled_from([*BINARY, *UNARY]))
        operands = [draw(st.sampled_from(nodes)) for _ in range(2 if target in BINARY else 1)]
        arguments = (operands,) if target is aten.cat.default else tuple(operands)
        nodes.append(value(graph, graph.call_function(target, arguments), draw(st.integers(1, 60))))
    outputs = list(dict.fromkeys((nodes[-1], draw(st.sampled_from(nodes)))))
    graph.output(tuple(outputs))
    return graph, outputs


def gain(op: Op, profile: TargetProfile) -> float:
    size = elements(op.output)
    if op.kind in HEAVY:
        return macs(op.head) * profile.costs.mac_gain + size * profile.costs.element_gain
    return size * (PASS_THROUGH_GAIN if op.kind in PASS_THROUGH else profile.costs.element_gain)


def cost(integer: set[Node], ops: list[Op], outputs: list[Node], profile: TargetProfile, io_float: bool) -> float:
    """What an assignment costs, said once more and differently: lost gains and one conversion per value and direction."""
    lost = sum(gain(op, profile) for op in ops if op.output not in integer)
    sides: dict[Node, set[bool]] = {}
    for op in ops:
        for operand in op.operands:
            sides.setdefault(operand, set()).add(op.output in integer)
    for node in outputs:
        sides.setdefault(node, set()).add(not io_float)
    free = {op.output for op in ops if op.kind in profile.operators.float_output}
    conversions = 0.0
    for node, users in sides.items():
        if node in integer and False in users and node not in free:
            conversions += elements(node) * profile.costs.dequantize
        if node not in integer and True in users:
            conversions += elements(node) * profile.costs.quantize
    return lost + conversions


@settings(deadline=None)
@given(graphs(), st.booleans(), st.booleans(), st.data())
def test_the_cut_costs_no_more_than_the_best_of_all_assignments(
    drawn: tuple[Graph, list[Node]], io_float: bool, free_exit: bool, data: Any
) -> None:
    graph, outputs = drawn
    profile = replace(PROFILE, operators=replace(PROFILE.operators, float_output=("matmul",) if free_exit else ()))
    ops = operators(graph, frozenset())
    allowed = {op.output for op in ops if data.draw(st.booleans() | st.just(True))}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    border = () if io_float else (*inputs, *outputs)
    chosen = integer_operators(ops, {op.output for op in ops} - allowed, inputs, (), outputs, profile, border)
    own = set() if io_float else set(inputs)
    assert chosen >= own
    assert chosen - own <= allowed
    free = sorted(allowed, key=str)
    best = min(
        cost(own | {node for node, taken in zip(free, choice, strict=True) if taken}, ops, outputs, profile, io_float)
        for choice in product((False, True), repeat=len(free))
    )
    assert abs(cost(chosen, ops, outputs, profile, io_float) - best) < 1e-6


def chain(*targets: Any, size: int = 100) -> tuple[list[Op], list[Node], list[Node]]:
    graph = Graph()
    node = first = value(graph, graph.placeholder("x"), size)
    for target in targets:
        node = value(graph, graph.call_function(target, (node, node) if target in BINARY else (node,)), size)
    graph.output(node)
    return operators(graph, frozenset()), [first], [node]


def test_a_light_operator_between_float_ones_stays_in_float() -> None:
    ops, inputs, outputs = chain(aten.sigmoid.default)
    assert integer_operators(ops, (), inputs, (), outputs, PROFILE, ()) == set()


def test_a_chain_with_a_heavy_operator_turns_integer_as_a_whole() -> None:
    ops, inputs, outputs = chain(aten.sigmoid.default, aten.matmul.default, aten.relu.default, aten.reshape.default)
    assert integer_operators(ops, (), inputs, (), outputs, PROFILE, ()) == {op.output for op in ops}


def test_integers_in_and_out_pull_a_light_operator_along() -> None:
    ops, inputs, outputs = chain(aten.sigmoid.default)
    assert integer_operators(ops, (), inputs, (), outputs, PROFILE, (*inputs, *outputs)) == {
        *inputs,
        ops[0].output,
    }


def test_a_constant_costs_no_conversion() -> None:
    graph = Graph()
    x, constant = value(graph, graph.placeholder("x"), 1), value(graph, graph.get_attr("c"), 1000)
    total = value(graph, graph.call_function(aten.add.Tensor, (x, constant)), 10)
    graph.output(total)
    ops = operators(graph, frozenset())
    assert total in integer_operators(ops, (), [x], [constant], [total], PROFILE, [x, total])


def test_an_operator_that_was_measured_slower_in_integers_stays_in_float() -> None:
    graph = Graph()
    x = value(graph, graph.placeholder("x"), 10)
    slow = value(graph, graph.call_function(aten.sigmoid.default, (x,)), 10)
    quick = value(graph, graph.call_function(aten.sigmoid.default, (slow,)), 10)
    graph.output((quick,))
    ops = operators(graph, frozenset())
    measured = MeasuredCosts(quantize=0.1, dequantize=0.1, unit=1.0, saved={slow.name: -5.0, quick.name: 5.0})
    profile = replace(PROFILE, costs=replace(PROFILE.costs, measured=measured))
    assert integer_operators(ops, (), [x], (), [quick], PROFILE, (x, quick)) == {x, slow, quick}
    assert integer_operators(ops, (), [x], (), [quick], profile, ()) == {quick}


def test_an_operator_that_was_not_measured_has_the_costs_of_the_profile_in_their_unit() -> None:
    graph = Graph()
    x = value(graph, graph.placeholder("x"), 10)
    total = value(graph, graph.call_function(aten.add.Tensor, (x, x)), 10)
    graph.output((total,))
    (op,) = operators(graph, frozenset())
    measured = MeasuredCosts(quantize=0.1, dequantize=0.2, unit=0.01)
    costs = OperatorCosts(replace(PROFILE, costs=replace(PROFILE.costs, measured=measured)))
    assert costs.gain(op) == 0.01 * OperatorCosts(PROFILE).gain(op)
    assert (costs.quantize(x), costs.dequantize(x)) == (1.0, 2.0)
