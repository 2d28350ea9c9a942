"""Gather and scatter: every mode, axis and opset against loops of NumPy's, and what PyTorch's frontend makes of PyTorch's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeopt.errors import ConversionError
from tests.mil.drawn import FEW, Array, Draw, MilCase, agree_mil, shapes, uniform, whole
from tests.mil.packages import Case, agree, run_mil

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

APPLIED: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda old, new: new,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def values(draw: Draw, shape: Sequence[int]) -> Array:
    """Floats, none near zero: some are divisors."""
    return (uniform(draw, shape, 0.5, 2) * torch.sign(uniform(draw, shape))).numpy()


def positions(draw: Draw, shape: Sequence[int], size: int, ios: int) -> Array:
    """Indices of ``size`` elements, from the end too where the opset knows that."""
    return whole(draw, shape, -size if ios < 17 else 0, size - 1).numpy()


def gather(draw: Draw, ios: int) -> MilCase:
    x = values(draw, draw(shapes(1, 3)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    indices = positions(draw, draw(shapes(0, 2)), x.shape[axis], ios)
    want = x.take(indices, axis)
    if indices.ndim == 0:  # Core ML has no scalar inputs
        return MilCase(lambda x: mb.gather(x=x, indices=np.int32(indices), axis=axis), (x,), want)
    return MilCase(lambda x, indices: mb.gather(x=x, indices=indices, axis=axis), (x, indices), want)


def gather_batches(draw: Draw, ios: int) -> MilCase:
    x = values(draw, draw(shapes(2, 4)))
    batch = draw(st.integers(1, x.ndim - 1))
    axis = draw(st.integers(batch, x.ndim - 1))
    indices = positions(draw, (*x.shape[:batch], *draw(shapes(0, 1))), x.shape[axis], ios)
    taken = [x[place].take(indices[place], axis - batch) for place in np.ndindex(x.shape[:batch])]
    want = np.stack(taken).reshape(*x.shape[:batch], *taken[0].shape)
    given = axis - x.ndim if draw(st.booleans()) and ios >= 17 else axis
    return MilCase(lambda x, indices: mb.gather(x=x, indices=indices, axis=given, batch_dims=batch), (x, indices), want)


def gather_along_axis(draw: Draw, ios: int) -> MilCase:
    x = values(draw, draw(shapes(1, 4)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    shape = list(x.shape)
    shape[axis] = draw(st.integers(1, 6))
    indices = positions(draw, shape, x.shape[axis], ios)
    want = np.take_along_axis(x, indices, axis)
    return MilCase(lambda x, indices: mb.gather_along_axis(x=x, indices=indices, axis=axis), (x, indices), want)


def gather_nd(draw: Draw, ios: int) -> MilCase:
    x = values(draw, draw(shapes(2, 4)))
    batch = draw(st.integers(0, x.ndim - 1)) if ios > 15 else 0
    depth, around = draw(st.integers(1, x.ndim - batch)), draw(shapes(1, 2, 3))
    sizes = x.shape[batch : batch + depth]
    indices = np.stack([positions(draw, (*x.shape[:batch], *around), size, ios) for size in sizes], -1)
    found = [x[(*place[:batch], *indices[place])] for place in np.ndindex(indices.shape[:-1])]
    want = np.stack(found).reshape(*indices.shape[:-1], *x.shape[batch + depth :])
    more = {"batch_dims": batch} if ios > 15 else {}
    return MilCase(lambda x, indices: mb.gather_nd(x=x, indices=indices, **more), (x, indices), want)


def mode_of(draw: Draw, count: int, size: int, ios: int) -> tuple[str, Array]:
    """A mode, and where it applies; twice in a place only where the order does not matter."""
    mode = draw(st.sampled_from(sorted(APPLIED)))
    if mode == "update":
        indices = np.array(draw(st.permutations(range(size)))[:count], np.int32)
        return mode, indices - (size if ios < 17 and draw(st.booleans()) else 0)
    return mode, positions(draw, (count,), size, ios)


def scatter(draw: Draw, ios: int) -> MilCase:
    data = values(draw, draw(shapes(1, 3)))
    axis = draw(st.integers(-data.ndim, data.ndim - 1))
    mode, indices = mode_of(draw, draw(st.integers(1, data.shape[axis])), data.shape[axis], ios)
    updates = values(draw, np.take(data, indices, axis).shape)
    want = data.copy()
    for place, index in enumerate(indices):
        part = np.moveaxis(want, axis, 0)
        part[index] = APPLIED[mode](part[index], np.moveaxis(updates, axis, 0)[place])
    return MilCase(
        lambda data, indices, updates: mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode),
        (data, indices, updates), want,
    )  # fmt: skip


def scatter_along_axis(draw: Draw, ios: int) -> MilCase:
    data = values(draw, draw(shapes(1, 3)))
    axis = draw(st.integers(-data.ndim, data.ndim - 1))
    mode, indices = mode_of(draw, draw(st.integers(1, data.shape[axis])), data.shape[axis], ios)
    shape = [1] * data.ndim
    shape[axis] = -1
    updates = values(draw, np.take(data, indices, axis).shape)
    everywhere = np.broadcast_to(indices.reshape(shape), updates.shape)
    want = data.copy()
    for place in np.ndindex(updates.shape):
        there = list(place)
        there[axis] = everywhere[place]
        want[tuple(there)] = APPLIED[mode](want[tuple(there)], updates[place])
    return MilCase(
        lambda data, indices, updates: mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode=mode),
        (data, everywhere.copy(), updates), want,
    )  # fmt: skip


def scatter_nd(draw: Draw, ios: int) -> MilCase:
    data = values(draw, draw(shapes(1, 4)))
    depth, mode = draw(st.integers(1, data.ndim)), draw(st.sampled_from(sorted(APPLIED)))
    places = draw(st.permutations(list(np.ndindex(data.shape[:depth]))))
    chosen = places[: draw(st.integers(1, min(len(places), 5)))]
    indices = np.array(chosen if mode == "update" else chosen + chosen[:1], np.int32)
    updates, want = values(draw, (len(indices), *data.shape[depth:])), data.copy()
    for place, index in enumerate(map(tuple, indices)):
        want[index] = APPLIED[mode](want[index], updates[place])
    if ios < 17:
        indices = indices - np.array(data.shape[:depth], np.int32) * (indices % 2)
    return MilCase(
        lambda data, indices, updates: mb.scatter_nd(data=data, indices=indices, updates=updates, mode=mode),
        (data, indices, updates), want,
    )  # fmt: skip


EVERYWHERE = [gather, gather_along_axis, gather_nd, scatter, scatter, scatter_along_axis, scatter_along_axis, scatter_nd]


@st.composite
def programs(draw: st.DrawFn, ios: int, times: int) -> list[MilCase]:
    return [make(draw, ios) for make in (EVERYWHERE + [gather_batches] * (ios > 15)) * times]


@settings(FEW)
@given(programs(17, 1))
def test_gather_and_scatter_are_loops(cases: list[MilCase]) -> None:
    agree_mil(cases)


@pytest.mark.slow
@pytest.mark.parametrize("ios", [15, 16, 17])
@settings(FEW, max_examples=3)
@given(st.data())
def test_many_gathers_and_scatters_are_loops(ios: int, data: st.DataObject) -> None:
    agree_mil(data.draw(programs(ios, 5)), ios=ios)


def test_integers_scatter_as_integers() -> None:
    data, indices, updates = (np.array(each, np.int32) for each in ([7, -7, 5], [0, 1, 0], [2, 2, 3]))

    def build(mode: str) -> Callable[..., Any]:
        return lambda data, indices, updates: mb.scatter(data=data, indices=indices, updates=updates, axis=0, mode=mode)

    wanted = {"add": [12, -5, 5], "sub": [2, -9, 5], "mul": [42, -14, 5], "div": [1, -3, 5], "max": [7, 2, 5]}
    agree_mil([MilCase(build(mode), (data, indices, updates), np.array(want)) for mode, want in wanted.items()])


def test_an_index_out_of_bounds_which_a_device_may_read_anywhere_is_refused() -> None:
    x = np.arange(3, dtype=np.float32)
    for ios, index in ((17, -1), (16, 3)):
        with pytest.raises(ConversionError, match=f"indices from {min(index, 0)} to {max(index, 0)} where there are 3"):
            run_mil(lambda x, i: mb.gather(x=x, indices=i), {"x": x, "i": np.array([0, index], np.int32)}, ios=ios)


@st.composite
def torch_cases(draw: st.DrawFn) -> Case:
    """What PyTorch's frontend makes of PyTorch's own operators."""
    shape = draw(shapes(2, 3))
    x, axis = uniform(draw, shape), draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    some = whole(draw, (draw(st.integers(1, 5)),), 0, size - 1)
    along = whole(draw, shape, 0, size - 1)
    unique = torch.from_numpy(np.array(draw(st.permutations(range(size))), np.int64))
    along_unique = unique.reshape([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
    rows = whole(draw, (3,), 0, shape[0] - 1)
    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda x, i: x.index_select(axis, i), (x, some)),
        (lambda x, i: x.gather(axis, i.long()), (x, along)),
        (lambda x, i: torch.nn.functional.embedding(i, x), (x[0].reshape(-1, 1).repeat(size, 2), some)),
        (lambda x, i: x[i], (x, rows)),
        (lambda x, i: x[:, rows.clamp(max=shape[1] - 1).long()] + i, (x, torch.zeros(1))),
        (lambda x, i: x[rows.long(), rows.clamp(max=shape[1] - 1).long()] + i, (x, torch.zeros(1))),
        (lambda x, y: x.scatter(axis, along_unique, y), (x, x + 1)),
        (lambda x, y: x.scatter_add(axis, along.long(), y), (x, x + 1)),
        (lambda x, y: x.index_put((rows[:1].long(),), y), (x, x[0] + 1)),
        (lambda x, y: x.masked_fill(y > 0, 3.0), (x, uniform(draw, shape))),
    ]  # fmt: skip
    return Case(*draw(st.sampled_from(calls)))


@pytest.mark.slow
@pytest.mark.parametrize("ios", [16, 17])
@settings(FEW)
@given(cases=st.lists(torch_cases(), min_size=30, max_size=30))
def test_indexing_of_pytorch(ios: int, cases: list[Case]) -> None:
    agree(cases, ios=ios)
