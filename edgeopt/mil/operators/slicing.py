"""Slices, read and written. Indices are NumPy's: negative ones count from the end, and strides may be negative."""

from torch import Tensor

from edgeopt.mil.operator import Bools, Ints, operator


@operator("slice_by_index", exact=True, half=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x[begin:end:stride] in every dimension.

    Where ``begin_mask`` and ``end_mask`` are true the slice starts and ends at the tensor's own ends, in the direction of the
    stride; where ``squeeze_mask`` is, the element at ``begin`` is taken and the dimension goes.
    """
    index, backwards = _index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    found = x[index]
    return found.flip(backwards) if backwards else found


@operator("slice_update", exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """``x`` with ``update`` in the place that slice_by_index would take."""
    index, backwards = _index(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    found = x.clone()
    found[index] = update.flip(backwards) if backwards else update
    return found


@operator("slice_by_size", exact=True, half=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """``size`` elements from ``begin`` in every dimension, or all that are left where it is -1."""
    starts = [start % length if start < 0 else start for start, length in zip(begin, x.shape, strict=True)]
    ends = [None if count == -1 else start + count for start, count in zip(starts, size, strict=True)]
    return x[tuple(slice(*pair) for pair in zip(starts, ends, strict=True))]


def _index(
    x: Tensor, begin: Ints, end: Ints, stride: Ints | None, begin_mask: Bools | None, end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[tuple[slice | int, ...], tuple[int, ...]]:  # fmt: skip
    """PyTorch's index, whose strides are positive, and the dimensions of its result to turn round for negative ones."""
    index: list[slice | int] = []
    backwards: list[int] = []
    for axis, size in enumerate(x.shape):
        if squeeze_mask and squeeze_mask[axis]:
            index.append(0 if begin_mask and begin_mask[axis] else begin[axis])
            continue
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        places = range(*slice(first, last, stride[axis] if stride else 1).indices(size))
        if places.step < 0 and places:
            backwards.append(sum(isinstance(each, slice) for each in index))
            places = places[::-1]
        index.append(slice(places.start, places.stop, places.step) if places else slice(0, 0))
    return tuple(index), tuple(backwards)
