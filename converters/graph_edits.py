"""What rewritings for one format share: constants behind Q/DQ, and operators that only move values put behind them.

They work on float programs and on quantized ones. In those a value is ``dequantize(quantize(x))``, and so is a weight; what
moves values must stand between integers of the same scale, or the format computes it in floats.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten
_ACTIVATIONS = (aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
"""What formats fuse into the operator before it: for each element on its own, so that moving values commutes with it."""


def call(graph: Graph, like: Node, target: Any, *arguments: Any, **named: Any) -> Node:
    """A call at the graph's insertion point, in the layer of ``like``; its shape is known when the graph is exported again."""
    node = graph.call_function(target, arguments, named)
    node.meta = {key: like.meta[key] for key in ("nn_module_stack", "stack_trace") if key in like.meta}
    return node


def argument(node: Node, name: str) -> Any:
    """The argument of an ATen call by its name in the operator's schema, the default where it is not given."""
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name == name:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(name)
            return declared.default_value if given is None and position >= len(node.args) else given
    raise KeyError(name)


def sizes(node: Node, name: str, count: int) -> list[int]:
    """A list of integers among the arguments, one for each of ``count`` axes."""
    given = argument(node, name)
    found = [int(given)] if isinstance(given, int) else [int(size) for size in given]
    return found * count if len(found) == 1 else found


def move_after(graph: Graph, node: Node, move: Callable[[Node], Node]) -> None:
    """Puts ``move``, which only moves values, behind ``node``: behind its activation and its Q/DQ, where it has them."""
    while len(node.users) == 1 and (user := next(iter(node.users))).target in _ACTIVATIONS and user.args[0] is node:
        node = user
    for quantize in [user for user in node.users if _is(user, "quantize")]:
        for dequantize in [user for user in quantize.users if _is(user, "dequantize")]:
            _insert(graph, dequantize, list(dequantize.users), lambda value: requantized(graph, move(value), value))
    rest = [user for user in node.users if not _is(user, "quantize")]
    if rest:
        _insert(graph, node, rest, move)


def _insert(graph: Graph, value: Node, users: Iterable[Node], build: Callable[[Node], Node]) -> None:
    with graph.inserting_before(value.next):
        result = build(value)
    for user in users:
        user.replace_input_with(value, result)


def requantized(graph: Graph, moved: Node, like: Node) -> Node:
    """``moved`` through the quantization of ``like`` where that is a dequantize node; else itself."""
    if not _is(like, "dequantize"):
        return moved
    quantize: Any = like.args[0]
    integers = call(graph, moved, quantize.target, moved, *quantize.args[1:])
    return call(graph, moved, like.target, integers, *like.args[1:], **like.kwargs)


def _is(node: Node, kind: str) -> bool:
    return str(node.target).startswith(f"quantized_decomposed.{kind}_per_tensor")


def change_constant(module: GraphModule, node: Node, position: int, change: Callable[[Tensor], Tensor]) -> bool:
    """Argument ``position`` of ``node`` becomes ``change`` of the constant that it is, through Q/DQ where it has them.

    ``change`` moves values or adds zeros, so that scales along the axes that it keeps stay right. Other readers of the constant
    keep what they had. False, and nothing is changed, where the argument is computed at run time.
    """
    chain: list[Node] = []
    value: Any = node.args[position]
    while value.op == "call_function" and "quantized_decomposed" in str(value.target):
        chain.append(value)
        value = value.args[0]
    if value.op != "get_attr":
        return False
    graph = module.graph
    name = f"_{node.name}_argument_{position}"
    changed = change(attribute(module, str(value.target)).detach()).contiguous()
    module.register_buffer(name, changed)
    with graph.inserting_before(node):
        new = graph.get_attr(name)
        for old in reversed(chain):
            new = call(graph, old, old.target, new, *old.args[1:], **old.kwargs)
    node.update_arg(position, new)
    return True


def attribute(module: GraphModule, path: str) -> Tensor:
    """The tensor of a ``get_attr`` node."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found
