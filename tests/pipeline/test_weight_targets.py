"""Targets that quantize weights alone: what is made, proved and written; which scheme gives way to which."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.compress.cluster.cluster import Cluster
from edgeopt.compress.technique import Context
from edgeopt.core import TargetResult
from edgeopt.mil.loading import load_mil_program, operations, read_spec

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log

IMAGE = (torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.up = nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 48, 2)
        self.head = nn.Linear(48, 128)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.up(self.norm(self.conv(image)).relu()).relu()
        return torch.as_tensor(self.head(hidden.mean((2, 3))))


def exported(net: nn.Module, folder: Path, *targets: str) -> dict[str, TargetResult]:
    bundle = edgeopt.export(net.eval(), IMAGE, targets=targets, out=folder / "bundle", use_cache=False)
    return {result.target: result for result in bundle.manifest.results}


def test_a_scheme_that_fails_its_checks_gives_way_to_the_next_and_both_are_smaller_than_float16(tmp_path: Path) -> None:
    text = files("edgeopt.targets").joinpath("apple-ane-palettized.toml").read_text(encoding="utf-8")
    text = text.replace('name = "apple-ane-palettized"', 'name = "strict"').replace(
        "float_sqnr_db = 10.0", "float_sqnr_db = 36.0"
    )
    (tmp_path / "strict.toml").write_text(text, encoding="utf-8")
    found = exported(Net(), tmp_path, "apple-ane-fp16", "apple-ane-palettized", str(tmp_path / "strict.toml"), "apple-ane-w8")
    schemes = {name: result.plan.scheme.describe() for name, result in found.items() if result.plan}
    assert schemes["apple-ane-palettized"] == "fp16 / 4-bit palette per 16 channels"
    assert schemes["strict"] == "fp16 / 6-bit palette per 16 channels"
    assert schemes["apple-ane-w8"] == "fp16 / s8 per-channel"
    assert all(result.status == "ok" for result in found.values())
    (warning,) = found["strict"].warnings
    assert "4-bit palette per 16 channels was refused: sqnr_float" in warning and "limit 36 dB" in warning
    sizes = {name: result.artifact.bytes for name, result in found.items() if result.artifact}
    assert sizes["apple-ane-palettized"] < sizes["strict"] < sizes["apple-ane-w8"] < sizes["apple-ane-fp16"]


def test_clustered_weights_are_written_value_for_value(tmp_path: Path) -> None:
    clustered = Cluster(centroids=16).apply(Net().eval(), Context(example_inputs=IMAGE)).module
    result = exported(clustered, tmp_path, "apple-ane-palettized")["apple-ane-palettized"]
    assert result.status == "ok" and result.artifact is not None
    package = tmp_path / "bundle" / result.artifact.path
    function = load_mil_program(package, read_spec(package)).functions["main"]
    stored = [operation for operation in operations(function) if operation.op_type == "constexpr_lut_to_dense"]
    weights = {operation.lut.val.size: operation.materialized_val_inference() for operation in stored}
    assert set(weights) == {16}, "one table of 16 values for the whole of each weight"
    for name in ("conv", "up", "head"):
        wanted = clustered.get_parameter(f"{name}.weight").detach().numpy().astype(np.float16)
        assert any(np.array_equal(operation.materialized_val_inference(), wanted) for operation in stored), name
