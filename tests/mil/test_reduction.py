"""Reductions against PyTorch where coremltools converts them, and all of them against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  the name that MIL's documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor

from tests.mil.drawn import Array, Draw, MilCase, agree_mil, shapes, some_axes, uniform, whole
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

OVER_AXES: dict[str, Callable[[Tensor, Any, bool], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "log_sum_exp": torch.logsumexp,
    "l1": lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keep),
    "l2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "var": lambda x, axes, keep: torch.var(x, axes, correction=0, keepdim=keep),
}
OVER_ONE: dict[str, Callable[[Tensor, int, bool], Tensor]] = {
    "argmax": torch.argmax,
    "argmin": torch.argmin,
    "values": lambda x, axis, keep: torch.max(x, axis, keep).values,
}
IN_NUMPY: dict[str, Callable[[Array, Any, bool], Array]] = {
    "reduce_sum": lambda x, axes, keep: np.sum(x, axes, keepdims=keep),
    "reduce_mean": lambda x, axes, keep: np.mean(x, axes, keepdims=keep),
    "reduce_max": lambda x, axes, keep: np.max(x, axes, keepdims=keep),
    "reduce_min": lambda x, axes, keep: np.min(x, axes, keepdims=keep),
    "reduce_prod": lambda x, axes, keep: np.prod(x, axes, keepdims=keep),
    "reduce_l1_norm": lambda x, axes, keep: np.sum(np.abs(x), axes, keepdims=keep),
    "reduce_l2_norm": lambda x, axes, keep: np.sqrt(np.sum(np.square(x), axes, keepdims=keep)),
    "reduce_log_sum": lambda x, axes, keep: np.log(np.sum(x, axes, keepdims=keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: special.logsumexp(x, axes, keepdims=keep),
    "reduce_sum_square": lambda x, axes, keep: np.sum(np.square(x), axes, keepdims=keep),
}


@st.composite
def drawn(draw: Draw) -> Case:
    x = uniform(draw, draw(shapes(1, 5)))
    keep = draw(st.booleans())
    kind = draw(st.sampled_from([*OVER_AXES, *OVER_ONE]))
    if kind in OVER_ONE:
        axis = draw(st.integers(-x.dim(), x.dim() - 1))
        return Case(lambda x: OVER_ONE[kind](x, axis, keep), (x,))
    axes = some_axes(draw, x.dim())
    return Case(lambda x: OVER_AXES[kind](x, axes, keep), (x,))


@pytest.mark.slow
@settings(max_examples=4)
@given(st.lists(drawn(), min_size=60, max_size=120), st.sampled_from([15, 17, 18]), st.booleans())
def test_reductions_are_those_of_pytorch_over_any_axes(cases: list[Case], ios: int, traced: bool) -> None:
    agree(cases, ios=ios, traced=traced)


def reduced(kind: str, x: Array, axes: tuple[int, ...] | None, keep: bool | None) -> MilCase:
    """In NumPy with double precision; of integers what is left of the result towards zero."""
    own = {} if axes is None else {"axes": np.array(axes, np.int32)}
    own |= {} if keep is None else {"keep_dims": keep}
    found = np.asarray(IN_NUMPY[kind](x.astype(np.float64), axes, bool(keep)))
    want = found if x.dtype == np.float32 else np.trunc(found.round(9)).astype(np.int32)
    build = getattr(mb, kind)
    return MilCase(lambda x: build(x=x, **own), (x,), want)


def test_every_reduction_is_over_all_axes_by_default_and_over_none_where_none_is_named() -> None:
    x = np.linspace(0.5, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    whole_numbers = np.arange(1, 7, dtype=np.int32).reshape(2, 3)
    cases = [reduced(kind, each, None, keep) for kind in IN_NUMPY for each in (x, whole_numbers) for keep in (None, True)]
    agree_mil([*cases, *(reduced(kind, x, (), None) for kind in IN_NUMPY)])


@st.composite
def drawn_in_mil(draw: Draw) -> MilCase:
    kind = draw(st.sampled_from(sorted(IN_NUMPY)))
    shape = draw(shapes(1, 5, 4))
    low = 1 if kind == "reduce_log_sum" else -3
    x = uniform(draw, shape, low, 3) if draw(st.booleans()) else whole(draw, shape, low, 3)
    return reduced(kind, x.numpy(), some_axes(draw, len(shape)), draw(st.booleans()))


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(drawn_in_mil(), min_size=100, max_size=200), st.sampled_from([15, 16, 17, 18]))
def test_reductions_of_floats_and_integers_follow_their_formulas(cases: list[MilCase], ios: int) -> None:
    agree_mil(cases, ios=ios)


def test_indices_of_extremes_come_in_the_type_that_is_asked_for() -> None:
    x = np.array([[3, 1, 2], [1, 5, 4]], np.float32)
    agree_mil([
        MilCase(lambda x: mb.reduce_argmax(x=x), (x,), np.array([0, 1], np.int32)),
        MilCase(lambda x: mb.reduce_argmin(x=x, axis=0, keep_dims=True), (x,), np.array([[1, 0, 0]], np.int32)),
        MilCase(lambda x: mb.cast(x=mb.reduce_argmax(x=x, output_dtype="uint16"), dtype="int32"), (x,),
                np.array([0, 1], np.int32)),
        MilCase(lambda x: mb.reduce_argmin(x=mb.cast(x=x, dtype="int32"), axis=-2), (x,), np.array([1, 0, 0], np.int32)),
    ])  # fmt: skip
