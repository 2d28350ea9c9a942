"""Whole networks in float32 programs, where nothing is rounded: the evaluator gives what PyTorch gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgeopt
import edgeopt.coreml
from edgeopt.capture import capture
from edgeopt.converters.coreml.converter import CoremlConverter
from edgeopt.core import QuantScheme
from edgeopt.model.model import Model
from edgeopt.targets.loader import load
from tests.matrix.architectures import ARCHITECTURES
from tests.mil.packages import close

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # coremltools, torch.export and torch.jit warn about each other
]
FP16 = load("apple-ane-fp16")
FP32 = replace(FP16, schemes=(QuantScheme(activation="float32", weight="float32"),))


class Recurrent(nn.Module):
    def __init__(self, cells: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.cells, self.head = cells, nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.cells(x)[0])
        return scores


def recurrent(kind: type[nn.LSTM | nn.GRU]) -> edgeopt.Model:
    torch.manual_seed(0)
    cells = kind(6, 16, num_layers=2, bidirectional=True, batch_first=True)
    return edgeopt.Model(Recurrent(cells).eval(), (torch.randn(1, 9, 6),))


NETWORKS: dict[str, Callable[[], Model]] = {
    **ARCHITECTURES,
    "lstm": lambda: recurrent(nn.LSTM),
    "gru": lambda: recurrent(nn.GRU),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float32_program_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    captured = capture(NETWORKS[name]())
    torch.export.save(captured.program, tmp_path / "program.pt2")
    names = tuple(spec.name for spec in captured.outputs)
    package = tmp_path / "model.mlpackage"
    CoremlConverter().convert(tmp_path / "program.pt2", FP32, package, io_float=True, output_names=names)
    evaluator = edgeopt.coreml.load(package, precision="float32")
    inputs = {spec.name: value.numpy() for spec, value in zip(evaluator.inputs, captured.example, strict=True)}
    with torch.no_grad():
        wanted = captured.program.module(check_guards=False)(*captured.example)
    for spec, found, want in zip(evaluator.outputs, evaluator(**inputs).values(), wanted, strict=True):
        close(found, want.numpy(), 1e-4, spec.name)
