"""Outputs that are inputs, constants, masks or each other, in every format: the numbers, their order and their names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt import registry
from edgeopt.capture import Captured, capture
from edgeopt.model.model import Model
from edgeopt.targets.loader import load

pytestmark = pytest.mark.filterwarnings("default")  # coremltools and torch.jit warn about each other's versions
torch.manual_seed(0)
TARGETS = {"onnx": "portable-fp32", "tflite": "portable-fp32", "coreml": "apple-ane-fp16"}


class Odd(nn.Module):
    """``give`` makes the outputs from the module and its input."""

    def __init__(self, give: Callable[["Odd", Tensor], object]) -> None:
        super().__init__()
        self.give, self.linear = give, nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0).view(1, 4))

    def forward(self, input: Tensor, unused: Tensor) -> object:
        return self.give(self, input)


OUTPUTS: dict[str, Callable[[Odd, Tensor], object]] = {
    "all": lambda m, x: (m.linear(x), x, x, m.table, m.linear.weight, x.view(4), x[:, :2], m.linear(x) * 2),
    "input alone": lambda m, x: x,
    "twice": lambda m, x: (lambda y: (y, y, y.view(4), x > 0, x > 0))(m.linear(x)),
}


def converted(captured: Captured, fmt: str, folder: Path) -> tuple[list[str], list[np.ndarray]]:
    torch.export.save(captured.program, folder / "program.pt2")
    converter, profile = registry.converter(fmt), load(TARGETS[fmt])
    out = folder / f"model{converter.suffix}"
    names = tuple(spec.name for spec in captured.outputs)
    converter.convert(folder / "program.pt2", profile, out, io_float=True, output_names=names)
    outputs = converter.inspect(out, profile)[1]
    found = converter.load(out, threads=1)(*(value.numpy() for value in captured.example))
    return [spec.name for spec in outputs], [np.asarray(value) for value in found]


@pytest.mark.slow
@pytest.mark.parametrize("fmt", TARGETS)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_outputs_that_are_inputs_constants_or_each_other_are_all_there(outputs: str, fmt: str, tmp_path: Path) -> None:
    module = Odd(OUTPUTS[outputs]).eval()
    captured = capture(Model(module, (torch.randn(1, 4), torch.randn(2))))
    wanted = captured.witness(*captured.example)
    names, found = converted(captured, fmt, tmp_path)
    assert names == [spec.name for spec in captured.outputs]
    for value, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value.astype(np.float64), right.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_mask_that_is_an_output_is_in_the_onnx_file_what_it_is_in_the_model(low: float, tmp_path: Path) -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 8)

        def forward(self, x: Tensor, legal: Tensor) -> Tensor:
            return self.linear(x).masked_fill(~legal, low)

    captured = capture(Model(Policy().eval(), (torch.randn(1, 4), torch.rand(1, 8) > 0.5)))
    (found,) = converted(captured, "onnx", tmp_path)[1]
    (wanted,) = captured.witness(*captured.example)
    assert float(wanted.min()) == low
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)
