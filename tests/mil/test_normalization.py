"""Normalizations against PyTorch where coremltools converts them, and against MIL's formulas in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813  the name that MIL's documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.mil.drawn import Array, Draw, MilCase, agree_mil, shapes, some_axes, uniform
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")


def batch(draw: Draw, epsilon: float) -> Case:
    x = uniform(draw, draw(shapes(3, 5)))
    mean, scale, shift = (uniform(draw, x.shape[1:2]) for _ in range(3))
    spread = uniform(draw, x.shape[1:2], 0.1, 4)
    return Case(lambda x: functional.batch_norm(x, mean, spread, scale, shift, eps=epsilon), (x,))


def instance(draw: Draw, epsilon: float) -> Case:
    x = uniform(draw, (*draw(shapes(2, 2)), *(draw(st.integers(2, 5)) for _ in range(draw(st.integers(1, 2))))))
    scale, shift = (uniform(draw, x.shape[1:2]) if draw(st.booleans()) else None for _ in range(2))
    return Case(lambda x: functional.instance_norm(x, weight=scale, bias=shift, eps=epsilon), (x,))


def layer(draw: Draw, epsilon: float) -> Case:
    x = uniform(draw, draw(shapes(1, 5)))
    over = x.shape[draw(st.integers(0, x.dim() - 1)) :]
    scale, shift = (uniform(draw, over), uniform(draw, over)) if draw(st.booleans()) else (None, None)
    return Case(lambda x: functional.layer_norm(x, over, scale, shift, epsilon), (x,))


def group(draw: Draw, epsilon: float) -> Case:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = uniform(draw, (draw(st.integers(1, 3)), groups * each, *draw(shapes(0, 1)), 2))
    scale, shift = uniform(draw, x.shape[1:2]), uniform(draw, x.shape[1:2])
    return Case(lambda x: functional.group_norm(x, groups, scale, shift, epsilon), (x,))


def unit(draw: Draw, epsilon: float) -> Case:
    x = uniform(draw, draw(shapes(2, 4)))
    axis = draw(st.integers(0, x.dim() - 1))
    return Case(lambda x: functional.normalize(x, dim=axis, eps=epsilon), (x,))


# not smaller: where all values are equal, it alone says how much rounding is magnified
EPSILONS = st.sampled_from([1e-3, 0.1, 0.5])
KINDS: tuple[Callable[[Draw, float], Case], ...] = (batch, instance, layer, group, unit)


@st.composite
def drawn(draw: Draw) -> Case:
    return draw(st.sampled_from(KINDS))(draw, draw(EPSILONS))


@pytest.mark.slow
@settings(max_examples=2)
@given(st.lists(drawn(), min_size=40, max_size=80), st.sampled_from([15, 17, 18]), st.booleans())
def test_normalizations_are_those_of_pytorch_for_any_shape(cases: list[Case], ios: int, traced: bool) -> None:
    agree(cases, ios=ios, traced=traced)


def normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True, dtype=np.float64)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon))


def layer_norm(draw: Draw, epsilon: float) -> MilCase:
    """Over any axes, gamma and beta in the order of x's."""
    x = uniform(draw, draw(shapes(1, 5))).numpy()
    axes = some_axes(draw, x.ndim)
    positive = sorted(axis % x.ndim for axis in axes)
    shape = [size if axis in positive else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (uniform(draw, [x.shape[axis] for axis in positive]).numpy() for _ in range(2))
    own = {"gamma": gamma, "beta": beta} if draw(st.booleans()) else {}
    want = normalized(x, axes, epsilon)
    if own:
        want = want * gamma.reshape(shape) + beta.reshape(shape)
    return MilCase(lambda x: mb.layer_norm(x=x, axes=axes, epsilon=np.float32(epsilon), **own), (x,), want)


def l2_norm(draw: Draw, epsilon: float) -> MilCase:
    x = uniform(draw, draw(shapes(3, 5))).numpy()
    want = x / np.sqrt(np.square(x).sum((-3, -2, -1), keepdims=True) + epsilon)
    return MilCase(lambda x: mb.l2_norm(x=x, epsilon=np.float32(epsilon)), (x,), want)


def instance_norm(draw: Draw, epsilon: float) -> MilCase:
    x = uniform(draw, draw(shapes(3, 4))).numpy()
    gamma = uniform(draw, x.shape[1:2]).numpy()
    want = normalized(x, tuple(range(2, x.ndim)), epsilon) * gamma.reshape(-1, *(1,) * (x.ndim - 2))
    return MilCase(lambda x: mb.instance_norm(x=x, gamma=gamma, epsilon=np.float32(epsilon)), (x,), want)


def batch_norm(draw: Draw, epsilon: float) -> MilCase:
    x = uniform(draw, draw(shapes(3, 5))).numpy()
    mean, variance = uniform(draw, x.shape[1:2]).numpy(), uniform(draw, x.shape[1:2], 0.1, 4).numpy()
    by_channel = [each.reshape(-1, *(1,) * (x.ndim - 2)) for each in (mean, variance)]
    want = (x - by_channel[0]) / np.sqrt(by_channel[1] + epsilon)
    return MilCase(lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=np.float32(epsilon)), (x,), want)


def local_response_norm(draw: Draw, epsilon: float) -> MilCase:
    x = uniform(draw, draw(shapes(3, 4, 7))).numpy()
    size, k, beta = draw(st.integers(1, 6)), 1 + epsilon, draw(st.sampled_from([0.5, 0.75, 2.0]))
    reach = (size - 1) // 2
    sums = [np.square(x[:, max(c - reach, 0) : c + reach + 1]).sum(1) for c in range(x.shape[1])]
    want = x / (k + 0.3 / size * np.stack(sums, 1)) ** beta
    numbers: dict[str, Any] = {"alpha": np.float32(0.3), "beta": np.float32(beta), "k": np.float32(k)}
    return MilCase(lambda x: mb.local_response_norm(x=x, size=size, **numbers), (x,), want)


@st.composite
def drawn_in_mil(draw: Draw) -> MilCase:
    kinds = [layer_norm, l2_norm, instance_norm, batch_norm, local_response_norm]
    return draw(st.sampled_from(kinds))(draw, draw(EPSILONS))


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(drawn_in_mil(), min_size=20, max_size=100), st.sampled_from([15, 16, 17, 18]))
def test_normalizations_follow_mils_formulas(cases: list[MilCase], ios: int) -> None:
    agree_mil(cases, ios=ios, relative=3e-4)


def test_local_response_norm_of_an_even_size_is_what_coremltools_expects_of_core_ml() -> None:
    """The figures are those of test_normalization.py in coremltools, which Apple runs on macOS."""
    x = np.array([[[1.0, -7.0], [5.0, -6.0], [-3.0, -5.0]]], np.float32)
    want = [[[0.99996257, -6.98716545], [4.99531746, -5.99191284], [-2.99898791, -4.99531746]]]
    agree_mil([MilCase(lambda x: mb.local_response_norm(x=x, size=2), (x,), np.array(want))], relative=1e-6)
