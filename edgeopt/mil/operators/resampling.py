"""Resampling of images at coordinates (x, y)."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import operator

_NATIVE = {("constant", True): "zeros", ("constant", False): "zeros", ("border", True): "border", ("border", False): "border",
           ("reflection", True): "reflection", ("symmetric", False): "reflection"}  # fmt: skip
"""(padding_mode, align_corners) by PyTorch's name: it ties to align_corners whether a reflection repeats the border."""


@operator("resample")
def resample(
    x: Tensor, coordinates: Tensor, sampling_mode: str, padding_mode: str, padding_value: float, coordinates_mode: str,
    align_corners: bool,
) -> Tensor:  # fmt: skip
    """x [b, c, h, w] at coordinates [b, height, width, 2] -> [b, c, height, width]; ``nearest`` rounds halves to even."""
    grid, padding = coordinates.to(x.dtype), _NATIVE.get((padding_mode, align_corners))
    plain = padding_mode != "constant" or padding_value == 0
    if coordinates_mode == "normalized_minus_one_to_one" and padding is not None and plain:
        return functional.grid_sample(x, grid, sampling_mode, padding, align_corners)
    sizes = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float64)
    pixels = _folded(_pixels(grid.to(torch.float64), sizes, coordinates_mode, align_corners), sizes, padding_mode)
    if sampling_mode == "nearest":
        pixels = pixels.round()  # here, as the way back through PyTorch's coordinates may cross a half
    shifted = x.to(torch.float64) - padding_value
    found = functional.grid_sample(shifted, (2 * pixels + 1) / sizes - 1, sampling_mode, "zeros", align_corners=False)
    return found.add_(padding_value).to(x.dtype)


@operator("affine", note="what MIL does not have: nearest sampling, padding other than by 0, other coordinates")
def affine(x: Tensor, transform_matrix: Tensor, output_height: int, output_width: int, align_corners: bool) -> Tensor:
    """x [b, c, h, w] where transform_matrix [b or 1, 6] sends the pixels of [b, c, height, width]; 0 around, bilinear."""
    theta = transform_matrix.reshape(-1, 2, 3).expand(len(x), 2, 3)
    grid = functional.affine_grid(theta, [*x.shape[:2], output_height, output_width], align_corners)
    return functional.grid_sample(x, grid, "bilinear", "zeros", align_corners)


def _pixels(grid: Tensor, sizes: Tensor, mode: str, align_corners: bool) -> Tensor:
    """Coordinates counted in pixels from the middle of the first one."""
    if mode == "unnormalized":
        return grid
    share = grid if mode == "normalized_zero_to_one" else (grid + 1) / 2
    return share * (sizes - 1) if align_corners else share * sizes - 0.5


def _folded(pixels: Tensor, sizes: Tensor, padding_mode: str) -> Tensor:
    """``pixels`` within the image, unless it is padded with a constant."""
    if padding_mode == "constant":
        return pixels
    if padding_mode in ("reflection", "symmetric"):
        low = 0.0 if padding_mode == "reflection" else -0.5
        span = sizes - 1 - 2 * low
        period = (2 * span).clamp(min=1)  # one pixel is its own reflection
        there = (pixels - low).remainder(period)
        pixels = low + torch.minimum(there, 2 * span - there)
    return torch.minimum(pixels.clamp(min=0), sizes - 1)
