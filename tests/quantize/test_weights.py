"""int8 weights alone: a scale per output channel, activations untouched."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture
from edgeopt.core import KeptFloat, QuantScheme
from edgeopt.model.model import Model
from edgeopt.quantize.shares import Left
from edgeopt.quantize.weights import left_float, quantize_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.up = nn.Conv2d(16, 32, 3), nn.ConvTranspose2d(32, 24, 3)
        self.head, self.small = nn.Linear(24, 96), nn.Linear(96, 4)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.up(self.conv(image).relu()).mean((2, 3))
        return torch.as_tensor(self.small(self.head(hidden)))


@pytest.fixture(scope="module")
def programs() -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram, Left]:
    captured = capture(Model(Net().eval(), (torch.randn(1, 16, 8, 8),)))
    found, kept = quantize_weights(captured.program, captured.example, QuantScheme(activation="float16", weight="int8"))
    return captured.program, found, kept


def test_each_weight_is_int8_with_a_scale_per_output_channel(
    programs: tuple[torch.export.ExportedProgram, torch.export.ExportedProgram, Left],
) -> None:
    _, found, left = programs
    targets = [str(node.target) for node in found.graph.nodes if "quantized_decomposed" in str(node.target)]
    assert targets == ["quantized_decomposed.dequantize_per_channel.default"] * 3
    codes = {tuple(value.shape): value for value in found.state_dict.values() if value.dtype == torch.int8}
    assert set(codes) == {(32, 16, 3, 3), (32, 24, 3, 3), (96, 24)}
    for shape, axis in {(32, 16, 3, 3): 0, (32, 24, 3, 3): 1, (96, 24): 0}.items():
        greatest = codes[shape].movedim(axis, 0).flatten(1).abs().amax(1)
        assert greatest.eq(127).all(), "each channel uses the whole range"
    assert left.kept == (KeptFloat(layer="small", operator="linear", reason="384 weights: below 2,048"),)
    work = {"conv": 6 * 6 * 32 * 16 * 9, "up": 6 * 6 * 32 * 24 * 9, "head": 24 * 96, "small": 96 * 4}
    assert left.macs == pytest.approx(work["small"] / sum(work.values()))


def test_the_outputs_are_those_of_the_float_model_but_for_eight_bits(
    programs: tuple[torch.export.ExportedProgram, torch.export.ExportedProgram, Left],
) -> None:
    program, found, _ = programs
    image = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (expected,), (given,) = (each.module(check_guards=False)(image) for each in (program, found))
    noise = float((given - expected).square().sum() / expected.square().sum())
    assert 0 < noise < 1e-3


def test_layers_of_other_kinds_with_weights_are_listed_and_weigh_in_the_work() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cells, self.head = nn.Embedding(96, 32), nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 96)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.as_tensor(self.head(self.cells(self.table(ids))[0]))

    captured = capture(Model(Words().eval(), (torch.arange(10).reshape(1, 10),)))
    left = left_float(captured.program.module(check_guards=False))
    assert {one.layer: one.reason for one in left.kept} == dict.fromkeys(
        ("table", "cells"), "only weights of convolutions and linear layers become integers"
    )
    cells, head = 4 * (32 + 32) * 32, 32 * 96
    assert left.macs == pytest.approx(cells / (cells + head))
