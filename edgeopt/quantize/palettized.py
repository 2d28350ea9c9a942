"""Palettes for the weights of a captured program: what :class:`~edgeopt.compress.cluster.cluster.Cluster` does to a module.

A weight whose groups of channels have few values already, as clustering leaves them, keeps exactly these.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgeopt.capture.operator_kinds import RECURRENT, WEIGHTED, kind_of
from edgeopt.core import QuantScheme
from edgeopt.quantize.palette import centroids_and_zero, nearest
from edgeopt.quantize.shares import Left, left

FEWEST_NUMBERS = 2048
"""Smaller weights stay floats, as coremltools leaves them (weight_threshold of OpPalettizerConfig): they take no room."""
CUTS = 256
"""In each group of channels, for k-means to start from: a network has hundreds of groups."""
ITEM_BYTES = 2
"""Of a value in a table: Core ML computes in float16."""


def palettize(program: ExportedProgram, scheme: QuantScheme) -> tuple[ExportedProgram, Left]:
    """A copy of ``program`` whose weights have few values in each group of output channels, and what stays as it is.

    Weights of convolutions, linear layers, embeddings and recurrent layers. The last have one palette for each whole weight:
    converters reorder their gates.
    """
    copy = deepcopy(program)
    with torch.no_grad():
        for _, parts, reason in _judged(copy, scheme):
            for part in () if reason else parts:
                palette = centroids_and_zero(part, _values(scheme), CUTS)
                part.copy_(palette[nearest(part, palette)])
    return copy, left_whole(program, scheme)


def left_whole(program: ExportedProgram, scheme: QuantScheme) -> Left:
    """Weights that :func:`palettize` leaves as they are, and why."""
    judged = [(node, reason) for node, _, reason in _judged(program, scheme) if reason]
    return left(program.graph, [(user, reason) for node, reason in judged for user in node.users if _weighs(user, node)])


def _judged(program: ExportedProgram, scheme: QuantScheme) -> Iterator[tuple[Node, tuple[Tensor, ...], str]]:
    """Each weight, its parts that share a palette, and why it stays; "" where it gets palettes."""
    for node, name in _stored(program):
        user, weight = next(iter(node.users)), program.state_dict[name]
        parts = _parts(weight.detach(), user, scheme)
        yield node, parts, _kept_reason(node, weight, len(parts), scheme)


def _stored(program: ExportedProgram) -> Iterator[tuple[Node, str]]:
    """Stored tensors that some layer has as its weight, with their names in the program's state."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        name = names.get(node.name)
        if name is None or name not in program.state_dict or program.state_dict[name].ndim < 2:
            continue
        if any(_weighs(user, node) for user in node.users):
            yield node, name


def _weighs(user: Node, node: Node) -> bool:
    """Whether ``node`` is a weight of ``user``."""
    if user.target in RECURRENT:
        return any(node in argument for argument in user.args if isinstance(argument, list | tuple))
    return user.args[1 if kind_of(user) in WEIGHTED else 0] is node and kind_of(user) in (*WEIGHTED, "embedding")


def _parts(weight: Tensor, user: Node, scheme: QuantScheme) -> tuple[Tensor, ...]:
    """Views of the channels that share a palette: along axis 1 for transposed convolutions ([in, out / groups, ...])."""
    axis = 1 if kind_of(user) == "conv_transpose" else 0
    channels = scheme.palette_channels
    if channels is None or user.target in RECURRENT or weight.shape[axis] % channels:
        return (weight,)
    return torch.split(weight, channels, axis)


def _kept_reason(node: Node, weight: Tensor, palettes: int, scheme: QuantScheme) -> str:
    """Why a weight stays as it is; "" where it gets palettes."""
    if not all(_weighs(user, node) for user in node.users):
        return "its weights serve another operator as well"
    if len({kind_of(user) == "conv_transpose" for user in node.users}) > 1:
        return "its weights serve a transposed convolution as well"
    count = weight.numel()
    if count < FEWEST_NUMBERS:
        return f"{count:,} weights: below {FEWEST_NUMBERS:,}"
    if not bool(weight.isfinite().all()):
        return "its weights are not all finite"
    assert scheme.palette_bits is not None
    if count * scheme.palette_bits / 8 + palettes * _values(scheme) * ITEM_BYTES >= count * ITEM_BYTES:
        return f"{palettes} palettes of {_values(scheme)} values would take more room than its weights"
    return ""


def _values(scheme: QuantScheme) -> int:
    return 1 << (scheme.palette_bits or 0)
