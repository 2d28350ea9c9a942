"""Each pass changes the form and nothing of what is computed: checked by ONNX's reference evaluator."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, parser
from onnx.reference import ReferenceEvaluator

from edgeopt.converters.onnx import passes

MEAN = """
<ir_version: 10, opset_import: ["" : 20]>
graph (uint8[2, 3, 4, 4] x) => (float[{shape}] y)
<float s = {{0.1}}, uint8 z = {{7}}, float t = {{0.05}}, int64[2] axes = {{{axes}}}>
{{
    real = DequantizeLinear(x, s, z)
    mean = ReduceMean<keepdims: int = {keep}>(real, axes)
    small = QuantizeLinear(mean, t, z)
    y = DequantizeLinear(small, t, z)
}}
"""
TRANSPOSED = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[2, 3] x) => (float[2, 4] y)
<int8[4, 3] weight = {1, -2, 3, 4, 5, -6, 7, 8, 9, 10, 11, -12}, float[4] s = {0.1, 0.2, 0.3, 0.4}, int8[4] z = {0, 0, 0, 0}>
{
    real = DequantizeLinear<axis: int = 0>(weight, s, z)
    turned = Transpose<perm: ints = [1, 0]>(real)
    y = MatMul(x, turned)
}
"""


def cleaned(text: str, inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",)) -> tuple[onnx.ModelProto, ...]:
    """The model before and after all passes, both valid."""
    before = onnx.shape_inference.infer_shapes(parser.parse_model(text))
    model = ir.from_proto(before)
    passes.clean(model, inputs, outputs, float_layers=True)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    return before, after


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("keep", "shape"), [(0, "2, 3"), (1, "2, 3, 1, 1")])
@pytest.mark.parametrize("axes", ["2, 3", "-1, -2"])
def test_a_spatial_mean_between_qdq_becomes_pooling(keep: int, shape: str, axes: str) -> None:
    before, after = cleaned(MEAN.format(keep=keep, shape=shape, axes=axes))
    found = kinds(after)
    position = found.index("GlobalAveragePool")
    assert found[position - 1 : position + 2] == ["DequantizeLinear", "GlobalAveragePool", "QuantizeLinear"]
    assert "ReduceMean" not in found
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)
    want, got = (ReferenceEvaluator(model).run(None, {"x": x})[0] for model in (before, after))
    np.testing.assert_array_equal(got, want)


def test_a_mean_over_other_axes_stays() -> None:
    _, after = cleaned(MEAN.format(keep=0, shape="2, 4", axes="1, 2"))
    assert "ReduceMean" in kinds(after)


def test_transposed_weights_are_stored_so() -> None:
    before, after = cleaned(TRANSPOSED)
    assert kinds(after) == ["DequantizeLinear", "MatMul"]
    (weight,) = (tensor for tensor in after.graph.initializer if len(tensor.dims) == 2)
    assert list(weight.dims) == [3, 4] and weight.data_type == TensorProto.INT8
    x = np.float32([[1, 2, 3], [-4, 5, 6]])
    want, got = (ReferenceEvaluator(model).run(None, {"x": x})[0] for model in (before, after))
    np.testing.assert_array_equal(got, want)


def test_a_value_inside_gives_way_to_the_interface_names() -> None:
    before, after = cleaned(TRANSPOSED, inputs=("turned",), outputs=("real",))
    assert [value.name for value in (*after.graph.input, *after.graph.output)] == ["turned", "real"]
    x = np.ones((2, 3), np.float32)
    want = ReferenceEvaluator(before).run(None, {"x": x})[0]
    np.testing.assert_array_equal(ReferenceEvaluator(after).run(None, {"turned": x})[0], want)


def test_notes_of_the_exporter_are_removed() -> None:
    model = ir.from_proto(parser.parse_model(TRANSPOSED))
    model.doc_string, model.graph.doc_string = "made in /a/folder", "traced"
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.stack_trace"] = "File /a/folder/user.py"
    passes.strip_notes(model)
    assert b"/a/folder" not in ir.to_proto(model).SerializeToString()
