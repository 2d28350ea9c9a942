"""What the planner keeps apart stays apart in the file: parts of an output measured one by one in their runtimes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt import registry
from edgeopt.capture import name_inputs
from edgeopt.quantize.annotate import quantize
from edgeopt.targets import loader
from tests.converters.programs import sqnr_db
from tests.quantize.networks import captured_and_observed
from tests.quantize.test_fitness import JOINS, Heads

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao
DATA = [(torch.randn(16, 16),) for _ in range(8)]


def lowered(module: nn.Module, target: str, folder: Path, data: list[tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """The artifact of ``module`` in its runtime."""
    profile = loader.load(target)
    first, *others = data
    captured, _, statistics = captured_and_observed(module.eval(), *first, data=others)
    converter = registry.converter(profile.formats[0])
    arguments = (captured.program, captured.example, statistics, profile, profile.schemes[0])
    io_float = profile.io.float_type != "int8"
    program, _ = quantize(*arguments, io_float, fold=profile.formats[0] != "tflite")
    name_inputs(program, captured.signature.specs)
    torch.export.save(program, folder / "program.pt2")
    names = tuple(spec.name for spec in captured.outputs)
    out = folder / f"model{converter.suffix}"
    converter.convert(folder / "program.pt2", profile, out, io_float=io_float, output_names=names)
    run = converter.load(out, threads=1)
    return lambda *inputs: torch.from_numpy(np.asarray(run(*(value.numpy() for value in inputs))[0]))


def parts_db(expected: Tensor, found: Tensor, large: Tensor) -> tuple[float, float]:
    """SQNR of the elements that come from the large part, and of the others."""
    return sqnr_db(expected[large].numpy(), found[large].numpy()), sqnr_db(expected[~large].numpy(), found[~large].numpy())


@pytest.mark.parametrize("join", ["cat", "stack", "where", "write", "moved", "twice", "padded"])
@pytest.mark.parametrize("target", ["arm-xnnpack", "x86-fbgemm-avx2"])
def test_each_part_of_a_join_keeps_its_precision_in_the_file(join: str, target: str, tmp_path: Path) -> None:
    module = Heads(JOINS[join]).eval()
    run = lowered(module, target, tmp_path, DATA)
    with torch.no_grad():
        expected, marks = module(*DATA[0]), JOINS[join](torch.ones(16, 6), torch.full((16, 6), 0.25))
    found, kept = run(*DATA[0]), marks != 0
    for decibels in parts_db(expected[kept], found[kept], marks[kept] == 1):
        assert decibels > 20


@pytest.mark.parametrize("activation", [torch.tanh, torch.sigmoid], ids=["tanh", "sigmoid"])
@pytest.mark.parametrize("target", ["arm-xnnpack", "x86-fbgemm-avx2"])
def test_a_value_beside_a_bounded_one_is_not_clipped(
    activation: Callable[[Tensor], Tensor], target: str, tmp_path: Path
) -> None:
    module = Heads(lambda a, b: torch.cat([activation(b), a], 1) * 1.0, ratio=4.0).eval()
    run = lowered(module, target, tmp_path, DATA)
    with torch.no_grad():
        expected = module(*DATA[0])
    large = torch.arange(12).expand(16, 12) >= 6
    assert min(parts_db(expected, run(*DATA[0]), large)) > 20


class Cell(nn.Module):
    """A gated cell written out, as in a ConvGRU: bounded gates joined with a state that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.new, self.out = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, new, free = self.gate(x).sigmoid(), self.new(x).tanh(), self.new(x) * 4
        return self.out(torch.cat([gate * new, gate, free], 1))


@pytest.mark.parametrize("target", ["arm-xnnpack", "x86-fbgemm-avx2"])
def test_a_gated_cell_is_as_exact_as_eight_bits_are(target: str, tmp_path: Path) -> None:
    module = Cell().eval()
    run = lowered(module, target, tmp_path, DATA)
    with torch.no_grad():
        expected = module(*DATA[0])
    assert sqnr_db(expected.numpy(), run(*DATA[0]).numpy()) > 25


@pytest.mark.parametrize("activation", [nn.Hardswish, nn.SiLU])
def test_an_activation_written_out_has_no_slow_kernel_in_the_file(activation: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), activation(), nn.Conv2d(8, 4, 1)).eval()
    data = [(torch.randn(1, 3, 16, 16),) for _ in range(4)]
    run = lowered(module, "arm-xnnpack", tmp_path, data)
    with torch.no_grad():
        assert sqnr_db(module(*data[0]).numpy(), run(*data[0]).numpy()) > 25
    profile = loader.load("arm-xnnpack")
    _, _, structure = registry.converter("tflite").inspect(tmp_path / "model.tflite", profile)
    assert not {"HARD_SWISH", "DEQUANTIZE"} & structure.operators.keys()
