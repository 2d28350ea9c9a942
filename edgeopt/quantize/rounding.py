"""Weights rounded against data: what one rounding does to a layer's outputs is made up for by those that follow it.

GPTQ (Frantar et al., 2023, arXiv:2210.17323): columns are rounded one after the other, those with most input first, and the
error of each is taken over by the columns behind it in the proportions that are best for the layer's inputs: their second
moment is the Hessian of the squared output error. Scales stay what they are by the greatest magnitude, so that all behind, PT2E
and every format, rounds to the nearest and finds these very integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgeopt.capture.operator_kinds import elements, groups_of, kind_of, weight_shape
from edgeopt.quantize.replay import MOST_ROWS, from_matrix, matrix, rows
from edgeopt.quantize.sparsegpt import BLOCK, DAMPENING, output_error

LEAST_SAMPLES = 8
MOST_SAMPLES = 32
HELD_OUT_EVERY = 4
"""Every fourth sample only judges: a layer whose rounding is no better there keeps the nearest."""
MOST_INPUTS = 4096
"""Of one output, for which moments are kept: 256 MiB."""
MOST_BYTES = 1 << 29
"""Of all moments together; layers beyond keep the nearest."""
WEIGHT_EPS = 2.0**-24
"""The least scale of a weight."""
MOST_CLUSTERS = 256
"""More different numbers than that are no clusters."""


@dataclass(slots=True)
class Moments:
    """Of each layer's input, by the name of its node: the sums of x x^T, over samples to round by and others to judge by.

    float64, [2, inputs, inputs], or [2, channels, taps, taps] for a depthwise convolution, whose channels see only themselves.
    """

    of: dict[str, Tensor] = field(default_factory=dict)
    samples: int = 0
    kept: "dict[tuple[str, int, bool], Tensor | None]" = field(default_factory=dict)
    """What :meth:`rounded` found: the same for every target with the same grid."""

    def rounded(self, layer: str, weight: Tensor, bound: int, per_channel: bool) -> Tensor | None:
        """As :func:`rounded`, for the layer of that name; None too where nothing is known of its input."""
        key = (layer, bound, per_channel)
        if key not in self.kept:
            moment = self.of.get(layer)
            known = moment is not None and bool(moment.isfinite().all())  # squares of huge inputs overflow
            self.kept[key] = rounded(weight, moment, bound, per_channel) if moment is not None and known else None
        return self.kept[key]


def moments_of(program: ExportedProgram, samples: Sequence[tuple[Tensor, ...]]) -> Moments:
    """From at most MOST_SAMPLES of ``samples``, flat inputs of ``program``, spread evenly; none from too few."""
    if len(samples) < LEAST_SAMPLES:
        return Moments(samples=len(samples))
    chosen = samples[:: -(-len(samples) // MOST_SAMPLES)]
    watcher = _Watcher(program.module(check_guards=False), len(chosen))
    with torch.no_grad():
        for number, sample in enumerate(chosen):
            watcher.part = int(number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
            watcher.run(*sample)
    return Moments(watcher.found, len(chosen))


class _Watcher(torch.fx.Interpreter):
    def __init__(self, module: GraphModule, samples: int) -> None:
        super().__init__(module)
        self.found: dict[str, Tensor] = {}
        self.left_out: set[str] = set()
        self.part = 0
        self._samples, self._bytes = samples, 0

    def run_node(self, node: Node) -> Any:
        if _is_layer(node) and node.name not in self.left_out:
            self._add(node, self.fetch_args_kwargs_from_env(node)[0][0])
        return super().run_node(node)

    def _add(self, node: Node, value: Tensor) -> None:
        depthwise, (outputs, inputs, *kernel) = _is_depthwise(node), weight_shape(node)
        size = inputs * torch.Size(kernel).numel()
        if node.name not in self.found:
            shape = (2, outputs, size, size) if depthwise else (2, size, size)
            self._bytes += (needed := torch.Size(shape).numel() * 8)
            if size > MOST_INPUTS or self._bytes > MOST_BYTES:
                self._bytes -= needed
                self.left_out.add(node.name)
                return
            self.found[node.name] = torch.zeros(shape, dtype=torch.float64)
        seen = rows(node, value, 1 + elements(node) // outputs * self._samples // MOST_ROWS)
        seen = seen[seen.isfinite().all(1)]
        if depthwise:  # [positions, taps x channels] -> [channels, taps, positions]
            seen = seen.reshape(len(seen), size, outputs).permute(2, 1, 0)
            self.found[node.name][self.part] += seen @ seen.transpose(1, 2)
        else:
            self.found[node.name][self.part] += seen.T @ seen


def _is_layer(node: Node) -> bool:
    """A linear layer, or a convolution of one group or of one channel each, with stored weights of its own."""
    if node.op != "call_function" or kind_of(node) not in ("conv", "linear"):
        return False
    weight = node.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr" or len(weight.users) != 1 or len(weight_shape(node)) < 2:
        return False
    return groups_of(node) == 1 or _is_depthwise(node)


def _is_depthwise(node: Node) -> bool:
    return groups_of(node) == weight_shape(node)[0] > 1 == weight_shape(node)[1]


def rounded(weight: Tensor, moment: Tensor, bound: int, per_channel: bool) -> Tensor | None:
    """``weight``, float32 [out, in, *kernel], on the grid of its scale: multiples of it from -bound to bound.

    ``moment`` as :class:`Moments` has it. None where the nearest multiples do as well on the samples that judge.
    """
    if _share_values(weight):
        return None
    dense = matrix(weight).double()
    peaks, scale = _grid(dense, bound, per_channel)
    plain = _nearest(dense, scale, bound)
    found = _sweep(dense, moment[0], scale, bound)
    found = torch.where(output_error(found - dense, moment[0]) <= output_error(plain - dense, moment[0]), found, plain)
    largest = dense.abs() == peaks
    found = torch.where(largest, plain, found)  # it alone tells the scale
    if not float(output_error(found - dense, moment[1]).sum()) < float(output_error(plain - dense, moment[1]).sum()):
        return None
    return _like(weight, found)


def nearest(weight: Tensor, bound: int, per_channel: bool) -> Tensor:
    """``weight``, float32 [out, in, *kernel], on the nearest multiples of its scale."""
    dense = matrix(weight).double()
    return _like(weight, _nearest(dense, _grid(dense, bound, per_channel)[1], bound))


def _grid(dense: Tensor, bound: int, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Of each row the greatest magnitude that tells its scale, and the scale; [rows, 1]."""
    peaks = dense.abs().amax(1, keepdim=True)
    peaks = peaks if per_channel else peaks.amax().expand_as(peaks)
    return peaks, (peaks / bound).clamp(min=WEIGHT_EPS)


def _like(weight: Tensor, found: Tensor) -> Tensor:
    """``found``, a matrix, as ``weight`` is, with its own strides: converters read them."""
    return torch.empty_like(weight).copy_(from_matrix(found, weight.shape) if weight.dim() > 2 else found)


def _nearest(values: Tensor, scale: Tensor, bound: int) -> Tensor:
    return (values / scale).round().clamp(-bound, bound) * scale


def _sweep(dense: Tensor, moment: Tensor, scale: Tensor, bound: int) -> Tensor:
    """[outputs, inputs] rounded column by column; what is zero was pruned, and stays zero.

    ``moment``: [inputs, inputs] for all outputs, or one for each.
    """
    damping = DAMPENING * moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    damping = torch.where(damping > 0, damping, torch.ones_like(damping))
    damped = moment + damping[..., None, None] * torch.eye(moment.shape[-1], dtype=moment.dtype)
    if moment.dim() == 3:
        return _sweep_rows(dense, damped, scale, bound)
    order = damped.diagonal().argsort(descending=True, stable=True)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped[order][:, order]), upper=True)
    columns, found, kept = dense[:, order].T.clone(), torch.empty_like(dense.T), dense != 0
    for start in range(0, len(columns), BLOCK):
        stop = min(start + BLOCK, len(columns))
        errors = torch.empty(stop - start, len(dense), dtype=dense.dtype)
        for column in range(start, stop):
            found[column] = _nearest(columns[column], scale[:, 0], bound) * kept[:, order[column]]
            errors[column - start] = (columns[column] - found[column]) / factor[column, column]
            columns[column + 1 : stop] -= factor[column, column + 1 : stop, None] * errors[column - start]
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    return found[order.argsort()].T


def _sweep_rows(dense: Tensor, damped: Tensor, scale: Tensor, bound: int) -> Tensor:
    """Each output has few inputs, and a moment of its own."""
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, found = dense.clone(), torch.empty_like(dense)
    for column in range(dense.shape[1]):
        found[:, column] = _nearest(left[:, column], scale[:, 0], bound) * (dense[:, column] != 0)
        error = (left[:, column] - found[:, column]) / factor[:, column, column]
        left[:, column + 1 :] -= factor[:, column, column + 1 :] * error[:, None]
    return found


def _share_values(weight: Tensor) -> bool:
    """Whether the weights were clustered: each rounded in its own way they would no longer be few numbers."""
    count = len(torch.unique(weight))
    return count <= MOST_CLUSTERS and count * 4 <= weight.numel()
