"""Resampling against coremltools' conversion of PyTorch's, SciPy, and what coremltools measured on Core ML."""

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch.nn import functional

from tests.mil.packages import Case, agree, close, run_mil
from tests.mil.test_convolution import sizes, tensors

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

SQUARE = np.array([[[[11.0, 22.0], [33.0, 44.0]]]], np.float32)


@st.composite
def samplings(draw: st.DrawFn) -> Case:
    size, target, seed = draw(sizes(1, 6, 2)), draw(sizes(1, 6, 2)), draw(st.integers(0, 1000))
    x, grid = tensors(seed, (2, 3, *size), (2, *target, 2))
    mode, corners = draw(st.sampled_from(["bilinear", "nearest"])), draw(st.booleans())
    padding = draw(st.sampled_from(["zeros", "border", "reflection"]))
    return Case(lambda x, grid: functional.grid_sample(x, grid, mode, padding, corners), (x, grid))


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(samplings(), min_size=30, max_size=30))
def test_sampling_agrees_with_pytorch(cases: list[Case]) -> None:
    agree(cases, traced=True)


def test_resampling_gives_what_coremltools_measured() -> None:
    coordinates = np.array([-1.0, -2.0, -3.7, -1.0, 0.0, 0.0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)
    rows: list[tuple[tuple[str, str, float, str, bool], list[float]]] = [
        (("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True), [8.585, 6.17, 27.5, 6.17]),
        (("nearest", "border", -1.0, "unnormalized", False), [11, 11, 11, 44]),
        (("bilinear", "reflection", -1.0, "normalized_zero_to_one", True), [22, 36.3, 11, 34.1]),
        (("nearest", "symmetric", -1.0, "normalized_zero_to_one", False), [22, 33, 11, 33]),
    ]

    whole = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int32).reshape(1, 2, 2, 2)
    found = run_mil(lambda x, grid, whole: [resampled(x, each, *row) for each in (grid, whole) for row, _ in rows],
                    {"x": SQUARE, "grid": coordinates, "whole": whole})  # fmt: skip
    wanted = [want for _, want in rows] + [[27.5, 44, 27.5, 44]] + [[11, 44, 11, 44]] * 3
    np.testing.assert_allclose([got.ravel() for got in found.values()], wanted, rtol=1e-5)


def resampled(x: Any, grid: Any, sampling: str, padding: str, value: float, coordinates: str, corners: bool) -> Any:
    return Builder.resample(
        x=x, coordinates=grid, sampling_mode=sampling, padding_mode=padding, padding_value=np.float32(value),
        coordinates_mode=coordinates, align_corners=corners,
    )  # fmt: skip


SCIPY = {"constant": "grid-constant", "border": "nearest", "reflection": "mirror", "symmetric": "reflect"}


@st.composite
def modes(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[Any, ...]]:
    size, target, seed = draw(sizes(1, 5, 2)), draw(sizes(1, 5, 2)), draw(st.integers(0, 1000))
    (x,) = tensors(seed, (2, 2, *size))
    kind = draw(st.sampled_from(["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]))
    spread = 4.0 if kind == "unnormalized" else 1.3
    grid = np.random.default_rng(seed).uniform(-spread, 2 * spread, (2, *target, 2)).astype(np.float32)
    rule = draw(st.sampled_from(["bilinear", "nearest"])), draw(st.sampled_from(list(SCIPY))), draw(st.sampled_from([0.0, 2.5]))
    return x.numpy(), grid, (*rule, kind, draw(st.booleans()))


def by_scipy(x: NDArray[np.float32], grid: NDArray[np.float32], rule: tuple[Any, ...]) -> NDArray[Any]:
    sampling, padding, value, kind, corners = rule
    length = np.array([x.shape[3], x.shape[2]])
    pixels = grid.astype(np.float64)
    if kind != "unnormalized":
        share = (pixels + 1) / 2 if kind == "normalized_minus_one_to_one" else pixels
        pixels = share * (length - 1) if corners else share * length - 0.5
    places = np.moveaxis(pixels[..., ::-1], -1, 1)
    options: dict[str, Any] = {"order": int(sampling == "bilinear"), "mode": SCIPY[padding], "cval": value}
    return np.array([[map_coordinates(channel.astype(np.float64), place, **options) for channel in image]
                     for image, place in zip(x, places, strict=True)])  # fmt: skip


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(modes(), min_size=50, max_size=50))
def test_resampling_is_what_scipy_gives(cases: list[Any]) -> None:
    inputs = {f"{name}{index}": value for index, case in enumerate(cases) for name, value in zip("xg", case[:2], strict=True)}

    def build(**given: Any) -> list[Any]:
        return [resampled(given[f"x{index}"], given[f"g{index}"], *rule) for index, (_, _, rule) in enumerate(cases)]

    for found, (x, grid, rule) in zip(run_mil(build, inputs).values(), cases, strict=True):
        close(found, by_scipy(x, grid, rule), 1e-4, f"{rule} {x.shape}")


def test_affine_transforms_agree_with_pytorch_and_with_what_coremltools_measured() -> None:
    matrix = np.array([[-1.0, -2.0, -3.7, -1.0, 3.5, 1.2]], np.float32)
    transpose = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]], np.float32)
    x, theta = tensors(0, (2, 3, 4, 5), (2, 6))

    def affine(x: Any, theta: Any, height: int, width: int) -> Any:
        return Builder.affine(x=x, transform_matrix=theta, output_height=height, output_width=width, sampling_mode="bilinear",
                              padding_mode="constant", padding_value=np.float32(0), align_corners=True,
                              coordinates_mode="normalized_minus_one_to_one")  # fmt: skip

    found = run_mil(lambda s, m, x, t: [affine(s, m, 3, 3), affine(s, m, 2, 5), affine(x, t, 6, 3), affine(x, transpose, 5, 4)],
                    {"s": SQUARE, "m": matrix, "x": x.numpy(), "t": theta.numpy()})  # fmt: skip
    three, five, own, turned = found.values()
    close(three.ravel(), np.array([10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0]), 1e-5)
    close(five.ravel(), np.array([10.7525, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0]), 1e-5)
    grid = functional.affine_grid(theta.reshape(2, 2, 3), [2, 3, 6, 3], align_corners=True)
    close(own, functional.grid_sample(x, grid, align_corners=True).numpy())
    close(turned, torch.transpose(x, 2, 3).numpy())
