"""Narrower copies of Hugging Face models: built from a smaller configuration, filled with the teacher's weightiest slices.

Heads keep their size and become fewer. Of the residual stream and of each layer's MLP those entries stay whose weights have the
largest squares, the same ones in every tensor that has the axis.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.compress.common.attention import put
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.head_layouts import AttentionLayer, attention_layers, is_transposed, keep_inputs, weight_of
from edgeopt.compress.common.pretrained import HEAD_SETTINGS, MLP_SETTINGS, outermost
from edgeopt.compress.distill.student_width import scaled
from edgeopt.errors import CompressionError
from edgeopt.model.user_code import summary

LIKE_HIDDEN = ("word_embed_proj_dim",)
"""OPT's embeddings have the hidden size, or one of their own."""
Axis = tuple[str, int, int]
"""What an axis is: the layer it belongs to ("" for the residual stream), its size in the teacher and in the student."""


def narrowed_models(teacher: nn.Module, width: float, multiple: int) -> nn.Module:
    """A copy of ``teacher`` with every Hugging Face model in it narrower; linear layers behind them take fewer inputs.

    Raises CompressionError where such a model cannot be made from a narrower configuration.
    """
    student = copied(teacher)
    for path, model in outermost(student):
        narrow, hidden, kept = _narrowed(model, width, multiple)
        student = put(student, path, narrow)
        inside = {id(child) for child in narrow.modules()}
        for layer in student.modules():
            if isinstance(layer, nn.Linear) and id(layer) not in inside and layer.in_features == hidden:
                keep_inputs(layer, kept)
    return student


def _narrowed(model: nn.Module, width: float, multiple: int) -> tuple[nn.Module, int, Tensor]:
    """The narrower model, the hidden size before, and which entries of the residual stream are left."""
    config: Any = deepcopy(model.config)
    hidden = int(config.hidden_size) if isinstance(getattr(config, "hidden_size", None), int) else 0
    if not hidden:
        why = "its configuration has parts of their own, or no hidden_size"
        raise CompressionError(f"{type(model).__name__} cannot be narrowed", why=why, fix="give a student of your own")
    cut = deepcopy(model)
    _narrow(config, cut, hidden, width, multiple)
    try:
        student: nn.Module = type(model)(config)
    except Exception as error:
        fix = "choose another width, or give a student of your own"
        raise CompressionError("no such model can be made of a narrower configuration", why=summary(error), fix=fix) from error
    first = next(model.parameters())
    _without_extras(student, model)
    student.to(device=first.device, dtype=first.dtype).train(model.training)
    _fewer_heads(cut, student)
    return student, hidden, _fill(student, cut, hidden)


def _without_extras(student: nn.Module, teacher: nn.Module) -> None:
    """Takes out what the teacher was made without (``add_pooling_layer=False``): the configuration does not say so."""
    known = dict(teacher.named_modules())
    for path in dict(student.named_modules()):
        parent, _, name = path.rpartition(".")
        if path not in known and parent in known and getattr(known[parent], name, student) is None:
            setattr(student.get_submodule(parent), name, None)


def _narrow(config: Any, model: nn.Module, hidden: int, width: float, multiple: int) -> None:
    """Writes the new widths into ``config``; heads first, since in most models the hidden size is theirs together."""
    layers = list(attention_layers(model))
    heads = [layer for layer in layers if isinstance(layer, AttentionLayer)]
    after = scaled(hidden, width, multiple)
    if heads and len(heads) == len(layers):
        layer = heads[0]
        units = max(1, round(layer.units * width))
        count = units * (layer.heads // layer.units)
        if layer.heads * layer.head_dim == hidden:
            after = count * layer.head_dim
        for name in HEAD_SETTINGS:
            if name in vars(config):
                setattr(config, name, count)
        if "num_key_value_heads" in vars(config):
            config.num_key_value_heads = units if layer.key_value_heads > 1 else 1
    for name in LIKE_HIDDEN:
        if getattr(config, name, None) == hidden:
            setattr(config, name, after)
    for name in MLP_SETTINGS:
        if isinstance(vars(config).get(name), int):
            setattr(config, name, scaled(getattr(config, name), width, multiple))
    config.hidden_size = after


def _fewer_heads(cut: nn.Module, student: nn.Module) -> None:
    """Leaves in ``cut``, a copy of the teacher, as many heads as the student has: those that weigh most on their way out."""
    targets = {layer.path: layer for layer in attention_layers(student) if isinstance(layer, AttentionLayer)}
    for layer in attention_layers(cut):
        target = targets.get(layer.path) if isinstance(layer, AttentionLayer) else None
        if isinstance(layer, AttentionLayer) and target is not None and target.units < layer.units:
            weight = _inputs_first(layer.output)
            scores = weight.reshape(layer.units, -1).square().sum(1)
            layer.cut(sorted(scores.topk(target.units).indices.tolist()))


def _inputs_first(projection: nn.Module) -> Tensor:
    weight = weight_of(projection).detach()
    return weight if is_transposed(projection) else weight.T


def _fill(student: nn.Module, teacher: nn.Module, hidden: int) -> Tensor:
    """Copies the teacher's slices into ``student``; gives the entries of the residual stream that they have."""
    state, wanted = teacher.state_dict(), student.state_dict()
    if missing := sorted(wanted.keys() ^ state.keys()):
        why = f"{missing[0]} is in one of them only"
        raise CompressionError("the narrower model has other tensors than the teacher", why=why, fix="choose another width")
    scores: dict[Axis, Tensor] = {}
    for name, value in state.items():
        for place, axis in _axes(name, value, wanted[name], hidden):
            if value.ndim > 1:
                squares = value.double().square().sum([other for other in range(value.ndim) if other != place]).cpu()
                scores[axis] = scores.get(axis, torch.zeros(len(squares))) + squares / squares.sum().clamp_min(1e-30)
    kept = {axis: score.topk(axis[2]).indices.sort().values for axis, score in scores.items()}
    trained = {name: parameter.requires_grad for name, parameter in teacher.named_parameters()}
    with torch.no_grad():
        for name, value in state.items():
            part = value
            for place, axis in _axes(name, value, wanted[name], hidden):
                part = part.index_select(place, kept[axis].to(part.device))
            wanted[name].copy_(part)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    return next((rows for axis, rows in kept.items() if axis[:2] == ("", hidden)), torch.arange(hidden))


def _axes(name: str, value: Tensor, wanted: Tensor, hidden: int) -> Iterator[tuple[int, Axis]]:
    """The axes along which the student's tensor is shorter, by position."""
    if value.ndim != wanted.ndim:
        raise CompressionError(f"{name} has another rank in the narrower model", fix="choose another width")
    for place, (size, target) in enumerate(zip(value.shape, wanted.shape, strict=True)):
        if target > size:
            raise CompressionError(f"{name} is larger in the narrower model", fix="choose another width")
        if target < size:
            yield place, ("" if size == hidden else _layer(name), size, target)


def _layer(name: str) -> str:
    """The path up to the last number in it: what lies in one layer has its MLP in common."""
    parts = name.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=len(parts) - 2)
    return ".".join(parts[: last + 1]) or "."
