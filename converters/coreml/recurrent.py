"""Recurrent layers for coremltools' frontend of exported programs: LSTMs and simple ones as MIL's operators, GRUs written out.

coremltools makes a loop over single steps of a GRU, one for each direction, and nothing but the CPU runs loops
(https://github.com/apple/coremltools/issues/2208). Core ML's own ``gru`` has PyTorch's cell from iOS 18 on, which coremltools'
tests mark as failing and Chromium found to be wrong on devices (https://github.com/webmachinelearning/webnn/issues/689):
Chromium writes the steps out too. Here both directions of a layer go side by side, and long sequences in a loop over blocks.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch import ops, register_torch_op
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it
from numpy.typing import NDArray

STEPS_WRITTEN_OUT = 128
"""Of longer sequences a loop is made: a step takes 3 kB of every layer's, and up to 100 ms of the conversion."""
STEPS_IN_A_LOOP = 16
"""Written out in each turn."""
_RESULTS = {"lstm": 3, "rnn_tanh": 2, "rnn_relu": 2}
Var = Any
"""A MIL variable. States are [directions, batch, hidden], what goes into the gates [directions, steps * batch, 3 * hidden]."""


def register(*, whole_weights: bool) -> None:
    """Lets the frontend take recurrent layers, from now on.

    It has functions for those of Core ML's own operators (9.0, converters/mil/frontend/torch/ops.py) under names without an
    overload; they expect a name for each result, where a node of an exported program has one for all. ``whole_weights``: a GRU
    joins no weight of one direction with another's, which palettes would not survive.
    """
    for operator, count in _RESULTS.items():
        register_torch_op(_named(operator, _of_one_name(getattr(ops, operator), count)), override=True)
    register_torch_op(_named("gru", lambda context, node: _gru(context, node, whole_weights)), override=True)


def _named(operator: str, function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    function.__name__ = f"{operator}.input"  # what the frontend looks for
    return function


def _of_one_name(function: Callable[[Any, Any], None], count: int) -> Callable[[Any, Any], None]:
    def with_one_name(context: Any, node: Any) -> None:
        parts = copy.copy(node)
        parts.outputs = [f"{node.name}_{number}" for number in range(count)]
        function(context, parts)
        context.add(tuple(context[name] for name in parts.outputs), torch_name=node.name)

    return with_one_name


@dataclass(frozen=True, slots=True)
class _Cell:
    """One direction of one layer. Gates: reset, update, new."""

    weight_ih: NDArray[Any]
    weight_hh: NDArray[Any]
    bias_ih: NDArray[Any]
    bias_hh: NDArray[Any]


def _gru(context: Any, node: Any, whole_weights: bool) -> None:
    """``aten.gru.input`` in inference: all outputs, and the last state of each direction of each layer."""
    x, initial, weights, has_biases, layers, _, _, bidirectional, batch_first = ops._get_inputs(context, node, expected=9)
    directions, cells = 1 + int(bidirectional.val), _cells([weight.val for weight in weights], bool(has_biases.val))
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first.val else x
    last = []
    for number, state in enumerate(mb.split(x=initial, num_splits=int(layers.val), axis=0) if layers.val > 1 else [initial]):
        x, state = _layer(x, state, cells[number * directions :][:directions], whole_weights)
        last.append(state)
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first.val else x
    context.add((x, mb.concat(values=last, axis=0) if len(last) > 1 else last[0]), torch_name=node.name)


def _cells(weights: list[NDArray[Any]], has_biases: bool) -> list[_Cell]:
    if has_biases:
        return [_Cell(*weights[start : start + 4]) for start in range(0, len(weights), 4)]
    pairs = zip(weights[::2], weights[1::2], strict=True)
    return [_Cell(one, other, *[np.zeros(len(one), one.dtype)] * 2) for one, other in pairs]


def _layer(x: Var, initial: Var, cells: Sequence[_Cell], whole_weights: bool) -> tuple[Var, Var]:
    """One layer of x [steps, batch, features]: every step's states, [steps, batch, directions * hidden], and the last ones."""
    (steps, batch, _), (directions, _, hidden) = x.shape, initial.shape
    ways = (x, mb.reverse(x=x, axes=[0])) if directions == 2 else (x,)
    inputs = [mb.linear(x=way, weight=cell.weight_ih, bias=cell.bias_ih) for way, cell in zip(ways, cells, strict=True)]
    gates = mb.reshape(x=mb.stack(values=inputs, axis=0), shape=[directions, steps * batch, 3 * hidden])
    recurrent = _each(cells) if whole_weights or directions == 1 else _together(cells)
    states, state = (_written_out if steps <= STEPS_WRITTEN_OUT else _looped)(gates, initial, recurrent)
    states = mb.reshape(x=states, shape=[directions, steps, batch, hidden])
    if directions == 1:
        return mb.squeeze(x=states, axes=[0]), state
    forward, backward = (mb.squeeze(x=way, axes=[0]) for way in mb.split(x=states, num_splits=2, axis=0))
    return mb.concat(values=[forward, mb.reverse(x=backward, axes=[0])], axis=2), state


def _each(cells: Sequence[_Cell]) -> Callable[[Var], Var]:
    """What a state gives to the gates, one product of matrices for each direction."""
    weights = [(mb.const(val=cell.weight_hh), mb.const(val=cell.bias_hh)) for cell in cells]

    def gates(state: Var) -> Var:
        parts = mb.split(x=state, num_splits=len(weights), axis=0) if len(weights) > 1 else [state]
        found = [mb.linear(x=part, weight=weight, bias=bias) for part, (weight, bias) in zip(parts, weights, strict=True)]
        return mb.concat(values=found, axis=0) if len(found) > 1 else found[0]

    return gates


def _together(cells: Sequence[_Cell]) -> Callable[[Var], Var]:
    """The same in half as many operators."""
    weight = mb.const(val=np.stack([cell.weight_hh.T for cell in cells]))
    bias = mb.const(val=np.stack([cell.bias_hh[None] for cell in cells]))
    return lambda state: mb.add(x=mb.matmul(x=state, y=weight), y=bias)


def _written_out(gates: Var, state: Var, recurrent: Callable[[Var], Var]) -> tuple[Var, Var]:
    """The states of every step, [directions, steps * batch, hidden], and the last one."""
    (_, rows, _), (_, batch, hidden) = gates.shape, state.shape
    outer, new = mb.split(x=gates, split_sizes=[2 * hidden, hidden], axis=2)
    if rows == batch:
        state = _step(outer, new, recurrent(state), state)
        return state, state
    found = []
    outers, news = (mb.split(x=each, num_splits=rows // batch, axis=1) for each in (outer, new))
    for reset_and_update, each in zip(outers, news, strict=True):
        state = _step(reset_and_update, each, recurrent(state), state)
        found.append(state)
    return mb.concat(values=found, axis=1), state


def _step(reset_and_update: Var, new: Var, recurrent: Var, state: Var) -> Var:
    """The next state, from what the input and the state before give to the gates."""
    hidden = state.shape[2]
    both, recurrent_new = mb.split(x=recurrent, split_sizes=[2 * hidden, hidden], axis=2)
    reset, update = mb.split(x=mb.sigmoid(x=mb.add(x=reset_and_update, y=both)), num_splits=2, axis=2)
    new = mb.tanh(x=mb.add(x=new, y=mb.mul(x=reset, y=recurrent_new)))
    return mb.add(x=mb.mul(x=mb.sub(x=state, y=new), y=update), y=new)


def _looped(gates: Var, state: Var, recurrent: Callable[[Var], Var]) -> tuple[Var, Var]:
    """As :func:`_written_out`, but some steps for each turn of a loop. Zeros fill the last turn, and go where nobody looks."""
    (directions, rows, _), (_, batch, hidden) = gates.shape, state.shape
    size = STEPS_IN_A_LOOP * batch
    turns = -(-rows // size)
    gates = mb.pad(x=gates, pad=[0, 0, 0, turns * size - rows, 0, 0]) if rows % size else gates
    gates = mb.reshape(x=gates, shape=[directions, turns, size, 3 * hidden])

    def turn(number: Var, state: Var, states: Var) -> tuple[Var, Var, Var]:
        mine = mb.squeeze(x=mb.gather(x=gates, indices=number, axis=1), axes=[1])
        fresh, state = _written_out(mine, state, recurrent)
        states = mb.scatter(data=states, indices=number, updates=mb.expand_dims(x=fresh, axes=[1]), axis=1, mode="update")
        return mb.add(x=number, y=1), state, states

    # Any array of the right shape to write into: zeros would be stored in the package
    states = mb.split(x=gates, split_sizes=[2 * hidden, hidden], axis=3)[1]
    start = ([0], state, states)
    states = mb.while_loop(_cond=lambda number, *_: mb.less(x=number, y=turns), _body=turn, loop_vars=start)[2]
    states = mb.reshape(x=states, shape=[directions, turns * size, hidden])
    found = mb.slice_by_size(x=states, begin=[0, 0, 0], size=[directions, rows, hidden])
    return found, mb.slice_by_size(x=states, begin=[0, rows - batch, 0], size=[directions, batch, hidden])
