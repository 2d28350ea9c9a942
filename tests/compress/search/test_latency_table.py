"""Latency tables: sums over layers, what is measured once, what is interpolated, and their files."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.search.latency_table import LayerLatency, nothing, time_here
from edgeopt.compress.search.layer_trace import layers_of
from edgeopt.compress.search.search import search
from edgeopt.core import from_json, to_json
from edgeopt.errors import CompressionError
from edgeopt.model.latency_table import LatencyTable, LayerTime
from edgeopt.model.model import Batch
from tests.compress.search.families import context

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao, while they capture
IMAGE = (torch.rand(1, 1, 8, 8),)
EMPTY = LatencyTable(device="here", runtime="torch", threads=1)
OVERHEAD_MS = 0.25


def build(width: float, depth: int = 1) -> nn.Module:
    """Two kinds of layers, the second ``depth`` times."""
    channels = round(16 * width)
    deeper = [layer for _ in range(depth) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), *deeper).eval()


class Pretended:
    """A device whose layers take a nanosecond per multiply-accumulate, and a quarter of a millisecond per call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, example: Batch) -> float:
        self.calls += 1
        return OVERHEAD_MS + macs(module, example) * 1e-6


def test_a_prediction_is_the_sum_of_layers_with_the_overhead_of_one_call() -> None:
    device, module = Pretended(), build(width=0.5, depth=2)
    prediction = LayerLatency(EMPTY, device).predict(module, IMAGE)
    assert prediction.ms == pytest.approx(device(module, IMAGE))
    assert prediction.source == "predicted"
    assert len(prediction.layers) == len(layers_of(module, IMAGE))


def test_a_layer_is_measured_once_and_stands_in_the_file(tmp_path: Path) -> None:
    device, module = Pretended(), build(width=0.5, depth=2)
    path = tmp_path / "table.json"
    times = LayerLatency(EMPTY, device, path)
    first = times.predict(module, IMAGE)
    different = len({layer.call for layer in layers_of(module, IMAGE)})
    assert device.calls == different + 1  # and the overhead
    assert times.predict(module, IMAGE) == first
    assert device.calls == different + 1
    read = LatencyTable.load(path)
    assert read == times.table
    assert LayerLatency(read).predict(module, IMAGE) == first


@pytest.mark.slow
def test_without_a_device_unknown_widths_are_interpolated_and_it_is_said() -> None:
    device = Pretended()
    times = LayerLatency(EMPTY, device)
    for width in (0.25, 1.0):
        times.predict(build(width=width), IMAGE)
    alone, module = LayerLatency(times.table), build(width=0.5)
    prediction = alone.predict(module, IMAGE)
    assert prediction.source == "predicted, 2 of 2 layers interpolated"
    assert prediction.ms == pytest.approx(device(module, IMAGE))  # linear in work, as this device is
    beyond = alone.predict(build(width=2.0), IMAGE).ms
    assert beyond == pytest.approx(device(build(width=2.0), IMAGE))


def test_a_layer_that_nothing_like_it_was_measured_of_is_refused_with_what_to_do() -> None:
    times = LayerLatency(EMPTY, Pretended())
    times.predict(nn.Conv2d(1, 4, 3), IMAGE)
    with pytest.raises(CompressionError, match=r"the time of conv[\s\S]*give a measure"):
        LayerLatency(times.table).predict(nn.Conv2d(1, 4, 5), IMAGE)


def test_what_is_missing_can_be_measured_elsewhere_and_added() -> None:
    times, module = LayerLatency(EMPTY), nn.Linear(4, 2)
    example = (torch.rand(1, 4),)
    layers = times.missing(module, example)
    assert layers[0].call == "nothing"
    times.add({layer.call: 1.0 + number for number, layer in enumerate(layers)}, layers)
    assert times.missing(module, example) == ()
    assert times.predict(module, example).ms == pytest.approx(1.0 + sum(range(1, len(layers))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_measured_time_that_makes_no_sense_is_refused(value: float) -> None:
    with pytest.raises(CompressionError, match="the measured time of nothing"):
        LayerLatency(EMPTY).add({"nothing": value}, (nothing(),))


def test_the_error_is_told_against_a_measured_whole() -> None:
    found = LayerLatency(EMPTY, Pretended()).against(nn.Linear(4, 2), (torch.rand(1, 4),), measured_ms=0.1)
    assert found.error == pytest.approx(found.predicted_ms / 0.1 - 1)


times = st.builds(LayerTime, call=st.text(), form=st.text(), work=st.integers(0, 10**12), ms=st.floats(0, 1e6))


@given(st.builds(LatencyTable, device=st.text(), runtime=st.text(), threads=st.integers(1, 64), layers=st.tuples(times)))
@settings(max_examples=30)
def test_any_table_round_trips(table: LatencyTable) -> None:
    assert from_json(LatencyTable, to_json(table)) == table


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b"\xff\xfe", b'{"device": 1}'])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.json").write_bytes(content)
    with pytest.raises(CompressionError, match="is no latency table"):
        LatencyTable.load(tmp_path / "table.json")
    with pytest.raises(CompressionError, match="is no latency table"):
        LatencyTable.load(tmp_path / "missing.json")


@pytest.mark.slow
def test_a_search_asks_the_table_and_says_so() -> None:
    known = LayerLatency(EMPTY, Pretended())
    known.predict(build(width=0.5), IMAGE)
    given = context(fit=None, evaluate=lambda predict: {"mean": float(predict(IMAGE[0].numpy())[0].mean())})
    found = search(build, {"width": (0.25, 0.5)}, given, latency=LayerLatency(known.table))
    assert found.cost == "latency_ms"
    sources = {trial.architecture["width"]: trial.latency_source for trial in found.trials}
    assert sources == {0.5: "predicted", 0.25: "predicted, 2 of 2 layers interpolated"}


def test_time_here_is_a_time_and_puts_the_mode_back() -> None:
    module = build(width=0.5).train()
    assert 0 < time_here(module, IMAGE) < 1000
    assert module.training
