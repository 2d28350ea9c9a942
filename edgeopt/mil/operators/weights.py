"""Weights as a package stores them: quantized, palettized, sparse, and these together.

All arguments are constants: each weight is decoded once, when its package is loaded.
"""

import numpy as np
import torch
from torch import Tensor

from edgeopt.mil.operator import Ints, operator
from edgeopt.mil.operators.quantization import dequantize


@operator("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale * (quantized_data - zero_point) along ``axis``."""
    return dequantize(quantized_data, scale, zero_point, axis)


@operator("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset). Each of ``scale`` and ``offset`` serves a block of data.shape / scale.shape values."""
    found = _in_blocks(data.to(torch.float32), scale.shape)
    if offset is not None:
        found = found - _of_blocks(offset).to(torch.float32)
    return (found * _of_blocks(scale)).reshape(data.shape)


@operator("constexpr_lut_to_dense", exact=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, opset: int, shape: Ints = (), vector_axis: int | None = None
) -> Tensor:
    """The values of ``lut`` at ``indices``.

    iOS 16: lut [palettes], and indices packed as bits for a tensor of ``shape``. iOS 18: lut [*groups, palettes, vector],
    of which each table serves a block of indices.shape / groups; vectors are laid along ``vector_axis``.
    """
    if opset < 18:
        return lut[_unpacked(indices, (len(lut) - 1).bit_length(), int(np.prod(shape))).long()].reshape(shape)
    *groups, palettes, width = lut.shape
    tables = torch.arange(0, lut.shape[:-1].numel(), palettes, dtype=torch.int32).reshape(groups)
    places = (_in_blocks(indices.to(torch.int32), groups) + _of_blocks(tables)).flatten()
    found = lut.reshape(-1, width).index_select(0, places).reshape(*indices.shape, width)
    axis = (vector_axis or 0) % indices.dim()
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1).contiguous()


@operator("constexpr_sparse_to_dense", exact=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, opset: int, shape: Ints = ()) -> Tensor:
    """``nonzero_data`` [n] in row-major order where ``mask`` is set (n times), 0 elsewhere.

    iOS 16: mask packed as bits, for a tensor of ``shape``. iOS 18: a mask of the shape itself.
    """
    if opset < 18:
        mask = _unpacked(mask, 1, int(np.prod(shape))).reshape(shape)
    return torch.zeros(mask.shape, dtype=nonzero_data.dtype).masked_scatter_(mask.bool(), nonzero_data)


@operator("constexpr_lut_to_sparse", exact=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, opset: int, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask and the nonzero values, each index replaced as by constexpr_lut_to_dense; the mask grows with vectors."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask, opset)
    dense = constexpr_lut_to_dense(indices, lut, opset, vector_axis=vector_axis)
    mask = indices_mask if vector_axis is None else indices_mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask.bool()]


@operator("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, opset: int, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask and the nonzero values, these as by constexpr_blockwise_shift_scale; zeros stay, whatever the offset."""
    data = constexpr_sparse_to_dense(nonzero_data, data_mask, opset)
    return data_mask, constexpr_blockwise_shift_scale(data, scale, offset)[data_mask.bool()]


@operator("constexpr_cast", exact=True)
def constexpr_cast(source_val: Tensor) -> Tensor:
    """float16 as float32, which it is here already."""
    return source_val


def _in_blocks(value: Tensor, counts: Ints | list[int]) -> Tensor:
    """``value`` with each axis split in two: which of ``counts`` blocks, and where in the block."""
    pairs = zip(value.shape, counts, strict=True)
    return value.reshape([size for length, count in pairs for size in (count, length // count)])


def _of_blocks(value: Tensor) -> Tensor:
    """``value``, one per block, so that it broadcasts over :func:`_in_blocks`."""
    return value.reshape([size for count in value.shape for size in (count, 1)])


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """``count`` numbers of ``bits`` bits that stand in bytes one after the other, lowest bit first; uint8."""
    if bits == 8:
        return packed[:count]
    found = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    return torch.from_numpy(np.packbits(found, axis=1, bitorder="little")[:, 0])
