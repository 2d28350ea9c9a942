from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core import Observer, QuantScheme
from edgeopt.quantize.ranges import QParams, clipping_range, fixed, qparams
from edgeopt.quantize.statistics import Histogram

S8 = QuantScheme(activation="int8", weight="int8")
U8 = QuantScheme(activation="uint8", weight="int8")
SYMMETRIC = QuantScheme(activation="int8", weight="int8", symmetric=True)
SYMMETRIC_U8 = replace(SYMMETRIC, activation="uint8")
SCHEMES = [S8, U8, SYMMETRIC, SYMMETRIC_U8]
OBSERVERS: list[Observer] = ["mse", "minmax", "percentile"]

bounds = st.floats(-1e6, 1e6, width=32)


def histogram(*values: float) -> Histogram:
    found = Histogram.of(torch.tensor(values))
    assert found is not None
    return found


def rounded(value: np.ndarray, parameters: QParams) -> np.ndarray:
    """Quantized and dequantized, as the specification of every runtime says."""
    codes = np.clip(np.round(value / parameters.scale) + parameters.zero_point, parameters.low, parameters.high)
    return (codes - parameters.zero_point) * parameters.scale


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
@given(values=st.lists(bounds, min_size=1, max_size=8))
def test_zero_is_always_represented_exactly(scheme: QuantScheme, observer: Observer, values: list[float]) -> None:
    parameters = qparams(histogram(*values), replace(scheme, observer=observer))
    assert parameters.scale > 0
    assert parameters.low <= parameters.zero_point <= parameters.high
    assert rounded(np.zeros(1), parameters)[0] == 0
    middle = 128 if scheme == SYMMETRIC_U8 and min(values) < 0 else 0
    assert not scheme.symmetric or parameters.zero_point in (middle, 0 if observer == "percentile" else middle)


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
@given(values=st.lists(bounds, min_size=1, max_size=8))
def test_minmax_clips_nothing(scheme: QuantScheme, values: list[float]) -> None:
    parameters = qparams(histogram(*values), replace(scheme, observer="minmax"))
    array = np.asarray(values)
    assert np.max(np.abs(rounded(array, parameters) - array)) <= parameters.scale * 1.001


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform", "relu", "outlier", "shifted"])
def test_mse_is_never_worse_than_minmax(scheme: QuantScheme, shape: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=8000),
        "laplace": rng.laplace(size=8000),
        "uniform": rng.uniform(-1, 1, 8000),
        "relu": np.maximum(rng.normal(size=8000), 0),
        "outlier": np.append(rng.normal(size=8000), 400.0),
        "shifted": rng.normal(5, 1, 8000),
    }[shape].astype(np.float32)
    found = histogram(*values.tolist())

    def error(observer: Observer) -> float:
        return float(np.mean((rounded(values, qparams(found, replace(scheme, observer=observer))) - values) ** 2))

    assert error("mse") <= error("minmax") * 1.05  # what is minimised is the expected error, on bins
    if shape == "laplace":
        assert error("mse") < error("minmax")


def test_percentile_ignores_a_lone_outlier() -> None:
    values = [*np.linspace(-1, 1, 30000).tolist(), 100.0]
    low, high = clipping_range(histogram(*values), replace(S8, observer="percentile"))
    assert -1.1 <= low <= -0.9
    assert 0.9 <= high <= 1.2


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [(S8, (-128, -128, 127)), (U8, (0, 0, 255)), (SYMMETRIC, (0, -127, 127)), (SYMMETRIC_U8, (0, 0, 255))],
)
def test_positive_values_use_the_whole_range(scheme: QuantScheme, expected: tuple[int, int, int]) -> None:
    parameters = qparams(histogram(0.0, 2.55), replace(scheme, observer="minmax"))
    assert (parameters.zero_point, parameters.low, parameters.high) == expected
    assert parameters.scale == pytest.approx(2.55 / (127 if scheme == SYMMETRIC else 255))


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
def test_a_constant_zero_has_a_scale(scheme: QuantScheme) -> None:
    assert qparams(histogram(0.0), scheme).scale > 0


def test_a_prescribed_scale_is_taken_as_it_is() -> None:
    assert fixed(1 / 256, -128, S8) == QParams(1 / 256, -128, -128, 127)


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
def test_what_was_always_zero_has_a_scale_that_kernels_take(scheme: QuantScheme) -> None:
    """XNNPACK takes no factor of 256 or more from an accumulator to its output, and crashes on one."""
    assert qparams(histogram(0.0, 0.0), scheme).scale == pytest.approx(1 / 255, rel=1.1)
