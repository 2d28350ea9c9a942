"""Shapes, slices and orders of elements: against NumPy, which holds what MIL's documentation says, and against PyTorch."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.mil.drawn import FEW, Array, Draw, MilCase, agree_mil, shapes, some_axes, uniform
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

Slice = tuple[int, int, int, bool, bool, bool]
"""begin, end, stride, begin_mask, end_mask, squeeze_mask of one dimension."""


def array(draw: Draw, shape: Sequence[int]) -> Array:
    return uniform(draw, shape).numpy()


def int32(values: Any) -> Array:
    return np.array(values, np.int32)


@st.composite
def one_slice(draw: st.DrawFn, size: int) -> Slice:
    """A slice of at least one element: forwards or backwards, from either end or masked."""
    first, step = draw(st.integers(0, size - 1)), draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
    if draw(st.integers(0, 5)) == 0:
        return first - draw(st.sampled_from([0, size])), 0, 1, False, False, True
    count = draw(st.integers(1, (first if step < 0 else size - 1 - first) // abs(step) + 1))
    end = first + count * step
    masked = draw(st.booleans()), draw(st.booleans()) or end < 0 or end >= size
    begin = first - size if draw(st.booleans()) else first
    return begin, end - size if (begin < 0 and not masked[1]) else max(end, 0), step, *masked, False


def numpy_slices(each: Sequence[Slice]) -> tuple[slice | int, ...]:
    return tuple(
        begin if squeezed else slice(None if at_start else begin, None if at_end else end, step)
        for begin, end, step, at_start, at_end, squeezed in each
    )


def mil_slices(each: Sequence[Slice]) -> dict[str, Array]:
    numbers, masks = ("begin", "end", "stride"), ("begin_mask", "end_mask", "squeeze_mask")
    columns = dict(zip((*numbers, *masks), zip(*each, strict=True), strict=True))
    return {name: np.array(values, bool if name in masks else np.int32) for name, values in columns.items()}


def slice_by_index(draw: Draw) -> MilCase:
    shape = draw(shapes(1, 4))
    slices = [draw(one_slice(size)) for size in shape]
    x = array(draw, shape)
    return MilCase(lambda x: mb.slice_by_index(x=x, **mil_slices(slices)), (x,), x[numpy_slices(slices)])


def slice_update(draw: Draw) -> MilCase:
    shape = draw(shapes(1, 4))
    slices = [draw(one_slice(size)) for size in shape]
    if all(squeezed for *_, squeezed in slices):  # an update without dimensions is refused by coremltools
        slices[0] = (0, 0, 1, True, True, False)
    x = array(draw, shape)
    want, index = x.copy(), numpy_slices(slices)
    update = array(draw, want[index].shape)
    want[index] = update
    return MilCase(lambda x, update: mb.slice_update(x=x, update=update, **mil_slices(slices)), (x, update), want)


def slice_by_size(draw: Draw) -> MilCase:
    shape = draw(shapes(1, 4))
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    counts = [draw(st.integers(1, size - start)) for size, start in zip(shape, starts, strict=True)]
    x = array(draw, shape)
    want = x[tuple(slice(start, start + count) for start, count in zip(starts, counts, strict=True))]
    rest = [start + count == size and draw(st.booleans()) for size, start, count in zip(shape, starts, counts, strict=True)]
    size = int32([-1 if all_left else count for all_left, count in zip(rest, counts, strict=True)])
    return MilCase(lambda x: mb.slice_by_size(x=x, begin=int32(starts), size=size), (x,), want)


def reshape(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(2, 4)))
    kept = draw(st.integers(0, x.ndim - 1))
    shape = [0] * kept + [-1] + [1] * (x.ndim - kept - 1)
    want = x.reshape(*x.shape[:kept], -1, *[1] * (x.ndim - kept - 1))
    return MilCase(lambda x: mb.reshape(x=x, shape=int32(shape)), (x,), want)


def reshape_like(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(2, 4)))
    cut = draw(st.integers(1, x.ndim - 1))
    references = array(draw, (*x.shape[:cut], 7)), array(draw, (3, *x.shape[cut:]))
    return MilCase(
        lambda x, a, b: mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(cut, 0), end_masks=(False, True)),
        (x.reshape(-1), *references), x,
    )  # fmt: skip


def expand_dims(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 3)))
    axes = some_axes(draw, min(x.ndim + 2, 5))[: 5 - x.ndim]
    axes = tuple(axis for axis in axes if -(x.ndim + len(axes)) <= axis < x.ndim + len(axes))
    axes = tuple({axis % (x.ndim + len(axes)): axis for axis in axes}.values()) or (0,)
    if len({axis % (x.ndim + len(axes)) for axis in axes}) < len(axes):
        axes = axes[:1]
    return MilCase(lambda x: mb.expand_dims(x=x, axes=int32(axes)), (x,), np.expand_dims(x, axes))


def squeeze(draw: Draw) -> MilCase:
    x = array(draw, draw(st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=4).map(lambda each: (3, *each))))
    axes = draw(st.none() | st.just(some_axes(draw, x.ndim)))
    gone = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
    want = x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone or size > 1])
    return MilCase(lambda x: mb.squeeze(x=x, **({} if axes is None else {"axes": int32(axes)})), (x,), want)


def transpose(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 5)))
    order = draw(st.permutations(range(x.ndim)))
    given = int32([axis - x.ndim if draw(st.booleans()) else axis for axis in order])
    return MilCase(lambda x: mb.transpose(x=x, perm=given), (x,), x.transpose(order))


def flatten2d(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 4)))
    axis = draw(st.integers(-x.ndim, x.ndim))
    want = x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))
    return MilCase(lambda x: mb.flatten2d(x=x, axis=axis), (x,), want)


def reverse(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 4)))
    axes = draw(st.none() | st.just(some_axes(draw, x.ndim)))
    return MilCase(lambda x: mb.reverse(x=x, **({} if axes is None else {"axes": int32(axes)})), (x,), np.flip(x, axes))


def reverse_sequence(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(2, 4)))
    batch, steps = draw(st.permutations(range(x.ndim)))[:2]
    lengths = int32([draw(st.integers(0, x.shape[steps])) for _ in range(x.shape[batch])])
    want = x.copy()
    for index, length in enumerate(lengths):
        part = np.moveaxis(want, (batch, steps), (0, 1))[index]
        part[:length] = part[:length][::-1].copy()
    return MilCase(
        lambda x, lengths: mb.reverse_sequence(x=x, lengths=lengths, seq_axis=steps, batch_axis=batch), (x, lengths), want
    )


def sliding_windows(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 4)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    size, stride = draw(st.integers(1, x.shape[axis])), draw(st.integers(1, 3))
    starts = range(0, x.shape[axis] - size + 1, stride)
    want = np.stack([x.take(range(start, start + size), axis) for start in starts], axis % x.ndim)
    return MilCase(lambda x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), (x,), want)


def tile(draw: Draw) -> MilCase:
    x = array(draw, draw(shapes(1, 4, 3)))
    reps = [draw(st.integers(1, 3)) for _ in x.shape]
    return MilCase(lambda x: mb.tile(x=x, reps=int32(reps)), (x,), np.tile(x, reps))


def blocks(draw: Draw) -> tuple[int, Array, Array]:
    """A block size b, [n, c, h * b, w * b], and by TensorFlow's rule [n, b * b * c, h, w], place by place."""
    block, (n, c, height, width) = draw(st.integers(2, 3)), draw(shapes(4, 4, 3))
    space = array(draw, (n, c, height * block, width * block))
    depth = np.concatenate([space[:, :, row::block, column::block] for row, column in product(range(block), repeat=2)], 1)
    return block, space, depth


def depth_to_space(draw: Draw) -> MilCase:
    block, space, depth = blocks(draw)
    if draw(st.booleans()):
        return MilCase(lambda x: mb.depth_to_space(x=x, block_size=block), (depth,), space)
    return MilCase(lambda x: mb.space_to_depth(x=x, block_size=block), (space,), depth)


def pixel_shuffle(draw: Draw) -> MilCase:
    block, (n, c, height, width) = draw(st.integers(2, 3)), draw(shapes(4, 4, 3))
    space = array(draw, (n, c, height * block, width * block))
    places = [space[:, :, row::block, column::block] for row, column in product(range(block), repeat=2)]
    depth = np.stack(places, 2).reshape(n, -1, height, width)
    if draw(st.booleans()):
        return MilCase(lambda x: mb.pixel_shuffle(x=x, upscale_factor=block), (depth,), space)
    return MilCase(lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(block)), (space,), depth)


def space_to_batch(draw: Draw) -> MilCase:
    shape, (n, c, height, width) = (draw(st.integers(1, 3)), draw(st.integers(1, 3))), draw(shapes(4, 4, 3))
    around = int32([[draw(st.integers(0, size * block - 1)), 0] for size, block in zip((height, width), shape, strict=True)])
    inner = height * shape[0] - around[0].sum(), width * shape[1] - around[1].sum()
    x = array(draw, (n, c, *inner))
    padded = np.pad(x, ((0, 0), (0, 0), *around))
    batches = np.concatenate([padded[:, :, row :: shape[0], col :: shape[1]] for row, col in product(*map(range, shape))])
    if draw(st.booleans()):
        return MilCase(lambda x: mb.batch_to_space(x=x, block_shape=int32(shape), crops=around), (batches,), x)
    return MilCase(lambda x: mb.space_to_batch(x=x, block_shape=int32(shape), paddings=around), (x,), batches)


EVERYWHERE: list[Callable[[Draw], MilCase]] = [
    slice_by_index, slice_by_index, slice_by_size, reshape, expand_dims, squeeze, transpose, flatten2d, reverse,
    reverse_sequence, sliding_windows, tile, depth_to_space, space_to_batch,
]  # fmt: skip
SINCE = {15: EVERYWHERE, 16: [*EVERYWHERE, reshape_like, pixel_shuffle], 18: [*EVERYWHERE, slice_update, slice_update]}


@st.composite
def programs(draw: st.DrawFn, ios: int, times: int) -> list[MilCase]:
    return [make(draw) for make in SINCE[ios] * times]


@settings(FEW)
@given(programs(18, 1))
def test_shapes_and_slices_are_numpys(cases: list[MilCase]) -> None:
    agree_mil(cases, ios=18, relative=0)


@pytest.mark.slow
@pytest.mark.parametrize("ios", [15, 16, 18])
@settings(FEW, max_examples=3)
@given(st.data())
def test_many_shapes_and_slices_are_numpys(ios: int, data: st.DataObject) -> None:
    agree_mil(data.draw(programs(ios, 2)), ios=ios, relative=0)


def test_zeros_in_a_shape_keep_sizes_which_ios_17_counts_from_the_right() -> None:
    x = np.arange(100, dtype=np.float32).reshape(2, 50)
    agree_mil([MilCase(lambda x: mb.reshape(x=x, shape=int32([0, -1])), (x,), x)], ios=16)
    agree_mil([
        MilCase(lambda x: mb.reshape(x=x, shape=int32([1, 0, -1, 0])), (x,), x[None, None]),
        MilCase(lambda x: mb.reshape(x=x, shape=int32([0])), (x[0],), x[0]),
        MilCase(lambda x: mb.reshape(x=x, shape=int32([5, 20, 0])), (x[..., None],), x.reshape(5, 20, 1)),
    ], ios=17)  # fmt: skip


@pytest.mark.slow
def test_slices_may_be_computed_by_the_program() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    agree_mil([
        MilCase(lambda x, begin, end: mb.slice_by_index(x=x, begin=begin, end=end), (x, int32([1, -4]), int32([-1, 5])),
                x[1:-1, -4:5]),
        MilCase(lambda x, begin: mb.slice_by_size(x=x, begin=begin, size=int32([2, -1])), (x, int32([-3, 2])), x[1:3, 2:]),
        MilCase(lambda x, shape: mb.reshape(x=x, shape=shape), (x, int32([3, -1])), x.reshape(3, 8)),
        MilCase(lambda x, reps: mb.tile(x=x, reps=reps), (x, int32([1, 2])), np.tile(x, (1, 2))),
    ], relative=0)  # fmt: skip


@st.composite
def torch_cases(draw: st.DrawFn) -> Case:
    """What PyTorch's frontend makes of PyTorch's own operators."""
    shape = draw(shapes(2, 4))
    x, axis = uniform(draw, shape), draw(st.integers(-len(shape), len(shape) - 1))
    begin = draw(st.integers(-shape[axis], shape[axis] - 1))
    end, step = draw(st.integers(begin % shape[axis] + 1, shape[axis] + 2)), draw(st.integers(1, 3))
    order = draw(st.permutations(range(len(shape))))
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.movedim(axis, 0)[begin:end:step],
        lambda x: x.select(axis, begin),
        lambda x: x.narrow(axis, begin, 1),
        lambda x: x.permute(order).reshape(-1, shape[axis]),
        lambda x: x.flatten(0, 1).unsqueeze(axis % len(shape)),
        lambda x: x.flip(axis).roll(1, axis),
        lambda x: x.repeat(*[2] * len(shape)),
        lambda x: x[:1].expand(3, *shape[1:]) * 1,
        lambda x: functional.pixel_shuffle(x.flatten()[:1].repeat(2, 8, 2, 3) + torch.arange(96.0).reshape(2, 8, 2, 3), 2),
        lambda x: functional.pixel_unshuffle(x.flatten()[:1].repeat(1, 2, 6, 3) + torch.arange(36.0).reshape(1, 2, 6, 3), 3),
    ]
    return Case(draw(st.sampled_from(calls)), (x,))


@pytest.mark.slow
@pytest.mark.parametrize("ios", [16, 17])
@settings(FEW)
@given(cases=st.lists(torch_cases(), min_size=30, max_size=30))
def test_shapes_and_slices_of_pytorch(ios: int, cases: list[Case]) -> None:
    agree(cases, ios=ios, relative=0)
