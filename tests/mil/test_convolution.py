"""Convolutions against coremltools' conversion of PyTorch's, and MIL's own padding against the sums that define it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.mil.packages import Case, agree, close, run_mil

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED: dict[int, Any] = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
Drawn = tuple[int, list[int], list[int], list[int], list[int], int, int]


def sizes(low: int, high: int, rank: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=rank, max_size=rank)


@st.composite
def windows(draw: st.DrawFn) -> Drawn:
    """Rank, sizes of the image and the kernel, strides, dilations, groups, and a seed."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    kernel, dilations = draw(sizes(1, 4, rank)), draw(sizes(1, 2, rank))
    more = draw(sizes(0, 5, rank))
    size = [(window - 1) * dilation + 1 + extra for window, dilation, extra in zip(kernel, dilations, more, strict=True)]
    return rank, size, kernel, draw(sizes(1, 3, rank)), dilations, draw(st.integers(1, 3)), draw(st.integers(0, 1000))


def tensors(seed: int, *shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def convolution(drawn: Drawn, padding: Any, with_bias: bool) -> Case:
    rank, size, kernel, strides, dilations, groups, seed = drawn
    weight, bias, x = tensors(seed, (2 * groups, 2, *kernel), (2 * groups,), (2, 2 * groups, *size))
    strides = [1] * rank if padding == "same" else strides  # PyTorch's rule, not MIL's
    return Case(lambda x: CONV[rank](x, weight, bias if with_bias else None, strides, padding, dilations, groups), (x,))


def transposed(drawn: Drawn, padding: list[int], added: list[int], with_bias: bool) -> Case:
    rank, size, kernel, strides, dilations, groups, seed = drawn
    weight, bias, x = tensors(seed, (2 * groups, 2, *kernel), (2 * groups,), (2, 2 * groups, *size))
    given = bias if with_bias else None
    return Case(lambda x: TRANSPOSED[rank](x, weight, given, strides, padding, added, groups, dilations), (x,))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    drawn = draw(windows())
    rank, _, kernel, strides, dilations, _, seed = drawn
    if seed % 2:
        padding: Any = draw(st.one_of(sizes(0, 2, rank).map(tuple), st.sampled_from(["same", "valid"])))
        return convolution(drawn, padding, draw(st.booleans()))
    padding = [draw(st.integers(0, (window - 1) * dilation // 2)) for window, dilation in zip(kernel, dilations, strict=True)]
    # coremltools' frontend refuses output_padding in 3D, and makes another shape of one that is greater than the padding
    limits = [
        min(max(stride, dilation) - 1, around) for stride, dilation, around in zip(strides, dilations, padding, strict=True)
    ]
    added = [0 if rank == 3 else draw(st.integers(0, limit)) for limit in limits]
    return transposed(drawn, padding, added, draw(st.booleans()))


FIXED: list[Drawn] = [
    (1, [9], [3], [2], [2], 1, 0),
    (2, [7, 8], [3, 4], [2, 3], [1, 1], 2, 1),
    (2, [6, 9], [4, 2], [3, 1], [1, 1], 1, 4),
    (3, [5, 4, 6], [2, 3, 1], [1, 2, 3], [1, 1, 1], 1, 5),
]


def test_convolutions_agree_with_pytorch() -> None:
    padded = [convolution(drawn, "same" if drawn[-1] == 5 else (1,) * drawn[0], bool(drawn[-1] % 2)) for drawn in FIXED]
    agree([*padded, transposed(FIXED[0], [2], [1], True), transposed(FIXED[1], [1, 2], [1, 2], False),
           transposed(FIXED[3], [1, 0, 0], [0, 0, 0], True)])  # fmt: skip


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(cases(), min_size=40, max_size=40))
def test_many_convolutions_agree_with_pytorch(cases: list[Case]) -> None:
    agree(cases)


def strided(x: Tensor, weight: Tensor, around: Sequence[tuple[int, int]], strides: Sequence[int]) -> Tensor:
    """A convolution of ``x`` with (before, after) zeros around each dimension."""
    return CONV[x.dim() - 2](functional.pad(x, [n for pair in reversed(around) for n in pair]), weight, None, strides)


def same(size: int, kernel: int, stride: int, lower: bool = False) -> tuple[int, int]:
    """The fewest zeros around that give ceil(size / stride) results."""
    total = next(
        n for n in range(kernel + stride) if size + n >= kernel and (size + n - kernel) // stride + 1 == -(-size // stride)
    )
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def check_padding(cases: Sequence[tuple[Drawn, str]]) -> None:
    inputs, wanted, calls = {}, [], []
    for index, ((rank, size, kernel, strides, _, _, seed), pad_type) in enumerate(cases):
        x, weight = tensors(seed, (1, 2, *size), (3, 2, *kernel))
        around = [same(*row, pad_type == "same_lower") for row in zip(size, kernel, strides, strict=True)]
        if pad_type == "custom":
            around = [(seed % 3, (seed + dim) % 2) for dim in range(rank)]
        inputs[f"x{index}"] = x.numpy()
        wanted.append(strided(x, weight, around, strides))
        pad = {"pad": np.ravel(around).astype(np.int32)} if pad_type == "custom" else {}
        calls.append({"weight": weight.numpy(), "strides": strides, "pad_type": pad_type, **pad})
    found = run_mil(
        lambda **xs: [Builder.conv(x=x, **call) for x, call in zip(xs.values(), calls, strict=True)], inputs, ios=16
    )
    for got, want in zip(found.values(), wanted, strict=True):
        close(got, want)


def test_uneven_padding_is_where_mil_puts_it() -> None:
    check_padding([(drawn, pad_type) for drawn in FIXED for pad_type in ("same", "same_lower", "custom")])


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(st.tuples(windows(), st.sampled_from(["same", "same_lower", "custom"])), min_size=40, max_size=40))
def test_much_uneven_padding_is_where_mil_puts_it(cases: list[tuple[Drawn, str]]) -> None:
    check_padding(cases)


def gradient(
    x: Tensor, weight: Tensor, length: Sequence[int], around: Sequence[tuple[int, int]], strides: Sequence[int]
) -> Tensor:
    """What a transposed convolution is: the gradient of a convolution by its input, which is of ``length``."""
    image = torch.zeros(len(x), weight.shape[1], *length, requires_grad=True)
    (found,) = torch.autograd.grad(strided(image, weight, around, strides), image, x)
    return found


def lengths(drawn: Drawn, pad_type: str, shape_given: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """A length of which a convolution makes the drawn size, and the zeros around it."""
    _, size, kernel, strides, _, _, seed = drawn
    rows = list(zip(size, kernel, strides, strict=True))
    if pad_type == "same":
        length = [n * stride - (seed % stride if shape_given else 0) for n, _, stride in rows]
        return length, [same(n, window, stride) for n, (_, window, stride) in zip(length, rows, strict=True)]
    around = [(seed % 2 * (window - 1), (window - 1) // 2) if pad_type == "custom" else (0, 0) for window in kernel]
    more = [(seed + dim) % stride if shape_given else 0 for dim, stride in enumerate(strides)]
    full = [(n - 1) * stride + window for n, window, stride in rows]
    return [n - sum(pair) + extra for n, pair, extra in zip(full, around, more, strict=True)], around


def check_gradients(ios: int, cases: Sequence[tuple[Drawn, str, bool]]) -> None:
    inputs, wanted, calls = {}, [], []
    for index, (drawn, pad_type, shape_given) in enumerate(cases):
        _, size, kernel, strides, _, _, seed = drawn
        length, around = lengths(drawn, pad_type, shape_given)
        if min(length) < 1:
            continue
        x, weight = tensors(seed, (1, 2, *size), (2, 3, *kernel))
        inputs[f"x{index}"] = x.numpy()
        wanted.append(gradient(x, weight, length, around, strides))
        call: dict[str, Any] = {"weight": weight.numpy(), "strides": strides, "pad_type": pad_type}
        call |= {"output_shape": [1, 3, *length]} if shape_given else {}
        calls.append(call | ({"pad": np.ravel(around).astype(np.int32)} if pad_type == "custom" else {}))
    found = run_mil(
        lambda **xs: [Builder.conv_transpose(x=x, **call) for x, call in zip(xs.values(), calls, strict=True)], inputs, ios=ios
    )
    for got, want in zip(found.values(), wanted, strict=True):
        close(got, want)


def test_transposed_convolutions_are_gradients_of_convolutions() -> None:
    check_gradients(
        17, [(drawn, kind, given) for drawn in FIXED for kind in ("same", "valid", "custom") for given in (False, True)]
    )


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(st.tuples(windows(), st.sampled_from(["same", "valid", "custom"]), st.booleans()), min_size=40, max_size=40))
def test_many_transposed_convolutions_are_gradients_of_convolutions(cases: list[tuple[Drawn, str, bool]]) -> None:
    check_gradients(15, cases)
