"""The layers that channels go through: where their channels lie, which go together, and how the layer is made narrower."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgeopt.compress.common.head_layouts import is_transposed, keep_inputs, keep_outputs, sizes

Role = Literal["makes", "reads", "passes"]
"""Whether channels are outputs of the layer, inputs of it, or both (depthwise convolutions, batch norms)."""
WEIGHTED = (_ConvNd, nn.Linear)
FOLLOWED = (*WEIGHTED, _NormBase, nn.GroupNorm, nn.PReLU, nn.Embedding, nn.RNNBase)
"""Layers whose channels are followed through; Hugging Face's Conv1D too."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Channels that a layer reads and makes: the same ones where it passes them on. ``tied``: groups of places [n, together]
    that only go together, by role."""

    reads: int
    makes: int
    passes: bool = False
    tied: dict[Role, Tensor] | None = None
    across: Tensor | None = None
    """For each channel that it makes, the one that it reads and goes with it: grouped convolutions with one input a group."""


def is_followed(layer: nn.Module) -> bool:
    """Whether channels can be followed through ``layer``."""
    if isinstance(layer, nn.RNNBase):
        return not layer.proj_size
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    return isinstance(layer, FOLLOWED) or is_transposed(layer)


def ports(layer: nn.Module) -> Ports:
    """The channels of a followed layer."""
    if isinstance(layer, _ConvNd):
        return _convolution_ports(layer)
    if isinstance(layer, nn.RNNBase):
        return Ports(layer.input_size, layer.hidden_size)
    if isinstance(layer, nn.Embedding):
        return Ports(0, layer.embedding_dim)
    if isinstance(layer, nn.GroupNorm):
        whole = torch.arange(layer.num_channels).view(layer.num_groups, -1)
        return Ports(layer.num_channels, layer.num_channels, passes=True, tied={"passes": whole})
    if isinstance(layer, _NormBase):
        return Ports(layer.num_features, layer.num_features, passes=True)
    if isinstance(layer, nn.PReLU):
        return Ports(layer.num_parameters, layer.num_parameters, passes=True)
    return Ports(*sizes(layer))


def _convolution_ports(layer: _ConvNd) -> Ports:
    inputs, outputs, groups = layer.in_channels, layer.out_channels, layer.groups
    if groups == 1:
        return Ports(inputs, outputs)
    if groups == inputs == outputs:
        return Ports(inputs, outputs, passes=True)
    if groups == inputs:
        return Ports(inputs, outputs, across=torch.arange(outputs) // (outputs // inputs))
    tied: dict[Role, Tensor] = {
        "reads": torch.arange(inputs).view(groups, -1).T,
        "makes": torch.arange(outputs).view(groups, -1).T,
    }
    return Ports(inputs, outputs, tied=tied)


def input_axis(layer: nn.Module, rank: int) -> int:
    """Where a tensor of ``rank`` axes that the layer reads has its channels, from the front."""
    if isinstance(layer, _ConvNd):
        return rank - 1 - len(layer.kernel_size)
    if isinstance(layer, _NormBase | nn.GroupNorm | nn.PReLU):
        return 1 if rank > 1 else 0
    return rank - 1


def cut_layer(layer: nn.Module, role: Role, places: Sequence[int]) -> None:
    """Takes the channels at ``places`` out of the layer, in place."""
    found = ports(layer)
    gone = set(places)
    kept = torch.tensor([place for place in range(found.reads if role == "reads" else found.makes) if place not in gone])
    if isinstance(layer, _ConvNd):
        _cut_convolution(layer, role, kept)
    elif isinstance(layer, nn.RNNBase):
        _cut_recurrent(layer, role, kept)
    elif isinstance(layer, nn.Embedding):
        _keep(layer, "weight", kept, 1)
        layer.embedding_dim = len(kept)
    elif found.passes:
        _cut_norm(layer, kept)
    elif role == "reads":
        keep_inputs(layer, kept)
    else:
        keep_outputs(layer, kept)


def _cut_convolution(layer: _ConvNd, role: Role, kept: Tensor) -> None:
    single = layer.groups > 1 and layer.groups == layer.in_channels
    groups, own = layer.groups, 1 if layer.transposed else 0
    if role != "reads":
        if not single or role == "passes" or not layer.transposed:
            rows = kept if own == 0 else kept[: len(kept) // groups] if groups > 1 and not single else kept
            _keep(layer, "weight", rows, 0 if single else own)
        _keep(layer, "bias", kept, 0)
        layer.out_channels = len(kept)
    if role == "reads" and single:
        if layer.transposed:
            _keep(layer, "weight", kept, 0)
    elif role == "reads":
        columns = kept if own == 1 else kept[: len(kept) // groups]
        _keep(layer, "weight", columns, 1 - own)
    if role != "makes":
        layer.groups = len(kept) if single else groups
        layer.in_channels = len(kept)


def _cut_norm(layer: Any, kept: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _keep(layer, name, kept, 0)
    if isinstance(layer, nn.GroupNorm):
        layer.num_groups = len(kept) * layer.num_groups // layer.num_channels
        layer.num_channels = len(kept)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(kept)
    else:
        layer.num_features = len(kept)


def hidden_columns(layer: nn.RNNBase, channels: Tensor) -> dict[str, Tensor]:
    """Columns of a recurrent layer's weights that read its own hidden ``channels``, by the weight's name."""
    directions = torch.arange(2 if layer.bidirectional else 1)
    inner = (directions[:, None] * layer.hidden_size + channels).flatten()
    return {
        name: channels if name.startswith("weight_hh") else inner
        for name, _ in layer.named_parameters(recurse=False)
        if name.startswith("weight") and not reads_inputs(name)
    }


def _cut_recurrent(layer: nn.RNNBase, role: Role, kept: Tensor) -> None:
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    if role == "reads":
        for name in names:
            if reads_inputs(name):
                _keep(layer, name, kept, 1)
        layer.input_size = len(kept)
    else:
        gates = getattr(layer, names[0]).shape[0] // layer.hidden_size
        rows = (torch.arange(gates)[:, None] * layer.hidden_size + kept).flatten()
        columns = hidden_columns(layer, kept)
        for name in names:
            _keep(layer, name, rows, 0)
            if name in columns:
                _keep(layer, name, columns[name], 1)
        layer.hidden_size = len(kept)
    layer.flatten_parameters()


def reads_inputs(name: str) -> bool:
    """Whether this parameter of a recurrent layer multiplies what is given to the layer, not a state of its own."""
    return name.startswith("weight_ih_l0")


def _keep(layer: nn.Module, name: str, kept: Tensor, axis: int) -> None:
    value: Tensor | None = getattr(layer, name, None)
    if value is None:
        return
    part = value.detach().index_select(axis, kept.to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(part, value.requires_grad))
    else:
        layer.register_buffer(name, part)


def cut_parameter(module: nn.Module, path: str, axis: int, places: Sequence[int]) -> None:
    """The same for a parameter that one of the user's own modules holds."""
    owner, _, name = path.rpartition(".")
    holder = module.get_submodule(owner)
    gone = set(places)
    size = getattr(holder, name).shape[axis]
    _keep(holder, name, torch.tensor([place for place in range(size) if place not in gone]), axis)


def has_matrices(layer: nn.Module) -> bool:
    """Whether its weights tell how much its channels matter."""
    return isinstance(layer, (*WEIGHTED, nn.RNNBase)) or is_transposed(layer)
