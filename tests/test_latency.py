"""A latency table filled from real artifacts, on this computer."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeopt.bench.types import BenchSettings
from edgeopt.errors import ConfigError
from edgeopt.latency import layer_latency

# The warnings are of torch and torchao, in this process.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
QUICK = BenchSettings(launches=1, min_runs=20, min_seconds=0.05, max_seconds=2.0)
EXAMPLE = (torch.rand(1, 3, 8, 8),)


def network(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_a_table_is_filled_from_artifacts_kept_and_used(tmp_path: Path) -> None:
    path, events = tmp_path / "table.json", list[str]()

    def filled(target: str, *channels: int) -> float:
        networks = [(network(one), EXAMPLE) for one in channels]
        times = layer_latency(
            networks, target=target, form="onnx", device="local", path=path, settings=QUICK,
            listen=lambda event: events.append(event.phase),
        )  # fmt: skip
        return times.predict(network(12), EXAMPLE).ms

    assert 0 < filled("x86-fbgemm", 8, 16) < 100
    entries = json.loads(path.read_text())["layers"]
    # Two convolutions, in integers, and two pools, in which there is nothing to quantize.
    assert sorted(entry["call"].partition("(")[0] for entry in entries) == ["adaptive_avg_pool"] * 2 + ["conv"] * 2
    assert all(entry["ms"] > 0 for entry in entries)
    events.clear()
    filled("x86-fbgemm", 8, 16)
    assert events == []
    with pytest.raises(ConfigError, match="another table"):
        filled("arm-ort", 8)


def test_a_format_that_the_target_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no artifacts in the format tflite"):
        layer_latency([(network(8), EXAMPLE)], target="arm-ort", form="tflite", device="local", path=tmp_path / "table.json")
