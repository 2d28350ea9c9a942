"""Computes once, at capture, what depends on weights alone: weight norms, position indices, masks of fixed shape."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.capture.graph_tensors import add_tensor, is_constant, tensor_at

MOST_ELEMENTS = 1 << 22
"""Larger results stay computed: a folded constant is stored in every artifact."""


def fold(module: GraphModule) -> int:
    """Replaces operators without any input from outside by their values; how many constants that made.

    Only what a non-constant operator uses becomes a constant; the operators before it disappear.
    """
    values: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            if is_constant(module, node):
                values[node] = tensor_at(module, str(node.target))
        elif _is_foldable(node, values):
            result = _compute(node, values)
            if result is not None:
                values[node] = result
    frontier = [node for node in values if node.op == "call_function" and isinstance(values[node], Tensor)]
    frontier = [node for node in frontier if any(user not in values for user in node.users)]
    for node in frontier:
        constant = add_tensor(module, node, "_folded", values[node])
        constant.meta = {"val": node.meta.get("val")}
        node.replace_all_uses_with(constant)
        module.graph.erase_node(node)
    if frontier:
        module.graph.eliminate_dead_code()
        module.recompile()
    return len(frontier)


def _is_foldable(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or any(argument not in values for argument in node.all_input_nodes):
        return False
    schema = getattr(node.target, "_schema", None)
    tags = getattr(node.target, "tags", ())
    return not (schema is not None and schema.is_mutable) and torch.Tag.nondeterministic_seeded not in tags


def _compute(node: Node, values: dict[Node, Any]) -> Any:
    value = node.meta.get("val")
    if isinstance(value, Tensor) and value.numel() > MOST_ELEMENTS:
        return None
    arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda argument: values[argument])
    with torch.no_grad():
        return node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
