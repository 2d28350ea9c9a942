"""Tensors joined, split, made and put in order, and non-maximum suppression: against NumPy, and against PyTorch's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.mil.drawn import FEW, Array, Draw, MilCase, agree_mil, shapes, uniform, whole
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")


def array(draw: Draw, shape: Sequence[int]) -> Array:
    return uniform(draw, shape).numpy()


def distinct(draw: Draw, shape: Sequence[int]) -> Array:
    """Floats that are all different: the order of equal ones is nobody's promise."""
    count = int(np.prod(shape))
    return np.random.default_rng(draw(st.integers(0, 2**16))).permutation(count).reshape(shape).astype(np.float32) - count / 2


def concat(draw: Draw) -> MilCase:
    shape, count = list(draw(shapes(1, 4))), draw(st.integers(1, 4))
    axis, interleave = draw(st.integers(-len(shape), len(shape) - 1)), draw(st.booleans())
    parts = []
    for _ in range(count):
        shape[axis] = shape[axis] if interleave else draw(st.integers(1, 4))
        parts.append(array(draw, shape))
    want = np.concatenate(parts, axis)
    if interleave:
        for index, part in enumerate(parts):
            np.moveaxis(want, axis, 0)[index::count] = np.moveaxis(part, axis, 0)
    return MilCase(lambda *parts: mb.concat(values=parts, axis=axis, interleave=interleave), tuple(parts), want)


def stack(draw: Draw) -> MilCase:
    shape = draw(shapes(1, 4))
    parts = tuple(array(draw, shape) for _ in range(draw(st.integers(1, 3))))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    return MilCase(lambda *parts: mb.stack(values=parts, axis=axis), parts, np.stack(parts, axis))


def split(draw: Draw) -> MilCase:
    shape, sizes = list(draw(shapes(1, 4))), draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    if evenly := draw(st.booleans()):
        sizes = sizes[:1] * len(sizes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] = sum(sizes)
    x = array(draw, shape)
    given = {"num_splits": len(sizes)} if evenly else {"split_sizes": np.array(sizes, np.int32)}
    want = tuple(np.split(x, np.cumsum(sizes)[:-1], axis))
    return MilCase(lambda x: mb.split(x=x, axis=axis, **given), (x,), want)


def topk(draw: Draw, ios: int = 15) -> MilCase:
    x = distinct(draw, draw(shapes(1, 4)))
    axis, ascending = draw(st.integers(-x.ndim, x.ndim - 1)), draw(st.booleans())
    k = draw(st.integers(1, x.shape[axis]))
    where = np.argsort(x if ascending else -x, axis).take(range(k), axis)
    want: tuple[Array, ...] = (np.take_along_axis(x, where, axis), where)
    more = {}
    if ios > 15 and (alone := draw(st.booleans())):
        want, more = want[:1], {"return_indices": not alone}
    elif ios >= 17:
        more = {"output_indices_dtype": draw(st.sampled_from(["int32", "uint16"]))}

    def build(x: Any) -> Any:
        found = mb.topk(x=x, k=k, axis=axis, ascending=ascending, **more)
        if "output_indices_dtype" in more:  # uint16 does not leave a program
            return found[0], mb.cast(x=found[1], dtype="int32")
        return found

    return MilCase(build, (x,), want)


def argsort(draw: Draw) -> MilCase:
    x = distinct(draw, draw(shapes(1, 4)))
    axis, ascending = draw(st.integers(-x.ndim, x.ndim - 1)), draw(st.booleans())
    want = np.argsort(x if ascending else -x, axis)
    return MilCase(lambda x: mb.argsort(x=x, axis=axis, ascending=ascending), (x,), want)


def cumsum(draw: Draw) -> MilCase:
    shape = draw(shapes(1, 4))
    x = whole(draw, shape).numpy() if draw(st.booleans()) else array(draw, shape)
    axis, exclusive, reverse = draw(st.integers(-1, len(shape) - 1)), draw(st.booleans()), draw(st.booleans())
    want = np.zeros_like(x)
    for index in range(shape[axis]):
        first, last = (index + exclusive, shape[axis]) if reverse else (0, index + (not exclusive))
        np.moveaxis(want, axis, 0)[index] = x.take(range(first, last), axis).sum(axis)
    return MilCase(lambda x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=reverse), (x,), want)


def one_hot(draw: Draw) -> MilCase:
    indices, size = whole(draw, draw(shapes(1, 3)), -2, 6).numpy(), draw(st.integers(1, 5))
    axis = draw(st.integers(-indices.ndim - 1, indices.ndim))
    values = draw(st.sampled_from([{}, {"on_value": 2.5, "off_value": -1.5}, {"on_value": 7, "off_value": 3}]))
    places = np.expand_dims(indices, axis) == np.arange(size).reshape([-1 if dim == axis % (indices.ndim + 1) else 1
                                                                      for dim in range(indices.ndim + 1)])  # fmt: skip
    want = np.where(places, values.get("on_value", 1), values.get("off_value", 0))
    return MilCase(lambda i: mb.one_hot(indices=i, one_hot_vector_size=size, axis=axis, **values), (indices,), want)


def band_part(draw: Draw) -> MilCase:
    x, lower, upper = array(draw, draw(shapes(2, 4))), draw(st.integers(-1, 4)), draw(st.integers(-1, 4))
    row, column = np.indices(x.shape[-2:])
    band = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    return MilCase(lambda x: mb.band_part(x=x, lower=lower, upper=upper), (x,), np.where(band, x, np.float32(0)))


def non_zero(draw: Draw) -> MilCase:
    x = whole(draw, draw(shapes(1, 3)), -1, 1).numpy()
    x.flat[0] = 1  # an empty result is refused by Core ML
    return MilCase(lambda x: mb.non_zero(x=x), (x,), np.argwhere(x))


def made(draw: Draw) -> MilCase:
    """Shapes and ranges, computed by the program."""
    x, value = array(draw, draw(shapes(1, 4))), draw(st.sampled_from([0.5, 3, True]))
    number = {"value": np.float32(value)} if isinstance(value, float) else {"value": value}
    want = np.full(x.shape, value)
    return MilCase(
        lambda x: (mb.shape(x=x), mb.cast(x=mb.fill(shape=mb.shape(x=x), **number), dtype="fp32")),
        (x,), (np.array(x.shape), want.astype(np.float32)),
    )  # fmt: skip


def fill_like(draw: Draw) -> MilCase:
    x, value = array(draw, draw(shapes(1, 4))), draw(st.sampled_from([np.float32(0.5), np.int32(3)]))
    return MilCase(lambda x: mb.fill_like(ref_tensor=x, value=value), (x,), np.full(x.shape, value))


def range_1d(draw: Draw) -> MilCase:
    start, step = draw(st.integers(-5, 5)), draw(st.sampled_from([1, 2, -1, -3]))
    end = start + step * draw(st.integers(1, 6)) - (draw(st.booleans()) and abs(step) > 1) * (step // abs(step))
    kind = draw(st.sampled_from([np.float32, np.int32]))
    numbers = [np.array([each], kind) for each in (start, end, step)]
    if kind is np.float32:
        numbers[2] *= 0.5
    want = np.arange(*(number.item() for number in numbers)).astype(kind)

    def build(start: Any, end: Any, step: Any) -> Any:
        first, last, by = (mb.squeeze(x=each, axes=[0]) for each in (start, end, step))
        return mb.range_1d(start=first, end=last, step=by)

    return MilCase(build, tuple(numbers), want)


EVERYWHERE: list[Callable[[Draw], MilCase]] = [
    concat, concat, stack, split, split, argsort, cumsum, cumsum, one_hot, one_hot, band_part, non_zero, made, range_1d,
]  # fmt: skip


@st.composite
def programs(draw: st.DrawFn, ios: int, times: int) -> list[MilCase]:
    cases = [make(draw) for make in EVERYWHERE * times] + [topk(draw, ios) for _ in range(2 * times)]
    return cases + [fill_like(draw) for _ in range(times if ios > 15 else 0)]


@settings(FEW)
@given(programs(17, 1))
def test_what_joins_splits_makes_and_sorts_is_numpys(cases: list[MilCase]) -> None:
    agree_mil(cases)


@pytest.mark.slow
@pytest.mark.parametrize("ios", [15, 16, 17])
@settings(FEW, max_examples=3)
@given(st.data())
def test_much_that_joins_splits_makes_and_sorts_is_numpys(ios: int, data: st.DataObject) -> None:
    agree_mil(data.draw(programs(ios, 2)), ios=ios)


@st.composite
def torch_cases(draw: st.DrawFn) -> Case:
    """What PyTorch's frontend makes of PyTorch's own operators."""
    x = torch.from_numpy(distinct(draw, draw(shapes(2, 4))))
    axis, k = draw(st.integers(0, x.dim() - 1)), draw(st.integers(1, 5))
    k = min(k, x.shape[axis])
    calls: list[Callable[[Tensor], Tensor | tuple[Tensor, ...]]] = [
        lambda x: torch.cat([x, x + 1], axis),
        lambda x: torch.stack([x, x + 1], axis),
        lambda x: tuple(x.split(k, axis)),
        lambda x: tuple(x.topk(k, axis)),
        lambda x: x.topk(k, axis, largest=False)[0],
        lambda x: tuple(x.sort(axis, descending=True)),
        lambda x: x.argsort(axis),
        lambda x: x.cumsum(axis),
        lambda x: x.tril(1) + x.triu(1),
        lambda x: torch.where(x > 0, x, -x * 2),
        lambda x: functional.one_hot(x.argmax(axis), x.shape[axis]) + 0,
        lambda x: torch.full_like(x, 3.0) + torch.arange(x.shape[-1]) + x,
        lambda x: torch.meshgrid(x.flatten(), x.flatten()[:2], indexing="ij")[1],
    ]
    return Case(draw(st.sampled_from(calls)), (x,))


@pytest.mark.slow
@pytest.mark.parametrize("ios", [15, 17])
@settings(FEW)
@given(cases=st.lists(torch_cases(), min_size=30, max_size=30))
def test_what_pytorch_joins_splits_makes_and_sorts(ios: int, cases: list[Case]) -> None:
    agree(cases, ios=ios)


def kept(boxes: Array, scores: Array, iou: float, score: float, most: int, per_class: bool) -> list[int]:
    """Non-maximum suppression as it is defined: a box stays where no better one that stays overlaps it."""
    low, high, best = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2, scores.max(1)
    stay: list[int] = []
    for index in np.argsort(-best, kind="stable"):
        others = [other for other in stay if not per_class or scores[other].argmax() == scores[index].argmax()]
        sides = [np.maximum(np.minimum(high[index], high[o]) - np.maximum(low[index], low[o]), 0) for o in others]
        shared = [float(side.prod()) for side in sides]
        whole = [float(boxes[index, 2:].prod() + boxes[o, 2:].prod()) for o in others]
        if best[index] >= score and all(part <= iou * (both - part) for part, both in zip(shared, whole, strict=True)):
            stay.append(int(index))
    return (stay or [int(best.argmax())])[:most]


def non_maximum_suppression(draw: Draw, ios: int) -> MilCase:
    n, count, kinds = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 3))
    boxes = uniform(draw, (n, count, 4), 0.1, 3).numpy()
    scores = distinct(draw, (n, count, kinds))
    iou, most, per_class = draw(st.sampled_from([0.05, 0.3, 0.6])), draw(st.integers(1, 22)), draw(st.booleans())
    score = draw(st.sampled_from([-2.0, 1e6])) if ios < 17 else -np.inf
    places = np.full((n, most), -1)
    found = np.zeros((n, most, 4), np.float32), np.zeros((n, most, kinds), np.float32)
    for batch in range(n):
        stay = kept(boxes[batch], scores[batch], iou, score, most, per_class)
        places[batch, : len(stay)] = stay
        for result, values in zip(found, (boxes, scores), strict=True):
            result[batch, : len(stay)] = values[batch, stay]
    options = {"iou_threshold": iou, "max_boxes": most, "per_class_suppression": per_class}
    if ios < 17:
        return MilCase(
            lambda b, s: mb.non_maximum_suppression(boxes=b, scores=s, score_threshold=score, **options),
            (boxes, scores), (*found, places, (places >= 0).sum(1)),
        )  # fmt: skip
    swapped = tuple(each.transpose(0, 2, 1).copy() for each in (boxes, scores))
    return MilCase(
        lambda b, s: mb.non_maximum_suppression(boxes=b, scores=s, **options),
        swapped, (*(each.transpose(0, 2, 1) for each in found), places),
    )  # fmt: skip


@pytest.mark.parametrize("ios", [pytest.param(15, marks=pytest.mark.slow), 17])
@settings(FEW)
@given(st.data())
def test_the_best_of_boxes_that_overlap_is_kept(ios: int, data: st.DataObject) -> None:
    agree_mil([non_maximum_suppression(data.draw, ios) for _ in range(10)], ios=ios, relative=0)
