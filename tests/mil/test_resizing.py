"""Resizing against coremltools' conversion of PyTorch's, the documented grids, and what coremltools measured on Core ML."""

from collections.abc import Sequence
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

from edgeopt.errors import ConversionError
from edgeopt.mil.operators.resizing import resize
from tests.mil.packages import Case, agree, close, run_mil
from tests.mil.test_convolution import sizes, tensors

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


@st.composite
def interpolations(draw: st.DrawFn) -> Case:
    size, target = draw(sizes(2, 9, 2)), draw(sizes(2, 20, 2))
    (x,) = tensors(draw(st.integers(0, 1000)), (2, 3, *size))
    if draw(st.booleans()):
        scale = [draw(st.sampled_from([1.0, 2.0, 3.0])) for _ in size]
        return Case(lambda x: functional.interpolate(x, scale_factor=scale, mode="nearest"), (x,))
    corners = draw(st.booleans())
    if draw(st.booleans()):
        return Case(lambda x: functional.interpolate(x[0], target[0], mode="linear", align_corners=corners), (x,))
    return Case(lambda x: functional.interpolate(x, target, mode="bilinear", align_corners=corners), (x,))


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(interpolations(), min_size=40, max_size=40))
def test_interpolation_agrees_with_pytorch(cases: list[Case]) -> None:
    agree(cases, ios=15)


LINE = np.array([[[0.0, 1.0]]], np.float32)
PIXELS = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
BOXES = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]], np.float32)
BNNS = np.array(
    [[0, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 1, 0, 9, 0, 9], [0, 0, 0, 0, 9, 0], [0, 0, 0, 9, 0, 9]], np.float32
)[None, None]
PATCHES = [3.1, 5.2, 7.5, 7.5, 7.5, 7.9, 7.5, 13.9, 2.2, 3.1, 9.4, 10.3]


def roi(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(len(rows), 1, -1, 1, 1)


def wide(mode: str) -> dict[str, Any]:
    return {"target_size_height": 1, "target_size_width": 5, "sampling_mode": mode}


def patch(side: int, **options: Any) -> dict[str, Any]:
    return {"target_height": side, "target_width": side, "sampling_mode": "ALIGN_CORNERS"} | options


MEASURED: dict[int, list[tuple[str, NDArray[np.float32], dict[str, Any], Any]]] = {
    15: [
        ("resize_bilinear", LINE, wide("STRICT_ALIGN_CORNERS"), [0, 0.25, 0.5, 0.75, 1]),
        ("resize_bilinear", LINE, wide("DEFAULT"), [0, 0.4, 0.8, 1, 1]),
        ("resize_bilinear", LINE, wide("OFFSET_CORNERS"), [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("resize_bilinear", LINE, wide("UNALIGN_CORNERS"), [0, 0.1, 0.5, 0.9, 1]),
        ("resize_nearest_neighbor", LINE.reshape(1, 1, 2, 1), {"target_size_height": 2, "target_size_width": 3},
         [0, 0, 0, 1, 1, 1]),
        ("upsample_nearest_neighbor", LINE, {"scale_factor_height": 3.17, "scale_factor_width": 1.0}, [0, 1, 0, 1, 0, 1]),
        ("upsample_nearest_neighbor", PIXELS[..., :1, :3], {"scale_factor_height": 1.0, "scale_factor_width": 0.67}, [1, 2]),
        ("upsample_nearest_neighbor", PIXELS[..., :1, :3], {"scale_factor_height": 1.0, "scale_factor_width": 1.12}, [1, 2, 3]),
        ("upsample_bilinear", LINE, {"scale_factor_width": 3, "align_corners": True}, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("upsample_bilinear", LINE, {"scale_factor_width": np.float32(2.6), "scale_factor_height": np.float32(1),
                                     "align_corners": False}, [0, 0.1, 0.5, 0.9, 1]),
        ("crop", PIXELS, {"crop_height": [0, 1], "crop_width": [1, 1]}, [2, 3, 6, 7, 10, 11]),
        ("crop_resize", PIXELS, patch(2, roi=roi([1, 1, 2, 2])), [6, 7, 10, 11]),
        ("crop_resize", PIXELS, patch(1, roi=roi([1, 1, 2, 2])), [8.5]),
        ("crop_resize", PIXELS, patch(2, roi=roi([0, 0, 0, 1 / 3, 1 / 3]), normalized_coordinates=True), [1, 2, 5, 6]),
        ("crop_resize", PIXELS, patch(2, roi=roi([2, 2, 1, 1])), [11, 10, 7, 6]),
        ("crop_resize", PIXELS.reshape(2, 1, 2, 4), patch(2, roi=roi([0, 0, 1, 1], [0, 2, 1, 3])),
         [1, 2, 5, 6, 9, 10, 13, 14, 3, 4, 7, 8, 11, 12, 15, 16]),
    ],
    16: [
        ("upsample_bilinear", LINE, {"scale_factor_width": 3, "align_corners": False, "half_pixel_centers": False},
         [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("crop_resize", PIXELS, patch(2, roi=roi(*np.insert(BOXES, 0, 0, 1)), normalized_coordinates=True,
                                      pad_value=np.float32(7.5)), PATCHES),
    ],
    17: [
        ("crop_resize", PIXELS, patch(2, boxes=BOXES, box_indices=np.zeros(3, np.int32), normalized_coordinates=True,
                                      pad_value=np.float32(7.5)), PATCHES),
        ("crop_resize", BNNS, patch(3, boxes=np.array([[1, 1, 3, 3], [4, 3, 3, 3]], np.float32),
                                    box_indices=np.zeros(2, np.int32), sampling_mode="OFFSET_CORNERS",
                                    box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST"),
         [0, 1, 0, 1, 1, 1, 0, 1, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9]),
        ("resize", LINE, {"shape": [1, 1, 5], "resized_dims": np.uint32(2)}, [0, 0.4, 0.8, 1, 1]),
        ("resize", LINE.reshape(1, 1, 1, 2, 1), {"shape": [1, 1, 3, 2], "resized_dims": np.uint32(2),
                                                 "interpolation_mode": "NEAREST_NEIGHBOR"}, [0, 0, 1, 1, 1, 1]),
        ("resize", LINE, {"shape": [1, 0, 0], "resized_dims": np.uint32(2)}, [0, 1]),
    ],
}  # fmt: skip
"""By opset: operator, x, parameters, what Core ML gives. From coremltools' tests (mil/ops/tests/*/test_image_resizing.py), and
of BNNS from the documentation of BNNSCropResize."""


@pytest.mark.parametrize("ios", [15, pytest.param(16, marks=pytest.mark.slow), 17])
def test_resizing_gives_what_coremltools_measured(ios: int) -> None:
    rows = MEASURED[ios]

    def build(**xs: Any) -> list[Any]:
        return [getattr(Builder, name)(x=x, **options) for x, (name, _, options, _) in zip(xs.values(), rows, strict=True)]

    inputs = {f"x{index}": x for index, (_, x, _, _) in enumerate(rows)}
    for found, (name, *_, want) in zip(run_mil(build, inputs, ios=ios).values(), rows, strict=True):
        close(found.ravel(), np.array(want, np.float64), 1e-5, name)


def points(mode: str, size: float, count: int) -> NDArray[np.float64]:
    """The documentation's grid of each sampling mode, a size of 1 taken as it has to be."""
    start, spacing = 0.0, 0.0
    if mode.endswith("STRICT_ALIGN_CORNERS") or mode == "ALIGN_CORNERS":
        spacing = (size - 1) / (count - 1) if count > 1 else 0.0
        start = (size - 1) / 2 if mode == "ALIGN_CORNERS" and count == 1 else 0.0
    elif mode == "DEFAULT":
        spacing = (size - size / count) / (count - 1) if count > 1 else 0.0
    elif mode == "OFFSET_CORNERS":
        spacing = max(1, size - 1) / count
        start = 0.5 * spacing
    else:
        spacing = size / count
        start = 0.5 * spacing - 0.5
    return np.clip(start + np.arange(count) * spacing, 0, size - 1)


def interpolated(x: NDArray[Any], axis: int, mode: str, count: int) -> NDArray[Any]:
    grid = points(mode, x.shape[axis], count)
    return np.apply_along_axis(lambda line: np.interp(grid, np.arange(len(line)), line), axis, x)


@st.composite
def resizes(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[int], str]:
    """x of any rank, the sizes that its last dimensions get, a sampling mode."""
    rank = draw(st.integers(1, 4))
    (x,) = tensors(draw(st.integers(0, 1000)), draw(sizes(1, 6, rank)))
    return x.numpy(), draw(sizes(1, 9, draw(st.integers(1, min(rank, 3))))), draw(st.sampled_from(MODES))


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(resizes(), min_size=50, max_size=50))
def test_linear_resizing_follows_the_documented_grids(cases: list[tuple[NDArray[np.float32], list[int], str]]) -> None:
    inputs = {f"x{index}": x for index, (x, _, _) in enumerate(cases)}

    def build(**xs: Any) -> list[Any]:
        return [Builder.resize(x=x, shape=target, resized_dims=np.uint32(len(target)), sampling_mode=mode)
                for x, (_, target, mode) in zip(xs.values(), cases, strict=True)]  # fmt: skip

    for found, (x, target, mode) in zip(run_mil(build, inputs).values(), cases, strict=True):
        want: NDArray[Any] = x
        for axis, count in enumerate(target, start=x.ndim - len(target)):
            want = interpolated(want, axis, mode, count)
        close(found, want, name=f"{mode} {x.shape} {target}")


@pytest.mark.parametrize("mode", ["DEFAULT", "UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS", "OFFSET_CORNERS"])
def test_nearest_resizing_takes_the_pixel_under_the_middle_or_nearest_to_the_grid(mode: str) -> None:
    found = resize(torch.arange(5.0), (8,), 1, "NEAREST_NEIGHBOR", mode)
    middles = np.floor((np.arange(8) + 0.5) * 5 / 8)
    want = middles if mode in ("DEFAULT", "UNALIGN_CORNERS") else np.round(points(mode, 5, 8))
    np.testing.assert_array_equal(found, want)


def test_linear_resizing_of_integers_is_refused() -> None:
    with pytest.raises(ConversionError, match="LINEAR resizing of integers"):
        resize(torch.arange(4), (8,), 1, "LINEAR", "DEFAULT")


@st.composite
def crops(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], dict[str, Any]]:
    """x, boxes in pixels by rows first, the images they are of, and the parameters."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(2, 7)), draw(st.integers(2, 7))
    seed, count = draw(st.integers(0, 1000)), draw(st.integers(1, 3))
    generator = np.random.default_rng(seed)
    starts, ends = (generator.uniform(-1, [height, width], (count, 2)) for _ in range(2))
    mode = draw(st.sampled_from(MODES))
    if "ALIGN" not in mode or mode == "UNALIGN_CORNERS":  # a box that runs backwards is MIL's for the aligned modes only
        starts, ends = np.minimum(starts, ends), np.maximum(starts, ends)
    boxes = np.concatenate([starts, ends], 1).astype(np.float32)
    options = {"target_height": draw(st.integers(1, 5)), "target_width": draw(st.integers(1, 5)), "sampling_mode": mode,
               "pad_value": np.float32(draw(st.sampled_from([0.0, -2.0])))}  # fmt: skip
    (x,) = tensors(seed, (batch, 2, height, width))
    return x.numpy(), boxes, generator.integers(0, batch, count).astype(np.int32), options


def cropped(x: NDArray[np.float32], box: NDArray[np.float32], image: int, options: dict[str, Any]) -> NDArray[Any]:
    """One patch [c, height, width], by SciPy, which has a constant beyond the image too."""
    lines = []
    for start, end, count in zip(box[:2], box[2:], (options["target_height"], options["target_width"]), strict=True):
        along = points(options["sampling_mode"], abs(float(end) - float(start)) + 1, count)
        lines.append(float(start) + (along if end >= start else -along))
    grid = np.meshgrid(*lines, indexing="ij")
    return np.stack([map_coordinates(channel.astype(np.float64), grid, order=1, mode="constant", cval=options["pad_value"])
                     for channel in x[image]])  # fmt: skip


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.lists(crops(), min_size=40, max_size=40), st.sampled_from(["CORNERS", "CENTER_SIZE"]), st.booleans())
def test_crops_are_sampled_on_the_grid_of_their_boxes(cases: list[Any], kind: str, width_first: bool) -> None:
    inputs = {f"x{index}": case[0] for index, case in enumerate(cases)}

    def build(**xs: Any) -> list[Any]:
        calls = []
        for x, (_, boxes, images, options) in zip(xs.values(), cases, strict=True):
            first, last = boxes[:, :2], boxes[:, 2:]
            pairs = (first, last) if kind == "CORNERS" else ((first + last) / 2, last - first)
            given = np.concatenate([pair[:, ::-1] if width_first else pair for pair in pairs], 1)
            mode = f"{kind}_{'WIDTH' if width_first else 'HEIGHT'}_FIRST"
            calls.append(Builder.crop_resize(x=x, boxes=given, box_indices=images, box_coordinate_mode=mode, **options))
        return calls

    for found, (x, boxes, images, options) in zip(run_mil(build, inputs).values(), cases, strict=True):
        want = np.stack([cropped(x, box, image, options) for box, image in zip(boxes, images, strict=True)])
        close(found, want, 1e-3, str(options))
