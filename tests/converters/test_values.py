"""Quantization at an artifact's border follows ONNX QuantizeLinear, and refuses what does not fit."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgeopt.converters.values import dequantize, from_artifact, quantize, to_artifact
from edgeopt.core import TensorSpec
from edgeopt.errors import InputError

INTEGERS = st.sampled_from([("int8", -128, 127), ("uint8", 0, 255)])
FLOATS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20)


@st.composite
def quantized_specs(draw: st.DrawFn) -> TensorSpec:
    dtype, low, high = draw(INTEGERS)
    scale = float(np.float32(draw(st.floats(2.0**-12, 8.0))))
    return TensorSpec(name="x", shape=(-1,), dtype=dtype, scale=scale, zero_point=draw(st.integers(low, high)))


@given(quantized_specs(), FLOATS)
def test_quantize_equals_onnx_quantize_linear(spec: TensorSpec, values: list[float]) -> None:
    array = np.array(values, np.float32)
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    zero_point = np.array(spec.zero_point, spec.dtype)
    (want,) = ReferenceEvaluator(node).run(None, {"x": array, "s": np.float32(spec.scale), "z": zero_point})
    np.testing.assert_array_equal(quantize(array, spec), want)


@given(quantized_specs(), st.data())
def test_integers_survive_dequantize_and_quantize(spec: TensorSpec, data: st.DataObject) -> None:
    limits = np.iinfo(spec.dtype)
    values = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1))
    array = np.array(values, spec.dtype)
    np.testing.assert_array_equal(quantize(dequantize(array, spec), spec), array)


def test_halves_round_to_even_and_saturate() -> None:
    spec = TensorSpec(name="x", shape=(5,), dtype="int8", scale=1.0, zero_point=0)
    assert quantize(np.float32([0.5, 1.5, -0.5, 200, -200]), spec).tolist() == [0, 2, 0, 127, -128]


def test_integers_given_for_a_quantized_input_are_taken_as_they_are() -> None:
    spec = TensorSpec(name="x", shape=(2,), dtype="int8", scale=0.5, zero_point=3)
    (array,) = to_artifact((np.array([1, -2], np.int64),), (spec,))
    assert array.dtype == np.int8 and array.tolist() == [1, -2]


@pytest.mark.parametrize(
    ("array", "why"),
    [(np.zeros((2, 3), np.float32), "shape"), (np.array([2**40, 0]), "outside int32"), (np.zeros(3, np.float32), "shape")],
)
def test_what_does_not_fit_is_an_input_error(array: np.ndarray, why: str) -> None:
    with pytest.raises(InputError, match=why):
        to_artifact((array,), (TensorSpec(name="ids", shape=(2,), dtype="int32"),))


def test_a_scalar_stays_a_scalar_and_what_is_not_in_order_is_copied() -> None:
    (array,) = to_artifact((np.array(2.0),), (TensorSpec(name="x", shape=(), dtype="float32"),))
    assert (array.shape, array.dtype) == ((), np.float32)
    (array,) = to_artifact((np.ones((3, 2), np.float32).T,), (TensorSpec(name="x", shape=(2, 3), dtype="float32"),))
    assert array.flags.c_contiguous


def test_a_missing_input_is_an_input_error() -> None:
    with pytest.raises(InputError, match="takes 1 inputs, 0 were given"):
        to_artifact((), (TensorSpec(name="x", shape=(1,), dtype="float32"),))


def test_only_outputs_with_a_scale_are_dequantized() -> None:
    plain, scaled = TensorSpec(name="a", shape=(1,), dtype="int32"), TensorSpec(name="b", shape=(1,), dtype="int8", scale=0.5)
    ids, floats = from_artifact((np.int32([7]), np.int8([3])), (plain, scaled))
    assert ids.dtype == np.int32 and floats.dtype == np.float32 and floats[0] == 1.5
