"""A table of a device's times in the place of a target's costs: it moves layers to where they are faster, or is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeopt.capture import capture, layer_calls
from edgeopt.core import KeptFloat, Plan, to_json
from edgeopt.errors import CompressionError, ConfigError, EdgeoptError
from edgeopt.model.latency_table import LatencyTable, LayerTime
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.export import export
from edgeopt.pipeline.plan import plan

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao
TARGET = "x86-fbgemm"


def model() -> Model:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    return Model(net.eval(), (torch.randn(1, 3, 24, 24),))


def calls() -> list[str]:
    program = capture(model()).program
    inputs = set(program.graph_signature.user_inputs)
    constants = {node for node in program.graph.find_nodes(op="placeholder") if node.name not in inputs}
    return [layer_calls.call(nodes) for nodes in layer_calls.layers(program.graph, constants)]


def table(folder: Path, *times: tuple[str, float, float | None], runtime: str = f"{TARGET}/onnx") -> Path:
    layers = tuple(LayerTime(call=call, form="", work=1, ms=ms, float_ms=floats) for call, ms, floats in times)
    path = folder / "table.json"
    LatencyTable(device="pi5", runtime=runtime, threads=1, layers=layers).save(path)
    return path


def planned(folder: Path, path: Path | None) -> Plan:
    plans = plan(model(), Options(out=folder / "out", targets=(TARGET,), latency_table=path))
    return next(one for one in plans if one.target == TARGET)


def kept(found: Plan) -> dict[str, str]:
    return {one.layer: one.reason for one in found.kept_float}


def test_what_a_device_computes_faster_in_floats_stays_in_floats_there(tmp_path: Path) -> None:
    assert kept(planned(tmp_path, None)) == {}
    first, second, third = calls()
    found = planned(tmp_path, table(tmp_path, (first, 1.0, 2.0), (second, 9.0, 1.0), (third, 1.0, 9.0)))
    assert kept(found) == {"2": "it was measured to take 8 ms longer in integers"}
    (costs,) = (one for one in found.decisions if one.subject == "costs")
    assert costs.choice == "measured" and "measured on pi5 with 1 thread: 3 of 3 layers" in costs.reason


def test_layers_that_the_table_does_not_know_are_named_and_have_the_profile_s_costs(tmp_path: Path) -> None:
    first, second, third = calls()
    found = planned(tmp_path, table(tmp_path, (first, 1.0, 2.0), (third, 1.0, 2.0)))
    (costs,) = (one for one in found.decisions if one.subject == "costs")
    assert "2 of 3 layers" in costs.reason and second in costs.reason
    assert kept(found) == {}


def test_a_table_of_another_target_or_of_another_model_is_refused(tmp_path: Path) -> None:
    for runtime in ("arm-ort/onnx", f"{TARGET}/tflite", "portable-fp32/onnx", "\x1b[31m" * 1000):
        with pytest.raises(ConfigError, match="a table of another target"):
            planned(tmp_path, table(tmp_path, (calls()[0], 1.0, 2.0), runtime=runtime))
    of_another, first = "conv(of another)", calls()[0]
    for one in (None, (of_another, 1.0, 2.0), (first, 1.0, None), (first, 0.0, 0.0), (first, 0.0, 5e-324)):
        with pytest.raises(ConfigError, match="has no costs for this model"):
            planned(tmp_path, table(tmp_path, *([one] if one else [])))


@pytest.mark.parametrize("ms", ["NaN", "-1.0", "Infinity", "1e300", '"fast"', "null", "[]", "9" * 5000])
def test_a_time_that_no_device_has_is_refused(ms: str, tmp_path: Path) -> None:
    path = table(tmp_path, (calls()[0], 77.25, 2.0))
    path.write_text(path.read_text().replace("77.25", ms))
    with pytest.raises(CompressionError, match="is no latency table"):
        export(model(), Options(out=tmp_path / "out", targets=(TARGET,), latency_table=path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"device": 1}', "[" * 100_000, to_json(KeptFloat(layer="", operator="", reason=""))]
)
def test_what_is_no_table_is_refused_before_any_work(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(EdgeoptError, match="is no latency table"):
        export(model(), Options(out=tmp_path / "out", targets=(TARGET,), latency_table=path))
    path.unlink()
    with pytest.raises(EdgeoptError, match="is no latency table"):
        export(model(), Options(out=tmp_path / "out", targets=(TARGET,), latency_table=path))
