"""Resizing and cropping of images, the last two dimensions, and resizing of any trailing dimensions."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.errors import ConversionError
from edgeopt.mil.operator import Ints, operator

_ALIGNED = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
"""Sampling modes that PyTorch has too, and its ``align_corners``."""


@operator("upsample_nearest_neighbor", exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float, scale_factor_width: float) -> Tensor:
    """[*, h, w] -> [*, floor(h * scale), floor(w * scale)], element i being the input's floor(i * h / height), as PyTorch's."""
    for dim, scale in ((-1, scale_factor_width), (-2, scale_factor_height)):  # rows are quicker to take than columns
        size, count = x.shape[dim], _scaled(x.shape[dim], scale)
        x = _taken(x, dim, torch.arange(count) * size // count)
    return x


@operator("resize_nearest_neighbor", exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """[*, h, w] -> [*, height, width]; element i is the input's floor((i + 0.5) * h / height): TensorFlow's half_pixel_centers.

    The operator's documentation leaves the rule out; coremltools converts that TensorFlow mode to it.
    """
    return _nearest(_nearest(x, -1, target_size_width, "DEFAULT"), -2, target_size_height, "DEFAULT")


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float,
    scale_factor_width: float,
    align_corners: bool,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """[*, h, w] -> [*, floor(h * scale), floor(w * scale)], with the scale of the sizes that come out."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = {(True, False): "STRICT_ALIGN_CORNERS", (False, True): "UNALIGN_CORNERS", (False, False): "DEFAULT"}[
        align_corners, half
    ]
    return _linear(x, (_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)), mode)


@operator("resize_bilinear")
def resize_bilinear(x: Tensor, target_size_height: int, target_size_width: int, sampling_mode: str) -> Tensor:
    """[*, h, w] -> [*, height, width]."""
    return _linear(x, (target_size_height, target_size_width), sampling_mode)


@operator("resize", note="LINEAR of integers")
def resize(x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str, sampling_mode: str) -> Tensor:
    """``x`` with the last ``resized_dims`` of ``shape`` as its last dimensions; 0 stands for what ``x`` has."""
    wanted = zip(shape[len(shape) - resized_dims :], x.shape[x.dim() - resized_dims :], strict=True)
    sizes = tuple(size or old for size, old in wanted)
    if interpolation_mode == "NEAREST_NEIGHBOR":
        for before, size in enumerate(reversed(sizes), start=1):
            x = _nearest(x, x.dim() - before, size, sampling_mode)
        return x
    if not x.is_floating_point():
        why = "MIL's documentation does not say how the results are rounded"
        raise ConversionError("LINEAR resizing of integers cannot be evaluated here", why=why, fix="cast them to floats before")
    return _linear(x, sizes, sampling_mode)


@operator("crop", exact=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """[*, h, w] without crop_height[0] rows above and crop_height[1] below, and without columns alike."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("crop_resize")
def crop_resize(
    x: Tensor, target_height: int, target_width: int, normalized_coordinates: bool, spatial_scale: float,
    box_coordinate_mode: str, sampling_mode: str, boxes: Tensor | None = None, box_indices: Tensor | None = None,
    roi: Tensor | None = None, pad_value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Bilinear patches of x [b, c, h, w]: [n, c, height, width] of boxes [n, 4] of the images box_indices [n].

    Before iOS 17 [n, b, c, height, width] of roi [n, 1, 4, 1, 1], every image's, or [n, 1, c, height, width] of
    roi [n, 1, 5, 1, 1] that begin with the image's index. Points beyond the image are ``pad_value``.
    """
    boxes, images = _per_image(roi, len(x)) if boxes is None else (boxes, box_indices)
    scale = torch.tensor([x.shape[2] - 1, x.shape[3] - 1] if normalized_coordinates else [1, 1]) * spatial_scale
    starts, ends = (corner * scale for corner in _corners(boxes.to(torch.float32), box_coordinate_mode))
    rows = _points(starts[:, 0], ends[:, 0], target_height, sampling_mode)
    columns = _points(starts[:, 1], ends[:, 1], target_width, sampling_mode)
    found = _sampled(x, torch.arange(len(boxes)) if images is None else images.long(), rows, columns, pad_value)
    return found if roi is None else found.reshape(len(roi), -1, *found.shape[1:])


def grid(mode: str, size: Tensor | int, count: int) -> Tensor:
    """``count`` points of the line [0, size - 1] as ``sampling_mode`` lays them: size [...] -> [..., count], float64."""
    length = torch.as_tensor(size, dtype=torch.float64)[..., None]
    steps = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = (length - 1) / 2 if mode == "ALIGN_CORNERS" and count == 1 else steps * (length - 1) / max(count - 1, 1)
    elif mode == "DEFAULT":
        points = steps * length / count
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * (length - 1).clamp(min=1) / count
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * length / count - 0.5
    else:
        raise ConversionError(f"the sampling mode {mode} cannot be evaluated here", why="MIL's documentation does not have it")
    return torch.minimum(points.clamp(min=0), length - 1)


def _scaled(size: int, scale: float) -> int:
    return int(np.floor(np.float32(scale) * np.float32(size)))  # float32 as coremltools: 2.6 * 5 is 13, in float64 less


def _taken(x: Tensor, dim: int, positions: Tensor) -> Tensor:
    return x if torch.equal(positions, torch.arange(x.shape[dim])) else x.index_select(dim, positions)


def _nearest(x: Tensor, dim: int, count: int, mode: str) -> Tensor:
    """``x`` with the ``count`` elements along ``dim`` that are nearest to the grid, the greater index at halves.

    DEFAULT is UNALIGN_CORNERS here: coremltools converts TensorFlow's half_pixel_centers to it, and its tests compare the two.
    """
    size = x.shape[dim]
    if mode in ("DEFAULT", "UNALIGN_CORNERS"):
        return _taken(x, dim, (2 * torch.arange(count) + 1) * size // (2 * count))
    return _taken(x, dim, grid(mode, size, count).add(0.5).floor().long().clamp(max=size - 1))


def _linear(x: Tensor, sizes: Ints, mode: str) -> Tensor:
    """``x`` with its last dimensions resized to ``sizes``, interpolated along each."""
    if len(sizes) == 2 and mode in _ALIGNED and x.dim() > 2 and (mode != "ALIGN_CORNERS" or min(sizes) > 1):
        flat = x if x.dim() == 4 else x.reshape(1, -1, *x.shape[-2:])
        resized = functional.interpolate(flat, sizes, mode="bilinear", align_corners=_ALIGNED[mode])
        return resized.reshape(*x.shape[:-2], *sizes)
    for before, count in enumerate(reversed(sizes), start=1):
        dim = x.dim() - before
        points = grid(mode, x.shape[dim], count)
        low = points.floor().long()
        weights = (points - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1 - dim))
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weights)
    return x


def _per_image(roi: Tensor | None, images: int) -> tuple[Tensor, Tensor]:
    """Boxes and their images' indices of a roi of iOS 15 and 16."""
    if roi is None:
        raise ConversionError("crop_resize has neither boxes nor roi", why="the program is not valid MIL")
    rows = roi.flatten(1)
    if rows.shape[1] == 5:
        return rows[:, 1:], rows[:, 0]
    return rows.repeat_interleave(images, 0), torch.arange(images).repeat(len(rows))


def _corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """The first and last (row, column) of boxes [n, 4], each [n, 2]. A box of a size reaches half of it from its centre."""
    first, last = boxes.split(2, 1)  # type: ignore[no-untyped-call]
    if mode.startswith("CENTER_SIZE"):
        first, last = first - last / 2, first + last / 2
    return (first.flip(1), last.flip(1)) if mode.endswith("WIDTH_FIRST") else (first, last)


def _points(start: Tensor, end: Tensor, count: int, mode: str) -> Tensor:
    """``count`` points from start [n] to end [n], backwards too, as on a line of |end - start| + 1 pixels: [n, count]."""
    length = (end - start).to(torch.float64)
    direction = torch.where(length < 0, -1.0, 1.0).to(torch.float64)
    return start[:, None] + direction[:, None] * grid(mode, length.abs() + 1, count)


def _sampled(x: Tensor, images: Tensor, rows: Tensor, columns: Tensor, outside: float) -> Tensor:
    """x [b, c, h, w] at rows [n, height] x columns [n, width] of images [n]: [n, c, height, width]."""
    inside = _within(rows, x.shape[2])[:, :, None] & _within(columns, x.shape[3])[:, None, :]
    (top, bottom, down), (left, right, along) = _neighbours(rows, x.shape[2]), _neighbours(columns, x.shape[3])
    pixels, image = x.permute(0, 2, 3, 1), images[:, None, None]

    def line(row: Tensor) -> Tensor:
        row = row[:, :, None]
        return torch.lerp(pixels[image, row, left[:, None]], pixels[image, row, right[:, None]], along[:, None, :, None])

    found = torch.lerp(line(top), line(bottom), down[:, :, None, None])
    return found.masked_fill_(~inside[..., None], outside).permute(0, 3, 1, 2)


def _within(points: Tensor, size: int) -> Tensor:
    return (points >= 0) & (points <= size - 1)


def _neighbours(points: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each point, and the weight of the latter."""
    points = points.clamp(0, size - 1)
    low = points.floor().long()
    return low, (low + 1).clamp(max=size - 1), (points - low).to(torch.float32)
