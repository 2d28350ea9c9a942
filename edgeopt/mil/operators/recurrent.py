"""Recurrent networks: x is [steps, batch, features], a state [batch, hidden].

``reverse`` goes from the last step to the first and gives results in that order, as coremltools' own tests measure on Core ML;
``bidirectional`` gives both results of a step side by side, in the order of ``x``. Without ``output_sequence`` only the last
state of each direction is given.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import operator


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp_(0, 1)  # Core ML's defaults, not PyTorch's x / 6


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "scaled_tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "linear": torch.clone,
    "hard_sigmoid": _hard_sigmoid, "sigmoid_hard": _hard_sigmoid,
}  # fmt: skip
"""Recurrent operators give their activations no parameters: scaled_tanh scales by 1."""


@operator("rnn")
def rnn(
    x: Tensor, initial_h: Tensor, weight_ih: Tensor, weight_hh: Tensor, direction: str, output_sequence: bool, activation: str,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """h = activation(W_ih x + W_hh h + b)."""
    activate, h, found, weight = _ACTIVATIONS[activation.lower()], initial_h, [], weight_hh.t()
    for given in functional.linear(_directed(x, direction), weight_ih, bias):
        h = activate(torch.addmm(given, h, weight))
        found.append(h)
    return torch.stack(found) if output_sequence else h[None], h


@operator("gru")
def gru(
    x: Tensor, initial_h: Tensor, weight_ih: Tensor, weight_hh: Tensor, direction: str, output_sequence: bool,
    recurrent_activation: str, activation: str, bias: Tensor | None = None, reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """h = (1 - z) o + z h with the gates r (reset), o (new), z (update) in this order.

    o = activation(W_io x + b_o + W_ho (r h)), which is not PyTorch's: the documentation's formula can be read either way, and
    coremltools' own tests measure this one. With ``reset_after`` (iOS 18) it is PyTorch's:
    o = activation(W_io x + input_bias_o + r (W_ho h + b_o)).
    """
    recur, activate = _ACTIVATIONS[recurrent_activation.lower()], _ACTIVATIONS[activation.lower()]
    size, h, found = weight_hh.shape[1], initial_h, []
    reset, new, update = weight_hh.t().chunk(3, 1)
    outer, inner = _biases(bias, input_bias, size, reset_after)
    for given in functional.linear(_directed(x, direction), weight_ih, outer):
        r, o, z = given.chunk(3, 1)
        r, z = recur(torch.addmm(r, h, reset)), recur(torch.addmm(z, h, update))
        o = o + r * torch.addmm(inner, h, new) if reset_after else torch.addmm(o, r * h, new)
        h = torch.lerp(activate(o), h, z)
        found.append(h)
    return torch.stack(found) if output_sequence else h[None], h


class _Cell(NamedTuple):
    """What one direction of an LSTM is made of. Gates: input, forget, output, cell."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    peephole: Tensor | None


@operator("lstm")
def lstm(
    x: Tensor, initial_h: Tensor, initial_c: Tensor, weight_ih: Tensor, weight_hh: Tensor, direction: str,
    output_sequence: bool, recurrent_activation: str, cell_activation: str, activation: str, bias: Tensor | None = None,
    peephole: Tensor | None = None, weight_ih_back: Tensor | None = None, weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None, peephole_back: Tensor | None = None, clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """c = f c + i z, clipped to [-clip, clip], and h = o activation(c); peepholes add p c to i, f and (with the new c) o."""
    names = (recurrent_activation.lower(), cell_activation.lower(), activation.lower())
    size, cell = weight_hh.shape[1], _Cell(weight_ih, weight_hh, bias, peephole)
    sequence, h, c = _lstm(_directed(x, direction), initial_h[:, :size], initial_c[:, :size], cell, names, clip)
    if direction == "bidirectional" and weight_ih_back is not None and weight_hh_back is not None:
        cell = _Cell(weight_ih_back, weight_hh_back, bias_back, peephole_back)
        back, back_h, back_c = _lstm(x.flip(0), initial_h[:, size:], initial_c[:, size:], cell, names, clip)
        sequence, h, c = torch.cat((sequence, back.flip(0)), 2), torch.cat((h, back_h), 1), torch.cat((c, back_c), 1)
    return sequence if output_sequence else h[None], h, c


def _lstm(
    x: Tensor, h: Tensor, c: Tensor, cell: _Cell, names: tuple[str, str, str], clip: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction: the sequence, and the last h and c."""
    if names == ("sigmoid", "tanh", "tanh") and cell.peephole is None and clip is None:
        return _fused_lstm(x, h, c, cell)
    recur, cell_activate, activate = (_ACTIVATIONS[name] for name in names)
    peep_i, peep_f, peep_o = (None,) * 3 if cell.peephole is None else cell.peephole.chunk(3)
    weight, found = cell.weight_hh.t(), []
    for given in functional.linear(x, cell.weight_ih, cell.bias):
        i, f, o, z = torch.addmm(given, h, weight).chunk(4, 1)
        c = recur(_peeping(f, c, peep_f)) * c + recur(_peeping(i, c, peep_i)) * cell_activate(z)
        c = c if clip is None else c.clamp(-clip, clip)
        h = recur(_peeping(o, c, peep_o)) * activate(c)
        found.append(h)
    return torch.stack(found), h, c


def _fused_lstm(x: Tensor, h: Tensor, c: Tensor, cell: _Cell) -> tuple[Tensor, Tensor, Tensor]:
    """By PyTorch's kernel, whose gates are input, forget, cell, output and whose biases are two."""
    weights = [_reordered(cell.weight_ih), _reordered(cell.weight_hh)]
    if cell.bias is not None:
        weights += (_reordered(cell.bias), torch.zeros_like(cell.bias))
    states = (h[None].contiguous(), c[None].contiguous())
    sequence, h, c = torch.lstm(x, states, weights, cell.bias is not None, 1, 0.0, False, False, False)
    return sequence, h[0], c[0]


def _reordered(gates: Tensor) -> Tensor:
    i, f, o, z = gates.chunk(4)
    return torch.cat((i, f, z, o))


def _peeping(gate: Tensor, c: Tensor, peephole: Tensor | None) -> Tensor:
    return gate if peephole is None else torch.addcmul(gate, c, peephole)


def _biases(bias: Tensor | None, input_bias: Tensor | None, size: int, reset_after: bool) -> tuple[Tensor | None, Tensor]:
    """A GRU's bias, [3 * size] or None, and what of it ``reset_after`` leaves to the reset gate: the new gate's, [size]."""
    if bias is None:
        return input_bias, torch.zeros(size)
    inner = bias[size : 2 * size]
    if reset_after:
        bias = torch.cat((bias[:size], torch.zeros(size), bias[2 * size :]))
    return (bias if input_bias is None else bias + input_bias), inner


def _directed(x: Tensor, direction: str) -> Tensor:
    return x.flip(0) if direction == "reverse" else x
