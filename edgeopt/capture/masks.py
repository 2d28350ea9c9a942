"""The huge constants that switch elements off: made small enough for 8 and 16 bits where a softmax takes them, else kept."""

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeopt.capture.graph_tensors import add_tensor, is_constant, tensor_at

aten = torch.ops.aten

MASK_LIMIT = 3e4
"""What stands in for -3.4e38 and -inf: far below every score, and still a float16, even when two masks add up."""
_HUGE = 1e30
_SMALLEST_FACTOR = 1 / 64  # 3e4 / 64 is still beyond where exp gives 0

_BOUNDING = {aten.softmax, aten._softmax, aten._safe_softmax, aten.exp, aten.sigmoid, aten.tanh}
"""Operators that give for -3e4 what they give for -inf."""
_SCALING = {aten.mul, aten.div}
_MASKING = {aten.where, aten.masked_fill, aten.full, aten.full_like, aten.scalar_tensor, aten.fill, aten.mul}
_MOVING = {
    aten.add, aten.sub, aten.where, aten.masked_fill, aten.amax, aten.minimum, aten.maximum, aten.triu, aten.tril,
    aten.reshape, aten.view, aten._unsafe_view, aten.flatten, aten.unflatten, aten.permute, aten.transpose, aten.t,
    aten.unsqueeze, aten.squeeze, aten.expand, aten.expand_as, aten.repeat, aten.slice, aten.select, aten.narrow, aten.cat,
    aten.stack, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.clone, aten.contiguous, aten.alias,
    aten.detach, aten.lift_fresh_copy, aten.to, aten._to_copy, aten.type_as, aten.index, aten.index_select, aten.gather,
    aten.copy, aten.slice_scatter, aten.select_scatter, aten.pad, aten.constant_pad_nd, aten.roll, aten.flip,
    aten.dropout, aten._assert_tensor_metadata,
}  # fmt: skip
"""Operators through which a mask stays a mask."""


def limit_masks(module: GraphModule) -> int:
    """Masks beyond 1e30 become 3e4 where everything they reach ends in a softmax or the like; how many were changed."""
    changed = 0
    for node in list(module.graph.nodes):
        if _holds_huge(module, node) and _is_bounded(node):
            _limit(module, node)
            changed += 1
    module.recompile()
    return changed


def masked_outputs(module: GraphModule) -> set[int]:
    """Which outputs, by position, a mask beyond 1e30 reaches without a bound: infinity may be right there."""
    reached: set[Node] = set()
    for node in module.graph.nodes:
        if _has_huge(module, node) or (any(source in reached for source in node.all_input_nodes) and not _is(node, _BOUNDING)):
            reached.add(node)
    outputs: Any = module.graph.output_node().args[0]
    return {index for index, output in enumerate(outputs) if output in reached}


def _has_huge(module: GraphModule, node: Node) -> bool:
    """Whether ``node`` holds such a number, stored or among its arguments."""
    if is_constant(module, node):
        value = tensor_at(module, str(node.target))
        return value.is_floating_point() and bool((value.abs() > _HUGE).any())
    return node.op == "call_function" and any(map(_is_huge, node.args))


def _holds_huge(module: GraphModule, node: Node) -> bool:
    return _has_huge(module, node) and (node.op == "get_attr" or _is(node, _MASKING))


def _is_huge(argument: object) -> bool:
    return isinstance(argument, float) and abs(argument) > _HUGE


def _is(node: Node, operators: set[Any]) -> bool:
    return getattr(node.target, "overloadpacket", None) in operators


def _is_bounded(start: Node) -> bool:
    pending, seen = [start], {start}
    while pending:
        for user in pending.pop().users:
            if user in seen or _is(user, _BOUNDING):
                continue
            if not _passes(user):
                return False
            seen.add(user)
            pending.append(user)
    return True


def _passes(node: Node) -> bool:
    if _is(node, _SCALING):
        factors = [abs(argument) for argument in node.args if isinstance(argument, int | float)]
        factors = [1 / factor for factor in factors if factor] if _is(node, {aten.div}) else factors
        return all(factor >= _SMALLEST_FACTOR for factor in factors)
    return _is(node, _MOVING) or "getitem" in str(node.target)


def _limit(module: GraphModule, node: Node) -> None:
    if node.op == "get_attr":
        value = tensor_at(module, str(node.target))
        limited = add_tensor(module, node, "_mask", value.detach().clamp(-MASK_LIMIT, MASK_LIMIT))
        limited.meta = dict(node.meta)
        node.replace_all_uses_with(limited)
        module.graph.erase_node(node)
        return
    for index, argument in enumerate(node.args):
        if _is_huge(argument):
            node.update_arg(index, math.copysign(MASK_LIMIT, argument))  # type: ignore[arg-type]
