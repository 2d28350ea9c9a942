"""Batch norms with stored statistics disappear into the convolution before them, or become one multiplication and one addition.

Both are exact but for rounding; scale and offset are computed in float64.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeopt.capture.graph_tensors import add_tensor, argument, is_constant, set_tensor, tensor_at

aten = torch.ops.aten

_PLAIN = {
    aten.conv1d.default: 3, aten.conv1d.padding: 3, aten.conv2d.default: 4, aten.conv2d.padding: 4,
    aten.conv3d.default: 5, aten.conv3d.padding: 5,
}  # fmt: skip
"""Convolutions, and how many axes their results have with a batch."""
_TRANSPOSED = {aten.conv_transpose1d.default: 3, aten.conv_transpose2d.input: 4, aten.conv_transpose3d.input: 5}
_FOLDS = {**_PLAIN, **_TRANSPOSED, aten.linear.default: 2}


@dataclass(frozen=True, slots=True)
class Norm:
    """``node``, a norm in the graph: ``result`` = ``source`` * ``scale`` + ``offset`` along axis 1."""

    node: Node
    result: Node
    scale: Tensor
    offset: Tensor

    @property
    def source(self) -> Node:
        """What is normalised: another node once an earlier norm has gone."""
        found = argument(self.node, "input")
        assert isinstance(found, Node)
        return found


def fold_batch_norms(module: GraphModule) -> tuple[str, ...]:
    """Folds every norm where the convolution's result has no other reader, and opens up the others.

    A weight that others read too stays theirs: the folded convolution gets a copy of its own. Returns the names of those.
    """
    copied: list[str] = []
    for norm in list(_norms(module)):
        if _can_take(norm, module):
            copied += _fold(norm, module)
        else:
            _open_up(norm, module)
        for gone in dict.fromkeys((norm.result, norm.node)):
            if not gone.users:
                module.graph.erase_node(gone)
    module.graph.eliminate_dead_code()
    module.recompile()
    return tuple(copied)


def _norms(module: GraphModule) -> Iterator[Norm]:
    for node in module.graph.nodes:
        if node.target is aten._native_batch_norm_legit_no_training.default:
            results = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
        elif node.target is aten.instance_norm.default and not argument(node, "use_input_stats"):
            results = [node]
        else:
            continue
        stored = [argument(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
        if all(value is None or is_constant(module, value) for value in stored):
            values = [None if value is None else tensor_at(module, str(value.target)).detach().double() for value in stored]
            scale, offset = _affine(values, argument(node, "eps"))
            yield from (Norm(node, result, scale, offset) for result in results)


def _affine(stored: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    weight, bias, mean, variance = stored
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _can_take(norm: Norm, module: GraphModule) -> bool:
    """Whether the norm alone reads the result of a convolution (or linear layer) whose weight and bias are stored."""
    layer = norm.source
    if layer.target not in _FOLDS or list(layer.users) != [norm.node]:
        return False
    bias = argument(layer, "bias")
    if not is_constant(module, argument(layer, "weight")) or not (bias is None or is_constant(module, bias)):
        return False
    shape = layer.meta["val"].shape
    return len(shape) == _FOLDS[layer.target] and shape[1] == norm.scale.numel()


def _fold(norm: Norm, module: GraphModule) -> list[str]:
    """The weight's name where it had to be copied."""
    layer = norm.source
    weight_node, bias_node = argument(layer, "weight"), argument(layer, "bias")
    weight = tensor_at(module, str(weight_node.target))
    folded = weight.detach().double() * _along(norm.scale, weight, layer)
    offset = norm.offset
    if bias_node is not None:
        offset = offset + tensor_at(module, str(bias_node.target)).detach().double() * norm.scale
    stored = [
        _store(module, layer, weight_node, folded.to(weight.dtype)),
        _store(module, layer, bias_node, offset.to(weight.dtype)),
    ]
    layer.args = (layer.args[0], *stored, *layer.args[3:])
    layer.kwargs = {name: value for name, value in layer.kwargs.items() if name not in ("weight", "bias")}
    norm.result.replace_all_uses_with(layer)
    return [str(weight_node.target).removeprefix("module.")] if stored[0] is not weight_node else []


def _along(scale: Tensor, weight: Tensor, layer: Node) -> Tensor:
    """``scale`` along the output channels of ``weight``: axis 0, or axis 1 within each group of a transposed convolution."""
    if layer.target not in _TRANSPOSED:
        return scale.view(-1, *[1] * (weight.dim() - 1))
    groups = int(argument(layer, "groups"))
    of_group = scale.view(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return of_group.reshape(weight.shape[0], -1, *[1] * (weight.dim() - 2))


def _store(module: GraphModule, reader: Node, before: Node | None, value: Tensor) -> Node:
    """``value`` in the place of the tensor that ``before`` gives, or beside it where ``reader`` is not its only reader."""
    own = (
        before is not None
        and sum(len(n.users) for n in module.graph.nodes if (n.op, n.target) == ("get_attr", before.target)) == 1
    )
    if own:
        assert before is not None
        set_tensor(module, str(before.target), value)
        before.meta.pop("val", None)
        return before
    return add_tensor(module, reader, "_norm", value)


def _open_up(norm: Norm, module: GraphModule) -> None:
    value = norm.source.meta["val"]
    shape = (1, -1, *[1] * (value.dim() - 2))
    with module.graph.inserting_before(norm.result):
        scale = add_tensor(module, norm.result, "_norm", norm.scale.float().view(shape))
        offset = add_tensor(module, norm.result, "_norm", norm.offset.float().view(shape))
        product = module.graph.call_function(aten.mul.Tensor, (norm.source, scale))
        result = module.graph.call_function(aten.add.Tensor, (product, offset))
    for made in (product, result):
        made.meta = dict(norm.result.meta)
    norm.result.replace_all_uses_with(result)
