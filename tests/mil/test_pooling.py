"""Pooling and padding against coremltools' conversion of PyTorch's, against NumPy, and where coremltools measured Core ML."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from edgeopt.mil.operators.pooling import avg_pool, l2_pool, max_pool
from tests.mil.packages import Case, agree, close, run_mil
from tests.mil.test_convolution import sizes, tensors

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

AVERAGE: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAX: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@st.composite
def pools(draw: st.DrawFn) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    kernel = draw(sizes(1, 4, rank))
    size = [window + draw(st.integers(0, 6)) for window in kernel]
    # a window of ceil_mode that begins beyond the end is cut off by PyTorch only: no stride beyond the kernel
    strides = [draw(st.integers(1, window)) for window in kernel]
    padding = [draw(st.integers(0, window // 2)) for window in kernel]
    ceil_mode = rank < 3 and draw(st.booleans())
    (x,) = tensors(draw(st.integers(0, 1000)), (2, 3, *size))
    if draw(st.booleans()):
        return Case(lambda x: MAX[rank](x, kernel, strides, padding, ceil_mode=ceil_mode), (x,))
    counted = draw(st.booleans())
    return Case(lambda x: AVERAGE[rank](x, kernel, strides, padding, ceil_mode, counted), (x,))


@st.composite
def pads(draw: st.DrawFn) -> Case:
    rank, mode = draw(st.integers(1, 3)), draw(st.sampled_from(["constant", "reflect", "replicate"]))
    size = draw(sizes(2, 5, rank))
    around = [draw(st.integers(0, length - 1)) for length in reversed(size) for _ in range(2)]
    (x,) = tensors(draw(st.integers(0, 1000)), (1, 2, *size))
    value = draw(st.sampled_from([0.0, -1.5])) if mode == "constant" else None
    return Case(lambda x: functional.pad(x, around, mode, value), (x,))


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(st.one_of(pools(), pads()), min_size=40, max_size=40))
def test_pooling_and_padding_agree_with_pytorch(cases: list[Case]) -> None:
    agree(cases)


IMAGE = [[[[-10.0, -6.0], [-7.0, 9.0]], [[-3.0, 0.0], [11.0, 7.0]]]]
COUNT = [[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]]
SMALL = [[[[1.0, 2.0], [3.0, 4.0]]]]
MEASURED: list[tuple[str, Any, dict[str, Any], Any]] = [
    ("avg_pool", COUNT, {"kernel_sizes": [1], "strides": [2], "pad_type": "valid"}, [1, 3, 5, 7]),
    ("avg_pool", COUNT, {"kernel_sizes": [3], "strides": [3], "pad_type": "same", "exclude_padding_from_average": True},
     [1.5, 4, 6.5]),
    ("avg_pool", SMALL, {"kernel_sizes": [2, 2], "pad_type": "same_lower"}, [0.25, 0.75, 1, 2.5]),
    ("max_pool", COUNT, {"kernel_sizes": [3], "strides": [3], "pad_type": "same"}, [2, 5, 7]),
    ("max_pool", SMALL, {"kernel_sizes": [2, 2], "pad_type": "same_lower"}, [1, 2, 3, 4]),
    ("max_pool", IMAGE, {"kernel_sizes": [2, 3], "strides": [1, 3], "pad_type": "same"}, [9, 9, 11, 11]),
    ("l2_pool", COUNT, {"kernel_sizes": [3], "strides": [3], "pad_type": "same"}, [2.236068, 7.071068, 9.219544]),
    ("l2_pool", SMALL, {"kernel_sizes": [2, 2], "pad_type": "same_lower"}, [1, 2.236068, 3.162278, 5.477226]),
    ("l2_pool", IMAGE, {"kernel_sizes": [1, 2], "strides": [2, 1], "pad_type": "valid"}, [11.66190338, 3]),
    ("l2_pool", IMAGE, {"kernel_sizes": [2, 3], "strides": [1, 3], "pad_type": "same"},
     [16.309507, 11.401754, 13.379088, 13.038404]),
]  # fmt: skip
"""Operator, x, parameters, what Core ML gives, from coremltools' tests (mil/ops/tests/iOS14/test_pool.py)."""


def test_pooling_gives_what_coremltools_measured() -> None:
    inputs = {f"x{index}": np.array(x, np.float32) for index, (_, x, _, _) in enumerate(MEASURED)}

    def build(**xs: Any) -> list[Any]:
        return [getattr(Builder, name)(x=x, **options) for x, (name, _, options, _) in zip(xs.values(), MEASURED, strict=True)]

    for found, (*_, want) in zip(run_mil(build, inputs, ios=16).values(), MEASURED, strict=True):
        close(found.ravel(), np.array(want, np.float64), 1e-5)


@st.composite
def uneven(draw: st.DrawFn) -> tuple[str, NDArray[np.float32], dict[str, Any]]:
    """An operator with padding that PyTorch has not: on one side, or wider than half a window."""
    name = draw(st.sampled_from(["avg_pool", "max_pool", "l2_pool"]))
    rank = draw(st.integers(1, 2 if name == "l2_pool" else 3))
    kernel = draw(sizes(1, 3, rank))
    size = [window + draw(st.integers(0, 4)) for window in kernel]
    around = [draw(st.integers(0, window - 1)) for window in kernel for _ in range(2)]
    options: dict[str, Any] = {"kernel_sizes": kernel, "strides": draw(sizes(1, 3, rank)), "pad_type": "custom"}
    if name == "avg_pool":
        options["exclude_padding_from_average"] = draw(st.booleans())
    (x,) = tensors(draw(st.integers(0, 1000)), (1, 2, *size))
    return name, x.numpy(), options | {"pad": around}


def pooled(name: str, x: NDArray[np.float32], options: dict[str, Any]) -> NDArray[np.float64]:
    """By the windows themselves; NaN stands for padding."""
    around = [(0, 0), (0, 0), *zip(options["pad"][::2], options["pad"][1::2], strict=True)]
    padded = np.pad(x.astype(np.float64), around, constant_values=np.nan)
    kernel, strides = options["kernel_sizes"], options["strides"]
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]
    inner = tuple(range(x.ndim, windows.ndim))
    if name == "max_pool":
        return np.asarray(np.nanmax(windows, inner))
    if name == "l2_pool":
        return np.asarray(np.sqrt(np.nansum(windows**2, inner)))
    return np.asarray(
        np.nanmean(windows, inner) if options["exclude_padding_from_average"] else np.nan_to_num(windows).mean(inner)
    )


def check_uneven(cases: Sequence[tuple[str, NDArray[np.float32], dict[str, Any]]]) -> None:
    inputs = {f"x{index}": x for index, (_, x, _) in enumerate(cases)}

    def build(**xs: Any) -> list[Any]:
        return [getattr(Builder, name)(x=x, **options) for x, (name, _, options) in zip(xs.values(), cases, strict=True)]

    with warnings.catch_warnings():  # NumPy's, of windows of nothing but padding
        warnings.simplefilter("ignore", RuntimeWarning)
        wanted = [pooled(*case) for case in cases]
    for found, want in zip(run_mil(build, inputs, ios=16).values(), wanted, strict=True):
        windows_of_padding = np.isnan(want)
        close(np.where(windows_of_padding, 0, found), np.where(windows_of_padding, 0, want))


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(uneven(), min_size=40, max_size=40))
def test_uneven_padding_counts_as_the_windows_say(cases: list[tuple[str, NDArray[np.float32], dict[str, Any]]]) -> None:
    check_uneven(cases)


def test_what_a_window_of_ceil_mode_has_beyond_the_padding_does_not_count() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]])
    rule = ((5,), (3,), "custom", (3, 3))  # more padding than PyTorch's kernels take; the last window has one place beyond
    assert avg_pool(x, *rule, False, True).ravel().tolist() == pytest.approx([3 / 5, 15 / 5, 22 / 5, 7 / 4])
    assert avg_pool(x, *rule, True, True).ravel().tolist() == pytest.approx([3 / 2, 15 / 5, 22 / 4, 7 / 1])
    assert max_pool(x, *rule, True).ravel().tolist() == [2, 5, 7, 7]
    assert l2_pool(x, *rule, True).ravel().tolist() == pytest.approx([5**0.5, 55**0.5, 126**0.5, 7])
    assert max_pool(x[..., :6], (3,), (2,), "custom", (2, 2), True).ravel().tolist() == [1, 3, 5, 6]  # and none begins there


Padded = tuple[NDArray[np.float32], list[int], str]


@st.composite
def any_rank(draw: st.DrawFn) -> Padded:
    rank, mode = draw(st.integers(1, 5)), draw(st.sampled_from(["constant", "reflect", "edge"]))
    size = draw(sizes(1, 4, rank))
    dims = draw(st.integers(1, rank))
    around = [draw(st.integers(0, length - 1 if mode == "reflect" else 3)) for length in size[-dims:] for _ in range(2)]
    (x,) = tensors(draw(st.integers(0, 1000)), size)
    return x.numpy(), around, mode


def check_pads(cases: Sequence[Padded]) -> None:
    """Padding of all dimensions is an input of the program, as MIL allows, the others' is constant."""
    inputs = {f"x{index}": x for index, (x, _, _) in enumerate(cases)}
    inputs |= {f"pad{index}": np.array(pad, np.int32) for index, (x, pad, _) in enumerate(cases) if len(pad) == 2 * x.ndim}

    def build(**vars: Any) -> list[Any]:
        return [Builder.pad(x=vars[f"x{index}"], pad=vars.get(f"pad{index}", pad), constant_val=np.float32(0.5),
                            mode="replicate" if mode == "edge" else mode)
                for index, (_, pad, mode) in enumerate(cases)]  # fmt: skip

    for found, (x, pad, mode) in zip(run_mil(build, inputs).values(), cases, strict=True):
        pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
        kind: Any = {"mode": mode, "constant_values": 0.5} if mode == "constant" else {"mode": mode}
        np.testing.assert_array_equal(found, np.pad(x, pairs, **kind))


def test_any_dimension_is_padded_as_numpy_pads() -> None:
    signal, matrix, many = (x.numpy() for x in tensors(0, (4,), (3, 4), (2, 3, 1, 2, 4)))
    check_pads([(signal, [3, 2], "reflect"), (matrix, [1, 2, 3, 0], "edge"), (many, [1, 0, 2, 1, 0, 3], "constant"),
                (many, [1, 1, 2, 1, 0, 0, 1, 0, 3, 2], "reflect"), (many, [1, 2], "edge")])  # fmt: skip


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(any_rank(), min_size=40, max_size=40))
def test_any_rank_is_padded_as_numpy_pads(cases: list[Padded]) -> None:
    check_pads(cases)
