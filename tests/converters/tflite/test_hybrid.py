"""Layers that read integers and give floats: their weights are 8-bit in the file, and LiteRT runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeopt.converters.tflite.converter import TfliteConverter
from edgeopt.converters.tflite.hybrid import _on_grid
from edgeopt.quantize.annotate import quantize
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch, torchao and the converter
PROFILE = loader.load("arm-xnnpack")


class Ending(nn.Module):
    """Its last layer reads ``rank`` axes."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rank, self.body, self.fc = rank, nn.Linear(16, 64), nn.Linear(64, 300)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return self.fc(hidden.reshape(-1, 64) if self.rank == 2 else hidden)


@pytest.mark.parametrize("rank", [2, 3])
def test_the_last_layer_keeps_small_weights_and_gives_floats(rank: int, tmp_path: Path) -> None:
    net, data = Ending(rank).eval(), torch.randn(4, 4, 16)
    captured, _, statistics = captured_and_observed(net, data)
    exported, decided = quantize(captured.program, captured.example, statistics, PROFILE, PROFILE.schemes[0], True, False)
    assert decided.float_last == ("fc",)
    torch.export.save(exported, tmp_path / "program.pt2")
    path = tmp_path / "model.tflite"
    TfliteConverter().convert(tmp_path / "program.pt2", PROFILE, path, io_float=True, output_names=("logits",))
    assert path.stat().st_size < 1.5 * (16 * 64 + 64 * 300) + 10_000
    (logits,) = TfliteConverter().load(path, threads=1)(data.numpy())
    with torch.no_grad():
        wanted = net(data).numpy()
    noise = np.square(logits - wanted).sum()
    assert logits.dtype == np.float32 and 10 * np.log10(np.square(wanted).sum() / noise) > 30
    assert len(np.unique(logits)) > 2000


def test_only_weights_on_a_grid_are_folded() -> None:
    random = np.random.default_rng(0)
    integers, scales = random.integers(-127, 128, (6, 20)), random.uniform(0.01, 1, 6)
    integers[:, 0] = 127
    found = _on_grid((integers * scales[:, None]).astype(np.float32))
    assert found is not None
    assert (found[0] == integers).all()
    np.testing.assert_allclose(found[1], scales, rtol=1e-6)
    assert _on_grid(random.standard_normal((6, 20)).astype(np.float32)) is None
    zeros = _on_grid(np.zeros((2, 4), np.float32))
    assert zeros is not None and not zeros[0].any()
