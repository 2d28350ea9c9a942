"""Recurrent networks against coremltools' conversion of PyTorch's, and against the documented formulas, step by step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.mil.packages import Case, agree, close, run_mil
from tests.mil.test_convolution import tensors

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

Array = NDArray[Any]
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh, "scaled_tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0), "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}  # fmt: skip


def network(kind: str, seed: int, *, layers: int = 1, both: bool = False, batch_first: bool = False, bias: bool = True) -> Case:
    """One of PyTorch's, with weights of its own: [steps, batch, features], or batch first, from states other than zero."""
    features, hidden, ways, rows = 3, 4, 1 + both, GATES[kind] * 4
    shapes: list[tuple[int, ...]] = []
    for layer in range(layers):
        for _ in range(ways):
            shapes += [(rows, features if layer == 0 else ways * hidden), (rows, hidden)] + [(rows,)] * 2 * bias
    x, h, c, *weights = tensors(seed, (5, 2, features), *[(layers * ways, 2, hidden)] * 2, *shapes)
    x = x.transpose(0, 1).contiguous() if batch_first else x
    rule = (weights, bias, layers, 0.0, False, both, batch_first)
    if kind == "lstm":
        return Case(lambda x, h, c: torch.lstm(x, (h, c), *rule), (x, h, c))
    return Case(lambda x, h: getattr(torch, kind)(x, h, *rule), (x, h))


def test_recurrent_networks_agree_with_pytorch() -> None:
    agree([
        network("lstm", 0),
        network("lstm", 1, layers=2, both=True),
        network("lstm", 2, batch_first=True, bias=False),
        network("rnn_tanh", 3, layers=2),
        network("rnn_relu", 4, bias=False),
    ], traced=True)  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(["lstm", "lstm", "rnn_tanh", "rnn_relu"]))
    flag = st.booleans()
    return network(kind, draw(st.integers(0, 1000)), layers=draw(st.integers(1, 2)), both=kind == "lstm" and draw(flag),
                   batch_first=draw(flag), bias=draw(flag))  # fmt: skip


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(networks(), min_size=15, max_size=15))
def test_many_recurrent_networks_agree_with_pytorch(cases: list[Case]) -> None:
    agree(cases, traced=True)


@pytest.mark.slow
def test_grus_agree_with_pytorch() -> None:
    """coremltools makes loops of them."""
    agree(
        [network("gru", 0), network("gru", 1, layers=2, both=True, batch_first=True), network("gru", 2, bias=False)],
        traced=True,
    )


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """Operator, its inputs that vary, its parameters."""
    name, (steps, batch, features, hidden) = (
        draw(st.sampled_from(["lstm", "gru", "rnn"])),
        draw(st.tuples(*[st.integers(1, 4)] * 4)),
    )
    generator = np.random.default_rng(draw(st.integers(0, 1000)))

    def array(*shape: int) -> Array:
        return generator.uniform(-1, 1, shape).astype(np.float32)

    directions = ["forward", "reverse", "bidirectional"] if name == "lstm" else ["forward", "reverse"]
    parameters: dict[str, Any] = {"direction": draw(st.sampled_from(directions)), "output_sequence": draw(st.booleans())}
    ways = 1 + (parameters["direction"] == "bidirectional")
    rows = {"lstm": 4, "gru": 3, "rnn": 1}[name] * hidden
    for back in ("", "_back")[:ways]:
        parameters |= {f"weight_ih{back}": array(rows, features), f"weight_hh{back}": array(rows, hidden)}
        parameters |= {f"bias{back}": array(rows)} if draw(st.booleans()) else {}
        parameters |= {f"peephole{back}": array(3 * hidden)} if name == "lstm" and draw(st.booleans()) else {}
    plain = draw(st.booleans())
    for key, usual in (("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh")):
        if key == "activation" or (key, name) in (("recurrent_activation", "gru"), (key, "lstm")):
            parameters[key] = usual if plain else draw(st.sampled_from(list(ACTIVATIONS)))
    if name == "lstm" and draw(st.booleans()):
        parameters["clip"] = np.float32(0.3)
    if name == "gru" and draw(st.booleans()):
        parameters |= {"reset_after": draw(st.booleans()), "input_bias": array(rows)}
    inputs = {"x": array(steps, batch, features), "initial_h": array(batch, ways * hidden)}
    return name, inputs | ({"initial_c": array(batch, ways * hidden)} if name == "lstm" else {}), parameters


def lstm_step(x: Array, h: Array, c: Array, p: dict[str, Any]) -> tuple[Array, Array]:
    recur, peephole = ACTIVATIONS[p["recurrent_activation"]], p.get("peephole", np.zeros(3 * h.shape[1]))
    i, f, o, z = np.split(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p.get("bias", 0), 4, 1)
    peep_i, peep_f, peep_o = np.split(peephole, 3)
    limit = p.get("clip", np.inf)
    new = np.clip(recur(f + c * peep_f) * c + recur(i + c * peep_i) * ACTIVATIONS[p["cell_activation"]](z), -limit, limit)
    return recur(o + new * peep_o) * ACTIVATIONS[p["activation"]](new), new


def gru_step(x: Array, h: Array, p: dict[str, Any]) -> Array:
    recur, nothing = ACTIVATIONS[p["recurrent_activation"]], np.zeros(3 * h.shape[1])
    (ir, io, iz), (hr, ho, hz) = np.split(p["weight_ih"], 3), np.split(p["weight_hh"], 3)
    (ar, ao, az), (br, bo, bz) = np.split(p.get("input_bias", nothing), 3), np.split(p.get("bias", nothing), 3)
    r, z = recur(x @ ir.T + ar + h @ hr.T + br), recur(x @ iz.T + az + h @ hz.T + bz)
    inner = r * (h @ ho.T + bo) if p.get("reset_after") else (r * h) @ ho.T + bo
    return np.asarray((1 - z) * ACTIVATIONS[p["activation"]](x @ io.T + ao + inner) + z * h)


def one_way(name: str, x: Array, states: list[Array], p: dict[str, Any]) -> tuple[Array, list[Array]]:
    found = []
    for now in x:
        if name == "lstm":
            states = list(lstm_step(now, *states, p))
        elif name == "gru":
            states = [gru_step(now, *states, p)]
        else:
            states = [ACTIVATIONS[p["activation"]](now @ p["weight_ih"].T + states[0] @ p["weight_hh"].T + p.get("bias", 0))]
        found.append(states[0])
    return np.stack(found), states


def by_steps(name: str, inputs: dict[str, Array], p: dict[str, Any]) -> list[Array]:
    x, *states = (value.astype(np.float64) for value in inputs.values())
    if p["direction"] == "bidirectional":
        halves = [np.split(state, 2, 1) for state in states]
        backward = {key: p[f"{key}_back"] for key in ("weight_ih", "weight_hh", "bias", "peephole") if f"{key}_back" in p}
        shared = {key: value for key, value in p.items() if key not in ("bias", "peephole")}
        there, ends = one_way(name, x, [half[0] for half in halves], p)
        back, other = one_way(name, x[::-1], [half[1] for half in halves], shared | backward)
        sequence, states = (
            np.concatenate([there, back[::-1]], 2),
            [np.concatenate(pair, 1) for pair in zip(ends, other, strict=True)],
        )
    else:
        sequence, states = one_way(name, x[::-1] if p["direction"] == "reverse" else x, list(states), p)
    return [sequence if p["output_sequence"] else states[0][None], *states]


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(calls(), min_size=30, max_size=30))
def test_every_parameter_follows_the_formulas(cases: list[tuple[str, dict[str, Array], dict[str, Any]]]) -> None:
    check(cases)


def check(cases: list[tuple[str, dict[str, Array], dict[str, Any]]]) -> None:
    def build(**given: Any) -> list[Any]:
        outputs: list[Any] = []
        for index, (name, inputs, parameters) in enumerate(cases):
            outputs += getattr(Builder, name)(**{key: given[f"{key}_{index}"] for key in inputs}, **parameters)
        return outputs

    fed = {f"{key}_{index}": value for index, (_, inputs, _) in enumerate(cases) for key, value in inputs.items()}
    found = run_mil(build, fed, ios=18)
    wanted = [
        (want, f"{name} {parameters}") for name, inputs, parameters in cases for want in by_steps(name, inputs, parameters)
    ]
    for got, (want, label) in zip(found.values(), wanted, strict=True):
        close(got, want, name=label)


def test_gates_peepholes_clipping_and_directions_follow_the_formulas() -> None:
    def weights(seed: int, rows: int, back: str = "") -> dict[str, Any]:
        ih, hh, bias = (value.numpy() for value in tensors(seed, (rows, 3), (rows, 2), (rows,)))
        return {f"weight_ih{back}": ih, f"weight_hh{back}": hh, f"bias{back}": bias}

    x, h, c = (value.numpy() for value in tensors(0, (4, 2, 3), (2, 2), (2, 2)))
    wide_h, wide_c, peephole, extra = (value.numpy() for value in tensors(1, (2, 4), (2, 4), (6,), (6,)))
    usual = {"recurrent_activation": "sigmoid", "activation": "tanh"}
    forward, reverse = ({"direction": direction, "output_sequence": True} for direction in ("forward", "reverse"))
    both = {"direction": "bidirectional", "cell_activation": "tanh", **usual, **weights(2, 8), **weights(3, 8, "_back")}
    state, states = {"x": x, "initial_h": h}, {"x": x, "initial_h": h, "initial_c": c}
    wide = {"x": x, "initial_h": wide_h, "initial_c": wide_c}
    peeping = {"peephole": peephole, "clip": np.float32(0.3), "cell_activation": "hard_sigmoid", **usual, **weights(4, 8)}
    check([
        ("lstm", wide, {**both, "output_sequence": True}),
        ("lstm", wide, {**both, "output_sequence": False}),
        ("lstm", states, {**peeping, **reverse}),
        ("gru", state, {**reverse, **usual, **weights(5, 6)}),
        ("gru", state, {**forward, **usual, **weights(6, 6), "reset_after": True, "input_bias": extra}),
        ("rnn", state, {**reverse, "activation": "tanh", **weights(7, 2)}),
    ])  # fmt: skip
