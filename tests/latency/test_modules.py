"""A latency table that the command line fills from real artifacts, on this computer, and what a search then asks."""

import json
from pathlib import Path

import onnx
import onnx.helper
import pytest
import torch
from torch import nn

from edgeopt.bench.types import BenchResult, BenchSettings, Launch, Measurement, Subject
from edgeopt.cli.app import app
from edgeopt.compress.search.latency_table import LayerLatency
from edgeopt.errors import ConfigError, UsageError
from edgeopt.latency import modules
from edgeopt.latency.integer_edges import take_off_float_edges
from edgeopt.latency.modules import layer_latency
from edgeopt.model.latency_table import LatencyTable
from tests.cli.test_app import RUN

QUICK = BenchSettings(launches=1, min_runs=20, min_seconds=0.05, max_seconds=2.0)
EXAMPLE = (torch.rand(1, 3, 8, 8),)
NET = """
import torch
from torch import nn

import edgeopt


def network(channels):
    module = nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return edgeopt.Model(module, (torch.rand(1, 3, 8, 8),))


def small():
    return network(8)


def large():
    return network(16)
"""


def network(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and torchao, in this process
def test_the_command_fills_a_table_from_which_other_networks_are_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modules, "SETTINGS", QUICK)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "devices.toml").write_text(f'[local]\nurl = "local"\nroot = "{tmp_path}/local"\n')
    for name in ("small", "large"):
        done = RUN.invoke(app, ["bench", f"net.py:{name}", "--layers", "table.json", "--target", "x86-fbgemm"])
        assert done.exit_code == 0, done.output
        assert "measured as a whole" in done.output
        assert "x86-fbgemm/onnx on local, 1 thread" in done.output
    entries = json.loads((tmp_path / "table.json").read_text())["layers"]
    # Two convolutions, in integers, and two pools, in which there is nothing to quantize.
    assert sorted(entry["call"].partition("(")[0] for entry in entries) == ["adaptive_avg_pool"] * 2 + ["conv"] * 2
    assert all(entry["ms"] > 0 for entry in entries)
    between = LayerLatency(LatencyTable.load(tmp_path / "table.json")).predict(network(12), EXAMPLE)
    assert 0 < between.ms < 100
    assert between.source == "predicted, 2 of 2 layers interpolated"
    refused = RUN.invoke(app, ["bench", "net.py:small", "--layers", "table.json", "--target", "arm-ort"])
    assert refused.exit_code == ConfigError.exit_code
    assert "another table" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--layers needs one --target"),
        (["--target", "arm-ort", "--device", "a", "--device", "b"], "--layers needs one --device"),
        (["--target", "arm-ort", "--format", "json"], "--format does not go with --layers"),
        (["--target", "arm-ort", "--lock-clocks"], "--lock-clocks does not go with --layers"),
    ],
)
def test_what_does_not_go_with_a_table_of_layers_is_refused(arguments: list[str], said: str) -> None:
    done = RUN.invoke(app, ["bench", "net.py:model", "--layers", "table.json", *arguments])
    assert done.exit_code == UsageError.exit_code
    assert said in done.output


def test_a_format_that_the_target_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no artifacts in the format tflite"):
        layer_latency([(network(8), EXAMPLE)], target="arm-ort", form="tflite", device="local", path=tmp_path / "table.json")


def test_float_edges_are_taken_off_and_what_is_left_computes_in_integers(tmp_path: Path) -> None:
    made = onnx.helper.make_node
    nodes = [
        made("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        made("DequantizeLinear", ["xq", "scale", "zero"], ["xf"]),
        made("Relu", ["xf"], ["yf"]),
        made("QuantizeLinear", ["yf", "scale", "zero"], ["yq"]),
        made("DequantizeLinear", ["yq", "scale", "zero"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    constants = [
        onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.5]),
        onnx.helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0]),
    ]
    graph = onnx.helper.make_graph(nodes, "layer", values[:1], values[1:], constants)
    path = tmp_path / "layer.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(path))
    take_off_float_edges(path)
    found = onnx.load(str(path))
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == ["DequantizeLinear", "Relu", "QuantizeLinear"]
    edges = [*found.graph.input, *found.graph.output]
    assert [value.type.tensor_type.elem_type for value in edges] == [onnx.TensorProto.INT8] * 2
    assert [value.name for value in edges] == ["x", "y"]


def test_a_native_tool_that_gives_no_samples_gives_a_time_all_the_same() -> None:
    def result(*launches: Launch) -> BenchResult:
        subject = Subject(path="", target="", format="tflite", sha256="", bytes=0)
        measurement = Measurement(launches=launches)
        return BenchResult(subject=subject, threads=1, accelerator="cpu", status="ok", measurement=measurement)

    native = (Launch(summary={"median_ns": 2e6, "avg_ns": 9e6}), Launch(summary={"avg_ns": 4e6}))
    assert result(*native).typical_ms == 3.0
    assert result(Launch(samples_ns=(1_000_000, 2_000_000, 6_000_000))).typical_ms == 2.0
    assert result(Launch()).typical_ms is None
