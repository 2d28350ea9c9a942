"""The checker: the right axis whatever the layer, the file and the arithmetic, and no pattern where one weight is too many."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.nm import NM
from edgeopt.compress.zeros.pattern import LayerPattern, pattern_holds
from edgeopt.errors import ModelError, ReferenceNotFound
from edgeopt.quantize.sparsegpt import Pattern, by_magnitude


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.data())
@settings(max_examples=50)
def test_the_most_of_any_group_is_counted(n: int, m: int, groups: int, data: st.DataObject) -> None:
    if n > m:
        with pytest.raises(ValueError, match="is no pattern"):
            pattern_holds(nn.Linear(m, 1), n, m)
        return
    rows = data.draw(st.lists(st.lists(st.booleans(), min_size=m * groups, max_size=m * groups), min_size=1, max_size=3))
    module = nn.Linear(m * groups, len(rows))
    module.weight.data = torch.tensor(rows, dtype=torch.float32)
    most = max(sum(row[start : start + m]) for row in rows for start in range(0, m * groups, m))
    (found,) = pattern_holds(module, n, m)
    assert (found.most, found.holds) == (most, most <= n)
    assert found.zeros == pytest.approx(1 - np.mean(rows))


def test_a_module_s_layers_are_looked_at_along_their_inputs() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 3, 2), nn.Linear(6, 2), nn.Embedding(4, 4), nn.BatchNorm1d(4)
    )
    with torch.no_grad():
        module[0].weight[:, 2:] = 0
        module[1].weight[::2] = 0
    assert [(layer.layer, layer.axis, layer.holds, layer.most) for layer in pattern_holds(module)] == [
        ("0", 1, True, 2), ("1", 0, True, 2), ("2", 1, False, None),
    ]  # fmt: skip
    module[0].weight.data[7, 3, 1, 1] = 1e-30
    assert not pattern_holds(module)[0].holds


def sparse(outputs: int, inputs: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[outputs, inputs] that is 2:4 along its inputs and not along its outputs."""
    value: Any = by_magnitude(torch.randn(outputs, inputs), Pattern(2, 4)).numpy()
    return value


def write(path: Path, nodes: list[Any], constants: dict[str, Any]) -> tuple[LayerPattern, ...]:
    """A file of ``nodes`` with inputs of unknown shape, and what the checker finds in it."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), str(path))
    return pattern_holds(path)


ORIENTATIONS = {
    "gemm": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), 1),
    "gemm transposed": (helper.make_node("Gemm", ["x", "w"], ["y"]), 0),
    "gemm first": (helper.make_node("Gemm", ["w", "x"], ["y"]), 1),
    "gemm first transposed": (helper.make_node("Gemm", ["w", "x"], ["y"], transA=1), 0),
    "matmul": (helper.make_node("MatMul", ["x", "w"], ["y"]), 0),
    "matmul first": (helper.make_node("MatMul", ["w", "x"], ["y"]), 1),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_matrix_products_are_looked_at_along_the_axis_they_sum_over(name: str, tmp_path: Path) -> None:
    node, axis = ORIENTATIONS[name]
    weight = sparse(12, 12)
    right, wrong = (weight, weight.T.copy()) if axis else (weight.T.copy(), weight)
    (found,) = write(tmp_path / "m.onnx", [node], {"w": right})
    assert (found.layer, found.axis, found.holds) == ("w", axis, True)
    (found,) = write(tmp_path / "m.onnx", [node], {"w": wrong})
    assert not found.holds
    if "matmul" in name:
        (found,) = write(tmp_path / "m.onnx", [node], {"w": np.stack([right] * 3)})
        assert (found.axis, found.holds) == (axis + 1, True)


def test_weights_behind_transpositions_casts_and_quantization_with_any_zero_point(tmp_path: Path) -> None:
    weight = sparse(8, 12)
    points = np.arange(8, dtype=np.uint8) + 3
    integers = np.where(weight != 0, 100 + np.sign(weight) * 50, points[:, None]).astype(np.uint8)
    scales = np.ones(8, np.float32)
    dequantize = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0)
    transpose = helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0])
    product = helper.make_node("MatMul", ["x", "t"], ["y"])
    constants = {"w": integers, "s": scales, "z": points}
    (found,) = write(tmp_path / "q.onnx", [dequantize, transpose, product], constants)
    assert (found.axis, found.holds, found.zeros) == (1, True, 0.5)
    (found,) = write(tmp_path / "q.onnx", [dequantize, transpose, product], constants | {"z": np.zeros(8, np.uint8)})
    assert (found.holds, found.zeros) == (False, 0.0)  # the same integers are no zeros then
    nodes = [
        helper.make_node("Identity", ["w"], ["i"]), helper.make_node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["c"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]  # fmt: skip
    (found,) = write(tmp_path / "q.onnx", nodes, {"w": weight.astype(np.float16)})
    assert (found.axis, found.holds) == (1, True)


def test_integer_operators_and_weights_in_branches_are_seen_and_computed_ones_are_not(tmp_path: Path) -> None:
    weight = sparse(8, 12)
    integers = np.where(weight != 0, 9, 4).astype(np.uint8)
    four = np.array(4, np.uint8)
    node = helper.make_node("QLinearConv", ["x", "s", "four", "w", "s", "four", "s", "four"], ["y"])
    (found,) = write(tmp_path / "i.onnx", [node], {"w": integers[..., None, None], "s": np.float32(1), "four": four})
    assert (found.axis, found.holds) == (1, True)
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight.T.copy(), "kept"))
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    inner = helper.make_graph([constant, helper.make_node("MatMul", ["x", "w"], ["out"])], "inner", [], [output])
    other = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["out"])], "other", [], [output])
    branch = helper.make_node("If", ["if"], ["y"], then_branch=inner, else_branch=other)
    (found,) = write(tmp_path / "i.onnx", [branch], {"if": np.array(True)})
    assert (found.axis, found.holds, found.layer) == (0, True, "kept")


def test_a_program_of_torch_export_itself_is_read_with_transposed_and_split_weights(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross, self.turned = nn.MultiheadAttention(8, 2, batch_first=True), nn.Parameter(torch.randn(8, 4))
            self.dense = nn.Linear(4, 4)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            scores: Tensor = self.dense(self.cross(x, memory, memory, need_weights=False)[0] @ self.turned.T.mT)
            return scores

    torch.manual_seed(0)
    example = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    module = NM(exclude=("dense",)).apply(Plain().eval(), Context(example_inputs=example)).module
    module.turned.data = torch.from_numpy(sparse(4, 8)).T.contiguous()
    torch.export.save(torch.export.export(module, example), tmp_path / "plain.pt2")
    assert {(layer.layer, layer.axis, layer.holds) for layer in pattern_holds(tmp_path / "plain.pt2")} == {
        ("cross.in_proj_weight", 1, True),
        ("cross.out_proj", 1, True),
        ("turned", 0, True),
        ("dense", 1, False),
    }


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".pt2"])
def test_files_that_are_missing_damaged_or_unknown_are_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="there is no file"):
        pattern_holds(tmp_path / f"none{suffix}")
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x07nothing of the kind" * 9)
    with pytest.raises(ModelError):
        pattern_holds(path)
    (tmp_path / "model.mlpackage").write_bytes(b"")
    with pytest.raises(ModelError, match=r"give one of \.onnx"):
        pattern_holds(str(tmp_path / "model.mlpackage"))
