"""Activations against PyTorch where coremltools converts them, and against MIL's formulas in NumPy where not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  the name that MIL's documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor
from torch.nn import functional

from tests.mil.drawn import Array, Draw, MilCase, agree_mil, shapes, uniform
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

EDGES = torch.tensor([[-100.0, -3.0, -1.0, -0.5, -0.0], [0.0, 0.5, 1.0, 3.0, 100.0]])
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.3),
    "elu": lambda x: functional.elu(x, 0.7),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "hardtanh": lambda x: functional.hardtanh(x, -0.5, 2.0),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
    "threshold": lambda x: functional.threshold(x, 0.5, 0.5),
    "mish": functional.mish,
}


@st.composite
def drawn(draw: Draw) -> Case:
    kind = draw(st.sampled_from([*PLAIN, "prelu", "softmax", "log_softmax", "scaled leaky_relu", "scaled softplus"]))
    shape = draw(shapes(1, 5) if kind != "scaled softplus" else st.just((2, 3, 4, 2)))
    x = uniform(draw, shape)
    number = draw(st.integers(1, 30)) / 10
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    if kind == "prelu":
        x = uniform(draw, draw(shapes(3, 5)))
        alpha = uniform(draw, (x.shape[1] if x.dim() == 4 else 1,))
        return Case(lambda x: functional.prelu(x, alpha), (x,))
    if kind == "softmax":
        return Case(lambda x: torch.softmax(x, axis), (x,))
    if kind == "log_softmax":
        return Case(lambda x: torch.log_softmax(x, axis), (x,))
    if kind == "scaled leaky_relu":
        return Case(lambda x: functional.leaky_relu(x, number), (x,))
    if kind == "scaled softplus":
        return Case(lambda x: functional.softplus(x, number), (x,))
    return Case(PLAIN[kind], (x,))


def test_activations_are_those_of_pytorch_at_their_edges() -> None:
    by_tanh = Case(lambda x: functional.gelu(x, approximate="tanh"), (EDGES,))  # coremltools forgets it of exported programs
    agree([*(Case(call, (EDGES,)) for call in PLAIN.values()), by_tanh], traced=True)


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(drawn(), min_size=40, max_size=80), st.sampled_from([15, 17, 18]), st.booleans())
def test_activations_are_those_of_pytorch_for_any_shape(cases: list[Case], ios: int, traced: bool) -> None:
    agree(cases, ios=ios, traced=traced)


def parametric(kind: str, x: Array, alpha: float, beta: float) -> MilCase:
    """An activation that only MIL has."""
    formulas: dict[str, Callable[[], Array]] = {
        "clamped_relu": lambda: np.minimum(beta, np.where(x >= 0, x, alpha * x)),
        "linear_activation": lambda: alpha * x + beta,
        "scaled_tanh": lambda: alpha * np.tanh(beta * x),
        "sigmoid_hard": lambda: np.clip(alpha * x + beta, 0, 1),
    }
    build = getattr(mb, kind)
    return MilCase(lambda x: build(x=x, alpha=np.float32(alpha), beta=np.float32(beta)), (x,), formulas[kind]())


def of_channels(x: Array, alpha: Array, beta: Array) -> list[MilCase]:
    """x [n, c, ...], alpha and beta [c]."""
    by_channel = [each.reshape(-1, *(1,) * (x.ndim - 2)) for each in (alpha, beta)]
    soft = by_channel[0] * np.logaddexp(0, by_channel[1] * x)
    own = [MilCase(lambda x: mb.softplus_parametric(x=x, alpha=alpha, beta=beta), (x,), soft)]
    if x.ndim == 4:
        own.append(MilCase(lambda x: mb.prelu(x=x, alpha=alpha), (x,), np.where(x > 0, x, by_channel[0] * x)))
    return own


def with_one_number(x: Array, alpha: float) -> list[MilCase]:
    return [
        MilCase(lambda x: mb.thresholded_relu(x=x, alpha=np.float32(alpha)), (x,), np.where(x >= alpha, x, 0)),
        MilCase(lambda x: mb.elu(x=x, alpha=np.float32(alpha)), (x,), np.where(x > 0, x, alpha * np.expm1(x))),
        MilCase(lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), (x,), x * special.expit(1.702 * x)),
    ]


@st.composite
def drawn_in_mil(draw: Draw) -> list[MilCase]:
    x = uniform(draw, draw(shapes(3, 5))).numpy()
    if draw(st.booleans()):
        x = np.round(x)  # where x is alpha itself
    alpha, beta = (draw(st.integers(-4, 4)) / 2 for _ in range(2))
    kinds = ("clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard")
    channels = (uniform(draw, (x.shape[1],)).numpy() for _ in range(2))
    return [*(parametric(kind, x, alpha, beta) for kind in kinds), *of_channels(x, *channels), *with_one_number(x, alpha)]


@pytest.mark.slow
@settings(max_examples=4)
@given(st.lists(drawn_in_mil(), min_size=3, max_size=20), st.sampled_from([15, 16, 17, 18]))
def test_activations_that_only_mil_has_follow_its_formulas(groups: list[list[MilCase]], ios: int) -> None:
    agree_mil([case for group in groups for case in group], ios=ios)
