"""Recurrent layers in Core ML: as its operators or written out, without a trace, and each operator under its layer's name."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.converters.coreml import recurrent
from edgeopt.converters.coreml.converter import FRONTEND_KEY, CoremlConverter
from edgeopt.mil.loading import LAYERS_KEY, load_mil_program, operations, read_spec
from edgeopt.targets.loader import load
from edgeopt.targets.schema import TargetProfile

# coremltools, torch.export and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")
FP16, PALETTES = load("apple-ane-fp16"), load("apple-ane-palettized")
LAYERS: dict[str, Any] = {
    "lstm": lambda: nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(8, 16, num_layers=2, bidirectional=True),
    "rnn_tanh": lambda: nn.RNN(8, 16),
    "rnn_relu": lambda: nn.RNN(8, 16, nonlinearity="relu", bias=False, batch_first=True),
}


class WithState(nn.Module):
    def __init__(self, cells: nn.GRU) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        every, last = self.cells(x, initial)
        return every, last


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


def same_as_pytorchs(folder: Path, cells: nn.GRU, steps: int, batch: int, target: TargetProfile) -> dict[str, int]:
    """Compares outputs and states for a state to begin with; the package's operators."""
    net, out, directions = WithState(cells).eval(), folder / "model.mlpackage", 2 if cells.bidirectional else 1
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn((batch, steps, 3) if cells.batch_first else (steps, batch, 3), generator=generator)
    state = torch.randn(cells.num_layers * directions, batch, cells.hidden_size, generator=generator)
    torch.export.save(torch.export.export(net, (x, state), strict=False), folder / "program.pt2")
    converter = CoremlConverter()
    converter.convert(folder / "program.pt2", target, out, io_float=False, output_names=("every", "last"))
    found = edgeopt.coreml.load(out, precision="float32")(x=x.numpy(), initial=state.numpy())
    for one, other in zip(found.values(), net(x, state), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=2e-3)  # weights are float16
    return converter.inspect(out, target)[2].operators


SHAPES = st.tuples(
    st.fixed_dictionaries({"num_layers": st.integers(1, 3), "bidirectional": st.booleans(), "bias": st.booleans(),
                           "batch_first": st.booleans()}),
    st.integers(1, 40), st.integers(1, 3), st.booleans(),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(SHAPES)
def test_any_gru_is_pytorchs_written_out_or_in_a_loop(drawn: tuple[dict[str, Any], int, int, bool]) -> None:
    keywords, steps, batch, palettes = drawn
    torch.manual_seed(steps)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(recurrent, "STEPS_WRITTEN_OUT", 20)
        patch.setattr(recurrent, "STEPS_IN_A_LOOP", 4)
        operators = same_as_pytorchs(Path(folder), nn.GRU(3, 5, **keywords), steps, batch, PALETTES if palettes else FP16)
    assert operators.get("while_loop", 0) == (keywords["num_layers"] if steps > 20 else 0)


@pytest.mark.parametrize("steps", [1, 2, 129, 144])
def test_a_gru_goes_on_from_the_state_that_it_is_given(steps: int, tmp_path: Path) -> None:
    operators = same_as_pytorchs(tmp_path, nn.GRU(3, 5, bidirectional=True), steps, 2, FP16)
    assert operators.get("while_loop", 0) == (steps > recurrent.STEPS_WRITTEN_OUT)
    unsupported = CoremlConverter().inspect(tmp_path / "model.mlpackage", FP16)[2].unsupported
    assert unsupported == (("while_loop (left to the CPU)",) if operators.get("while_loop") else ())


@pytest.mark.slow
def test_a_long_sequence_takes_no_more_of_the_package_than_a_longer_one(tmp_path: Path) -> None:
    sizes = []
    for turns in (9, 30):
        package, *_ = converted(tmp_path, nn.GRU(8, 16), torch.zeros(turns * recurrent.STEPS_IN_A_LOOP, 1, 8))
        sizes.append(sum(path.stat().st_size for path in package.rglob("*") if path.is_file()))
    assert sizes[1] - sizes[0] < 500, "only numbers in it are longer"


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


def test_every_operator_of_a_loop_has_its_layer(tmp_path: Path) -> None:
    steps = recurrent.STEPS_WRITTEN_OUT + 1
    package, _, operators = converted(tmp_path, nn.GRU(8, 16), torch.zeros(steps, 1, 8))
    assert operators["while_loop"] == 1
    _every_operator_is_its_layers(package)


def test_every_operator_of_the_written_out_steps_has_its_layer(tmp_path: Path) -> None:
    package, *_ = converted(tmp_path, nn.GRU(8, 16), torch.zeros(3, 1, 8))
    _every_operator_is_its_layers(package)


def _every_operator_is_its_layers(package: Path) -> None:
    named = layers_of(package)
    main = load_mil_program(package, read_spec(package)).functions["main"]
    kinds = {each.outputs[0].name: each.op_type for each in operations(main) if each.op_type not in ("const", "cast")}
    assert set(kinds) - set(named) == set(), "an operator without a layer"
    assert {named[name] for name, kind in kinds.items() if kind in ("sigmoid", "tanh", "while_loop")} == {"cells"}
    products = [named[name] for name, kind in kinds.items() if kind == "linear"]
    assert (products[0], products[-1], set(products[1:-1])) == ("stem", "head", {"cells"})
