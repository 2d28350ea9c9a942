"""Changes of shape and order: the same elements, elsewhere."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import Bools, Ints, Tensors, operator


@operator("reshape", exact=True, half=True)
def reshape(x: Tensor, shape: Ints, opset: int) -> Tensor:
    """``x`` with another shape. -1 is what is left; 0 keeps the size of ``x`` there.

    Since iOS 17 the sizes of ``x`` are aligned on the right, and 0 is 1 where it has none.
    """
    if 0 not in shape:
        return x.reshape(shape)
    kept = tuple(x.shape)
    if opset >= 17:
        kept = ((1,) * len(shape) + kept)[-len(shape) :]
    return x.reshape([have if want == 0 else want for have, want in zip(kept, shape, strict=True)])


@operator("reshape_like", exact=True)
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Bools) -> Tensor:
    """``x`` with the sizes begin to end (all from begin, where ``end_masks``) of each reference, one after the other."""
    shape: list[int] = []
    for reference, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[begin : None if masked else end]
    return x.reshape(shape)


@operator("expand_dims", exact=True, half=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """``x`` with dimensions of size 1 at ``axes`` of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze", exact=True, half=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """``x`` without the dimensions of size 1 among ``axes``; without any of size 1 where ``axes`` is not given."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("transpose", exact=True, half=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Dimension i of the result is dimension perm[i] of ``x``."""
    return x.permute(perm)


@operator("flatten2d", exact=True, half=True)
def flatten2d(x: Tensor, axis: int) -> Tensor:
    """[product of the sizes before ``axis``, product of the others]."""
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("reverse", exact=True, half=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """``x`` backwards along ``axes``, or along all."""
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


@operator("reverse_sequence", exact=True)
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int, batch_axis: int) -> Tensor:
    """The first ``lengths[i]`` elements along ``seq_axis`` of batch i backwards, the others as they are."""
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    steps, ends = torch.arange(moved.shape[1]), lengths[:, None]
    order = torch.where(steps < ends, ends - 1 - steps, steps).to(torch.int64)
    return moved[torch.arange(moved.shape[0])[:, None], order].movedim((0, 1), (batch_axis, seq_axis))


@operator("sliding_windows", exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int) -> Tensor:
    """Windows of ``size``: [..., number of windows, size, ...], the number where ``axis`` was."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@operator("tile", exact=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    """``x`` reps[i] times along dimension i."""
    return x.repeat(reps)


@operator("pixel_shuffle", exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[n, c * f * f, h, w] -> [n, c, h * f, w * f]; the channel is the slowest part of the first size."""
    return functional.pixel_shuffle(x, upscale_factor)


@operator("pixel_unshuffle", exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[n, c, h * f, w * f] -> [n, c * f * f, h, w], which pixel_shuffle takes back."""
    return functional.pixel_unshuffle(x, downscale_factor)


@operator("depth_to_space", exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """[n, b * b * c, h, w] -> [n, c, h * b, w * b]; other than in pixel_shuffle the channel is the fastest (TensorFlow's)."""
    n, depth, height, width = x.shape
    blocks = x.reshape(n, block_size, block_size, depth // block_size**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, height * block_size, width * block_size)


@operator("space_to_depth", exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """[n, c, h * b, w * b] -> [n, b * b * c, h, w], which depth_to_space takes back."""
    n, c, height, width = x.shape
    blocks = x.reshape(n, c, height // block_size, block_size, width // block_size, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, height // block_size, width // block_size)


@operator("space_to_batch", exact=True)
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """[n, c, h, w], padded with 0, -> [b0 * b1 * n, c, h / b0, w / b1]; the place in a block is the slowest (TensorFlow's)."""
    top, bottom, left, right = paddings
    padded = functional.pad(x, (left, right, top, bottom))
    (n, c, height, width), (down, across) = padded.shape, block_shape
    blocks = padded.reshape(n, c, height // down, down, width // across, across)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(-1, c, height // down, width // across)


@operator("batch_to_space", exact=True)
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """[b0 * b1 * n, c, h, w] -> [n, c, h * b0, w * b1], then cropped: what space_to_batch did is undone."""
    (_, c, height, width), (down, across) = x.shape, block_shape
    top, bottom, left, right = crops
    blocks = x.reshape(down, across, -1, c, height, width).permute(2, 3, 4, 0, 5, 1)
    whole = blocks.reshape(-1, c, height * down, width * across)
    return whole[:, :, top : height * down - bottom, left : width * across - right]
