"""Narrower copies of convolutional networks by structure alone: every channel count times a width, as MobileNet's multiplier.

What has c channels in the teacher has the first f(c) of them in the student, everywhere: sums of branches, depthwise
convolutions and flattened maps fit without a trace of the model's code. (With example inputs, channel pruning chooses better.)
"""

import torch
from torch import Tensor, nn

from edgeopt.compress.common.copying import copied
from edgeopt.compress.technique import LayerChange
from edgeopt.errors import CompressionError

CONVOLUTION = nn.modules.conv._ConvNd
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.PReLU)
REFUSED = (nn.RNNBase, nn.MultiheadAttention, nn.LayerNorm, nn.Embedding)


def scaled(count: int, width: float, multiple: int) -> int:
    """``count`` channels times ``width``, to the nearest multiple that is not above ``count`` and not 0."""
    if count <= multiple:
        return max(1, min(count, round(count * width))) if multiple == 1 else count
    return min(count, max(multiple, round(count * width / multiple) * multiple))


class Narrowing:
    """One narrowing of a copy; ``changes`` tells what became of each layer."""

    def __init__(self, teacher: nn.Module, width: float, multiple: int) -> None:
        self.module, self._width, self._multiple = copied(teacher), width, multiple
        self.changes: list[LayerChange] = []
        self._layers = [(path, layer) for path, layer in self.module.named_modules() if _holds_weights(layer)]
        weighted = [layer for _, layer in self._layers if isinstance(layer, nn.Linear | CONVOLUTION)]
        if not weighted:
            raise CompressionError("there is nothing to narrow", why="the model has no convolution and no linear layer")
        self._first, self._last = weighted[0], weighted[-1]
        self._channels = 1  # of the last convolution or linear layer seen: what a flattened map consists of

    def run(self) -> nn.Module:
        """The narrower copy. Raises CompressionError for layers whose widths depend on more than channels."""
        for path, layer in self._layers:
            if isinstance(layer, REFUSED):
                why = f"{path} is a {type(layer).__name__}: its width is not one of channels"
                fix = "give example inputs, a Hugging Face model, or a student of your own"
                raise CompressionError("the model cannot be narrowed by its structure alone", why=why, fix=fix)
            before = _described(layer)
            if isinstance(layer, CONVOLUTION):
                self._convolution(layer)
            elif isinstance(layer, nn.Linear):
                self._linear(layer)
            else:
                self._norm(layer)
            self._record(path, before, _described(layer))
        return self.module

    def _record(self, path: str, before: str, after: str) -> None:
        if before == after:
            reason = f"no multiple of {self._multiple} is nearer, or its channels are the model's own inputs or outputs"
            self.changes.append(LayerChange(layer=path, action="left", before=before, reason=reason))
        else:
            reason = f"width {self._width:g}: the first channels of the teacher's"
            self.changes.append(LayerChange(layer=path, action="changed", before=before, after=after, reason=reason))

    def _of(self, count: int) -> int:
        return scaled(count, self._width, self._multiple)

    def _convolution(self, layer: nn.modules.conv._ConvNd) -> None:
        inputs = layer.in_channels if layer is self._first else self._of(layer.in_channels)
        outputs = layer.out_channels if layer is self._last else self._of(layer.out_channels)
        self._channels = layer.out_channels
        if layer.groups == layer.in_channels > 1:
            layer.groups = inputs
            outputs = layer.out_channels // layer.in_channels * inputs
        elif inputs % layer.groups or outputs % layer.groups:
            why = f"{inputs} -> {outputs} channels are no multiples of its {layer.groups} groups"
            fix = "choose another width or multiple, or give example inputs"
            raise CompressionError("a grouped convolution cannot be as narrow", why=why, fix=fix)
        per_group = inputs // layer.groups
        axes = (per_group, outputs) if layer.transposed else (outputs, per_group)
        _cut(layer, "weight", axes if not layer.transposed else (inputs, outputs // layer.groups))
        _cut(layer, "bias", (outputs,))
        layer.in_channels, layer.out_channels = inputs, outputs

    def _linear(self, layer: nn.Linear) -> None:
        inputs = layer.in_features
        if layer is not self._first:
            positions, rest = divmod(inputs, self._channels)
            inputs = self._of(inputs) if rest or positions <= 1 else self._of(self._channels) * positions
        outputs = layer.out_features if layer is self._last else self._of(layer.out_features)
        self._channels = layer.out_features
        _cut(layer, "weight", (outputs, inputs))
        _cut(layer, "bias", (outputs,))
        layer.in_features, layer.out_features = inputs, outputs

    def _norm(self, layer: nn.Module) -> None:
        attribute = {nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}.get(type(layer), "num_features")
        count = getattr(layer, attribute)
        after = count if count == 1 else self._of(count)
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut(layer, name, (after,))
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = next(groups for groups in range(layer.num_groups, 0, -1) if after % groups == 0)
        setattr(layer, attribute, after)


def _holds_weights(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, CONVOLUTION, *NORMS, *REFUSED))


def _cut(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """The first entries of each of the first axes of a parameter or buffer."""
    value: Tensor | None = getattr(layer, name, None)
    if value is None:
        return
    part = value.detach()[tuple(slice(size) for size in shape)].clone(memory_format=torch.contiguous_format)
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(part, value.requires_grad))
    else:
        layer.register_buffer(name, part)


def _described(layer: nn.Module) -> str:
    if isinstance(layer, CONVOLUTION):
        return f"{layer.in_channels} -> {layer.out_channels} channels"
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features} -> {layer.out_features} features"
    count = next(getattr(layer, name) for name in ("num_features", "num_channels", "num_parameters") if hasattr(layer, name))
    return f"{count} channels"
