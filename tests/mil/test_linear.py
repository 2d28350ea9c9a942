"""Products of matrices and attention against PyTorch, and against NumPy what only MIL has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  the name that MIL's documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor
from torch.nn import functional

from tests.mil.drawn import Array, Draw, MilCase, agree_mil, shapes, uniform, whole
from tests.mil.packages import Case, agree

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

EQUATIONS = (
    "nchw,nwhu->nchu", "chw,whr->chr", "bhqd,bhkd->bhqk", "bij,bjk->bik", "ij,jk->ik", "bqc,bkc->bqk", "abc,cd->abd",
)  # fmt: skip


def linear(draw: Draw) -> Case:
    x = uniform(draw, draw(shapes(1, 4)))
    weight = uniform(draw, (draw(st.integers(1, 5)), x.shape[-1]))
    bias = uniform(draw, weight.shape[:1]) if draw(st.booleans()) else None
    return Case(lambda x: functional.linear(x, weight, bias), (x,))


def matmul(draw: Draw) -> Case:
    outer = draw(shapes(0, 2))
    rows, inner, columns = draw(st.tuples(*[st.integers(1, 5)] * 3))
    left, right = (tuple(size if draw(st.booleans()) else 1 for size in outer) for _ in range(2))
    x = uniform(draw, (*left[draw(st.integers(0, len(left))) :], rows, inner))
    if draw(st.booleans()):
        return Case(lambda x, y: x @ y.transpose(-1, -2), (x, uniform(draw, (*right, columns, inner))))
    return Case(torch.matmul, (x, uniform(draw, (*right, inner, columns))))


def einsum(draw: Draw) -> Case:
    equation = draw(st.sampled_from(EQUATIONS))
    sizes = {letter: draw(st.integers(1, 4)) for letter in sorted(set(equation) - set(",->"))}
    x, y = (uniform(draw, [sizes[letter] for letter in part]) for part in equation.split("->")[0].split(","))
    return Case(lambda x, y: torch.einsum(equation, x, y), (x, y))


def attention(draw: Draw) -> Case:
    outer = draw(shapes(1, 3, 3))
    target, source, inner, width = draw(st.tuples(*[st.integers(1, 6)] * 4))
    query, key, value = (uniform(draw, (*outer, *own)) for own in ((target, inner), (source, inner), (source, width)))
    kind = draw(st.sampled_from(["none", "added", "chosen", "causal", "scaled"]))
    mask = uniform(draw, (target, source))
    mask[:, 0] = 1  # something takes part in every row
    calls: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "none": functional.scaled_dot_product_attention,
        "added": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, mask),
        "chosen": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, mask > 0),
        "causal": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        "scaled": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=0.3),
    }
    return Case(calls[kind], (query, key, value))


@st.composite
def drawn(draw: Draw) -> Case:
    return draw(st.sampled_from([linear, matmul, einsum, attention]))(draw)


@pytest.mark.slow
@settings(max_examples=4)
@given(st.lists(drawn(), min_size=40, max_size=80), st.sampled_from([15, 17, 18]), st.booleans())
def test_products_and_attention_are_those_of_pytorch_for_any_shape(cases: list[Case], ios: int, traced: bool) -> None:
    agree(cases, ios=ios, traced=traced)


@st.composite
def product(draw: Draw) -> MilCase:
    """Of floats or integers, either side transposed, the left one a vector at times."""
    outer = draw(shapes(0, 2))
    rows, inner, columns = draw(st.tuples(*[st.integers(1, 5)] * 3))
    over, under, vector = draw(st.tuples(*[st.booleans()] * 3))
    number = uniform if draw(st.booleans()) else whole
    x, y = number(draw, (*outer, rows, inner)).numpy(), number(draw, (*outer, inner, columns)).numpy()
    if vector and not outer:  # of more axes coremltools declares a shape that is not its documentation's
        over, x = False, x[0]
    want = np.matmul(x, y)
    x, y = (np.ascontiguousarray(each.swapaxes(-1, -2)) if turn else each for each, turn in ((x, over), (y, under)))
    return MilCase(lambda x, y: mb.matmul(x=x, y=y, transpose_x=over, transpose_y=under), (x, y), want)


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(product(), min_size=20, max_size=60), st.sampled_from([15, 17, 18]))
def test_matmul_transposes_and_broadcasts_as_numpy_does(cases: list[MilCase], ios: int) -> None:
    agree_mil(cases, ios=ios)


def test_einsum_broadcasts_axes_of_one() -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=size).astype(np.float32) for size in ((1, 2, 3, 4), (5, 4, 1, 6)))
    want = np.einsum("nchw,nwhu->nchu", np.broadcast_to(x, (5, 2, 3, 4)), np.broadcast_to(y, (5, 4, 3, 6)))
    agree_mil([MilCase(lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"), (x, y), want)])


def test_constants_of_another_type_are_converted_to_that_of_the_data() -> None:
    x, weight = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    agree_mil([
        MilCase(lambda x: mb.linear(x=x, weight=weight), (x,), x @ weight.T),
        MilCase(lambda x: mb.matmul(x=x, y=weight, transpose_y=True), (x,), (x @ weight.T).astype(np.float32)),
        MilCase(lambda x: mb.matmul(x=x, y=weight), (weight.T.astype(np.int32),), weight.T @ weight),
        MilCase(lambda x: mb.linear(x=x, weight=weight), (weight,), weight @ weight.T),
    ])  # fmt: skip


def attended(query: Array, key: Array, value: Array, mask: Array) -> Array:
    added = np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]) + added
    return np.asarray(special.softmax(scores, -1) @ value)


def test_masks_of_attention_broadcast_and_a_row_without_any_place_has_no_value() -> None:
    generator = np.random.default_rng(0)
    query, key, value = (generator.normal(size=size).astype(np.float32) for size in ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7)))
    row, grid = generator.normal(size=6).astype(np.float32), generator.normal(size=(4, 6)).astype(np.float32)
    grid[2] = -np.inf
    build = mb.scaled_dot_product_attention
    with np.errstate(invalid="ignore"):
        cases = [
            MilCase(lambda q, k, v, m: build(query=q, key=k, value=v, attn_mask=m), (query, key, value, mask),
                    attended(query, key, value, mask))
            for mask in (row, grid, generator.normal(size=(2, 1, 4, 6)).astype(np.float32))
        ]  # fmt: skip
        chosen = MilCase(
            lambda q, k, v, m: build(query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=np.float32(0))),
            (query, key, value, grid), attended(query, key, value, grid > 0),
        )  # fmt: skip
    agree_mil([*cases, chosen], ios=18)
