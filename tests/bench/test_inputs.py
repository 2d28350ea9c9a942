"""Inputs to measure with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bench.inputs import model_specs, synthetic
from edgeopt.core import TensorSpec
from edgeopt.errors import InputError

DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool")


def spec(dtype: str = "float32", name: str = "image", shape: tuple[int, ...] = (2, 50), **more: float) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype, **more)  # type: ignore[arg-type]  # scale and zero_point


@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4)), max_size=4))
def test_they_fit_their_specs_and_are_always_the_same(wanted: list[tuple[str, list[int]]]) -> None:
    specs = tuple(spec(dtype, shape=tuple(shape)) for dtype, shape in wanted)
    for first, second, one in zip(synthetic(specs), synthetic(specs), specs, strict=True):
        assert first.shape == one.shape
        assert first.dtype == ("float32" if one.dtype == "bfloat16" else one.dtype)
        assert first.tobytes() == second.tobytes()


def test_floats_are_neither_constant_nor_extreme() -> None:
    (found,) = synthetic((spec(shape=(10_000,)),))
    assert 0.9 < float(np.std(found.astype(np.float64))) < 1.1


def test_integers_that_stand_for_floats_are_quantized_floats() -> None:
    (found,) = synthetic((spec("int8", scale=0.05, zero_point=10),))
    floats = (found.astype(np.float64) - 10) * 0.05
    assert 0.7 < float(np.std(floats)) < 1.3
    (clipped,) = synthetic((spec("int8", scale=0.001, zero_point=0),))
    assert (int(clipped.min()), int(clipped.max())) == (-128, 127)


def test_masks_are_ones_and_other_integers_are_indices_that_any_table_has() -> None:
    mask, tokens, flags = synthetic((spec("int64", "attention_mask"), spec("int32", "ids"), spec("bool", "flags")))
    assert mask.all()
    assert flags.all()
    assert (int(tokens.min()), int(tokens.max())) == (0, 1), "a table of token types has two rows"


def test_a_dimension_that_is_not_fixed_is_refused() -> None:
    with pytest.raises(InputError, match="no fixed shape"):
        synthetic((spec(shape=(-1, 3)),))


def test_the_models_own_inputs_are_floats_again() -> None:
    found = model_specs((spec("int8", scale=0.5, zero_point=3), spec("int64")))
    assert [(one.dtype, one.scale, one.zero_point) for one in found] == [("float32", None, None), ("int64", None, None)]
