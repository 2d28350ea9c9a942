"""Recurrent layers in Core ML: as its operators or written out, without a trace, and each operator under its layer's name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.converters.coreml import FRONTEND_KEY, CoremlConverter
from edgeopt.converters.coreml_recurrent import STEPS_WRITTEN_OUT, gru
from edgeopt.mil.loading import LAYERS_KEY, load_program, operations, read_spec
from edgeopt.targets.loader import load

# coremltools, torch.export and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")
FP16 = load("apple-ane-fp16")
LAYERS: dict[str, Any] = {
    "lstm": lambda: nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(8, 16, num_layers=2, bidirectional=True),
    "rnn_tanh": lambda: nn.RNN(8, 16),
    "rnn_relu": lambda: nn.RNN(8, 16, nonlinearity="relu", bias=False, batch_first=True),
}


class Recurrent(nn.Module):
    def __init__(self, cells: nn.RNNBase) -> None:
        super().__init__()
        self.stem, self.cells = nn.Linear(8, 8), cells
        self.head = nn.Linear(16 * (2 if cells.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        every, state = self.cells(self.stem(x))
        return self.head(every), state[1] if isinstance(state, tuple) else state


def converted(folder: Path, cells: nn.RNNBase, x: Tensor) -> tuple[Path, nn.Module, dict[str, int]]:
    net, out = Recurrent(cells).eval(), folder / "model.mlpackage"
    torch.export.save(torch.export.export(net, (x,), strict=False), folder / "program.pt2")
    converter = CoremlConverter()
    converter.convert(folder / "program.pt2", FP16, out, io_float=False, output_names=("scores", "state"))
    return out, net, converter.inspect(out, FP16)[2].operators


def layers_of(package: Path) -> dict[str, str]:
    """Layers by the outputs of operators."""
    found = json.loads(read_spec(package).description.metadata.userDefined[LAYERS_KEY])
    return {name: layer for layer, names in found.items() for name in names}


@given(
    steps=st.integers(1, 4), batch=st.integers(1, 3), layers=st.integers(1, 3), both=st.booleans(), bias=st.booleans(),
    batch_first=st.booleans(), whole=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_gru_written_out_is_pytorchs(
    steps: int, batch: int, layers: int, both: bool, bias: bool, batch_first: bool, whole: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    cells = nn.GRU(3, 5, layers, bidirectional=both, bias=bias, batch_first=batch_first, dtype=torch.float64).eval()
    x = torch.randn((batch, steps, 3) if batch_first else (steps, batch, 3), dtype=torch.float64)
    state = torch.randn(layers * (1 + both), batch, 5, dtype=torch.float64)
    with torch.no_grad():
        wanted = cells(x, state)
        weights = [*cells.parameters()]
        found = gru(whole_weights=whole)(x, state, weights, bias, layers, 0.5, False, both, batch_first)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_layers_need_no_trace_and_give_the_models_numbers(kind: str, tmp_path: Path) -> None:
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    package, net, operators = converted(tmp_path, LAYERS[kind](), x)
    assert read_spec(package).description.metadata.userDefined[FRONTEND_KEY] == "torch.export"
    assert not {"while_loop", "gru", "cond"} & set(operators)
    assert operators.get(kind.partition("_")[0], 0) == {"lstm": 2, "gru": 0}.get(kind, 1)
    found = edgeopt.coreml.load(package)(x=x.numpy())
    for one, other in zip(found.values(), net(x), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=2e-3)


def test_more_steps_than_are_written_out_become_a_loop(tmp_path: Path) -> None:
    x = torch.randn(STEPS_WRITTEN_OUT + 1, 1, 8, generator=torch.Generator().manual_seed(0))
    package, net, operators = converted(tmp_path, nn.GRU(8, 16), x)
    assert operators["while_loop"] == 1
    found = edgeopt.coreml.load(package)(x=x.numpy())
    np.testing.assert_allclose(found["scores"], net(x)[0].detach().numpy(), atol=2e-3)
    _every_operator_is_its_layers(package)


def test_every_operator_of_the_written_out_steps_has_its_layer(tmp_path: Path) -> None:
    package, *_ = converted(tmp_path, nn.GRU(8, 16), torch.zeros(3, 1, 8))
    _every_operator_is_its_layers(package)


def _every_operator_is_its_layers(package: Path) -> None:
    named = layers_of(package)
    main = load_program(package, read_spec(package)).functions["main"]
    kinds = {each.outputs[0].name: each.op_type for each in operations(main) if each.op_type not in ("const", "cast")}
    assert set(kinds) - set(named) == set(), "an operator without a layer"
    assert {named[name] for name, kind in kinds.items() if kind in ("sigmoid", "tanh", "while_loop")} == {"cells"}
    products = [named[name] for name, kind in kinds.items() if kind == "linear"]
    assert (products[0], products[-1], set(products[1:-1])) == ("stem", "head", {"cells"})
