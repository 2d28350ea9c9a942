"""How much a device may send as an output: what the artifact's shape says, else what the same artifact gives here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeopt.bench.artifacts import Runnable, load
from edgeopt.bench.computed import Computed
from edgeopt.bench.launch import MAX_OUTPUT_BYTES, PythonPlace, _limits
from edgeopt.core import TensorSpec
from edgeopt.errors import BadAnswer
from edgeopt.model.model import Predict
from tests.bench.parts import QUICK, bench, here, runnable

DYNAMIC = TensorSpec(name="y", shape=(2, -1), dtype="int64")
RANKLESS = TensorSpec(name="z", shape=(), dtype="float32")


@dataclass
class Sent:
    """A session whose device sends ``content`` as every output."""

    content: bytes
    limits: list[int] = field(default_factory=list)

    def read(self, path: str, *, limit: int) -> bytes:
        self.limits.append(limit)
        if len(self.content) > limit:
            raise BadAnswer("too much")
        return self.content


def nonzero(path: Path) -> Runnable:
    """An ONNX file that gives the places of what is above zero: a shape that depends on the values."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "found"])
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    graph = helper.make_graph(nodes, "m", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (found,) = load(path)
    return found


def test_shapes_that_are_known_are_the_limit() -> None:
    assert _limits(runnable(), 3, None) == [6]
    assert _limits(runnable(), 3, (1000,)) == [6]


def test_other_shapes_are_limited_by_what_this_computer_gave_where_it_did() -> None:
    for spec in (DYNAMIC, RANKLESS):
        assert _limits(runnable(output=spec), 3, (8,)) == [8]
        assert _limits(runnable(output=spec), 3, None) == [MAX_OUTPUT_BYTES]


def test_outputs_that_were_computed_here_tell_their_sizes() -> None:
    computed = Computed()
    assert computed.elements("a") is None
    computed.get("a", lambda: (np.zeros((2, 3)), np.zeros(())))
    assert computed.elements("a") == (6, 1)


def test_a_device_that_sends_more_than_this_computer_gave_is_cut_off() -> None:
    sent = Sent(bytes(8 * 1000))
    place = PythonPlace(sent, QUICK, ())  # type: ignore[arg-type]  # all of a session that is needed
    artifact = runnable(output=DYNAMIC)
    entry = {"file": "0.bin", "offset": 0, "dtype": "int64", "shape": [2, 500]}
    for elements in (None, (1000,)):
        (found,) = place._tensors([entry], artifact, _limits(artifact, 1, elements), {})
        assert found.shape == (2, 500)
    with pytest.raises(BadAnswer, match="too much"):
        place._tensors([entry], artifact, _limits(artifact, 1, (998,)), {})
    assert sent.limits == [MAX_OUTPUT_BYTES, 8000, 7984]


@pytest.mark.slow
def test_shapes_that_depend_on_values_are_measured_and_evaluated(tmp_path: Path) -> None:
    def evaluate(predict: Predict) -> dict[str, float]:
        signs = [np.where(np.arange(8) < count, 1, -1).astype(np.float32) for count in (0, 3, 8)]
        return {"found": float(sum(predict(one)[0].size for one in signs))}

    artifact = nonzero(tmp_path / "nonzero.onnx")
    assert min(artifact.outputs[0].shape) == -1
    devices = [here(tmp_path, "first"), here(tmp_path, "second")]
    for function in (None, evaluate):
        for run in bench(tmp_path, [artifact], *devices, settings=replace(QUICK, launches=1), evaluate=function):
            (result,) = run.results
            assert result.status == "ok", result.reason
            assert result.measurement is not None
            assert result.measurement.agreement is not None
            assert result.measurement.agreement.bit_exact
            assert result.measurement.accuracy == ({"found": 11.0} if function else {})
