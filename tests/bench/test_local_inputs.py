"""Inputs of a benchmark on this computer: several of them, of different sizes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeopt.bench.artifacts import load
from edgeopt.bench.types import BenchSettings
from edgeopt.model.model import Predict
from tests.bench.parts import bench, here
from tests.bench.test_local import no_pauses

__all__ = ["no_pauses"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_inputs_of_several_sizes_reach_the_device(tmp_path: Path) -> None:
    sizes = {"a": [4, 8], "b": [8], "c": [1]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()]
    nodes = [helper.make_node("Add", ["a", "b"], ["ab"]), helper.make_node("Mul", ["ab", "c"], ["y"])]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])
    model = helper.make_model(
        helper.make_graph(nodes, "m", values, [result]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, str(tmp_path / "several.onnx"))

    def evaluate(predict: Predict) -> dict[str, float]:
        floats = [np.full(shape, number + 1, np.float32) for number, shape in enumerate(sizes.values())]
        return {"y": float(predict(*floats)[0][3, 7])}

    found = load(tmp_path / "several.onnx")
    (run,) = bench(tmp_path, found, here(tmp_path), settings=BenchSettings(launches=1, min_seconds=0.05), evaluate=evaluate)
    measured = run.results[0].measurement
    assert measured is not None, run.results[0].reason
    assert measured.accuracy == {"y": 9.0}
    assert measured.agreement is not None
    assert measured.agreement.bit_exact
