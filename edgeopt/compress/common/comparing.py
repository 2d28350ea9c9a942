"""Whether two runs give the same, output by output and channel by channel: what an average over all would hide is named."""

import torch
from torch import Tensor

MOST_CHANNELS = 1024
"""Longer axes are positions, not channels."""
QUIET = 1e-2
"""Of an output's greatest value: below it a channel is compared at that scale, where rounding of louder ones may reach it."""


def unequal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str:
    """Which output and channel differ, by how much; "" where all are equal but for the order of summation."""
    if len(found) != len(expected):
        return f"{len(found)} outputs instead of {len(expected)}"
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape:
            return f"output {number} has the shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
        if wrong := _unequal(ours, theirs):
            return f"output {number}{wrong}"
    return ""


def _unequal(found: Tensor, expected: Tensor) -> str:
    if not expected.is_floating_point():
        return "" if bool((found == expected).all()) else " differs"
    if not bool((found.isfinite() == expected.isfinite()).all()):
        return " is infinite or no number in other places"
    known = expected.isfinite()
    error = torch.where(known, found - expected, 0).abs().double()
    size = torch.where(known, expected, 0).abs().double()
    relative = torch.finfo(expected.dtype).eps ** 0.5
    loudest = float(size.max()) if size.numel() else 0.0
    for axis in range(1, expected.ndim):
        if 1 < expected.shape[axis] <= MOST_CHANNELS:
            errors, sizes = (value.transpose(0, axis).flatten(1).amax(1) for value in (error, size))
            wrong = errors > relative * sizes.clamp_min(QUIET * loudest)
            if bool(wrong.any()):
                channel = int((errors - relative * sizes).argmax())
                much = f"{float(errors[channel]):.2g} at {float(sizes[channel]):.2g}"
                return f", channel {channel} of axis {axis}, differs by {much}"
    whole = float(error.max()) if error.numel() else 0.0
    return f" differs by {whole:.2g} at {loudest:.2g}" if whole > relative * loudest else ""
