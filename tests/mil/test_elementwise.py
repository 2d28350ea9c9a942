"""Elementwise operators of one and of two tensors against PyTorch, and against NumPy what only MIL has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  the name that MIL's documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.mil.drawn import Array, Draw, MilCase, agree_mil, shapes, uniform, whole
from tests.mil.packages import Case, agree, run_mil

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

UNARY: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "abs": (torch.abs, -4, 4), "acos": (torch.acos, -1, 1), "asin": (torch.asin, -1, 1), "atan": (torch.atan, -4, 4),
    "atanh": (torch.atanh, -0.9, 0.9), "ceil": (torch.ceil, -4, 4), "clip": (lambda x: x.clamp(-1, 2), -4, 4),
    "cos": (torch.cos, -9, 9), "cosh": (torch.cosh, -4, 4), "erf": (torch.erf, -3, 3), "exp": (torch.exp, -9, 9),
    "exp2": (torch.exp2, -9, 9), "expm1": (torch.expm1, -4, 4), "floor": (torch.floor, -4, 4), "log": (torch.log, 0.1, 9),
    "log1p": (torch.log1p, 0, 9), "neg": (torch.neg, -4, 4), "round": (torch.round, -4, 4), "rsqrt": (torch.rsqrt, 0.1, 9),
    "sign": (torch.sign, -4, 4), "sin": (torch.sin, -9, 9), "sinh": (torch.sinh, -4, 4), "sqrt": (torch.sqrt, 0, 9),
    "square": (torch.square, -4, 4), "tan": (torch.tan, -1.5, 1.5), "tanh": (torch.tanh, -4, 4),
    "whole": (lambda x: x.to(torch.int32), -9, 9), "not": (lambda x: torch.logical_not(x > 0), -4, 4),
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum, "minimum": torch.minimum,
    "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt,
    "less_equal": torch.le, "and": lambda x, y: torch.logical_and(x > 0, y > 0),
    "or": lambda x, y: torch.logical_or(x > 0, y > 0), "xor": lambda x, y: torch.logical_xor(x > 0, y > 0),
    "where": lambda x, y: torch.where(x > y, x, y * 2),
}  # fmt: skip
DIVISIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "div": torch.div, "floor": torch.floor_divide, "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "remainder": torch.remainder,
}  # fmt: skip
HALVES = torch.arange(-7, 8) / 2


@st.composite
def drawn_unary(draw: Draw) -> Case:
    call, low, high = UNARY[draw(st.sampled_from(sorted(UNARY)))]
    return Case(call, (uniform(draw, draw(shapes(1, 5)), low, high),))


@st.composite
def broadcast(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast: either may have fewer axes, and 1 where the other has more."""
    full = draw(shapes(1, 5))
    first, second = ([1 if draw(st.integers(0, 3)) == 0 else size for size in full] for _ in range(2))
    first, second = (list(full), second) if draw(st.booleans()) else (first, list(full))
    return tuple(first), tuple(second[draw(st.integers(0, len(full) - 1)) :])


@st.composite
def drawn_binary(draw: Draw) -> Case:
    left, right = draw(broadcast())
    floats = draw(st.booleans())
    number = uniform if floats else whole
    x, y = number(draw, left), number(draw, right)
    kind = draw(st.sampled_from([*sorted(BINARY), *sorted(DIVISIONS), "pow"]))
    if kind == "pow":
        return Case(torch.pow, (x.abs().float() + 0.1, y.float()))
    if kind in DIVISIONS:  # as floats, as coremltools divides them: 6 / 2 may be below 3 otherwise
        return Case(DIVISIONS[kind], (x, torch.where(y.abs() < 0.1, 3, y).to(y.dtype)))
    return Case(BINARY[kind], (x, y))


def test_operators_of_one_tensor_are_those_of_pytorch_at_ties_and_bounds() -> None:
    agree([Case(call, (HALVES[HALVES.clamp(low, high) == HALVES],)) for call, low, high in UNARY.values()], traced=True)


def test_operators_of_two_tensors_are_those_of_pytorch_for_every_pair_of_signs() -> None:
    x, y = torch.arange(-7, 8, dtype=torch.int32)[:, None], torch.tensor([-3, -2, -1, 1, 2, 3], dtype=torch.int32)
    every = {**BINARY, **DIVISIONS}.values()
    agree([Case(call, (x, y)) for call in every] + [Case(call, (x / 2, y / 2)) for call in every], traced=True)


@pytest.mark.slow
@settings(max_examples=6)
@given(st.lists(drawn_unary() | drawn_binary(), min_size=60, max_size=120), st.sampled_from([15, 17, 18]), st.booleans())
def test_elementwise_operators_are_those_of_pytorch_for_any_shape(cases: list[Case], ios: int, traced: bool) -> None:
    agree(cases, ios=ios, traced=traced)


def on(x: Array, name: str, expected: Any, **parameters: Any) -> MilCase:
    build = getattr(mb, name)
    return MilCase(lambda x: build(x=x, **parameters), (x,), expected)


def test_epsilon_is_added_before_the_function() -> None:
    x, bare = np.array([0.0, 1e-4, 0.5, 2], np.float32), np.array([0.0, 0.5, 2], np.float32)
    agree_mil([
        on(x, "inverse", 1 / (x + 1e-4)),
        on(x, "inverse", 1 / (x + 0.25), epsilon=np.float32(0.25)),
        on(bare, "log", np.log(bare + 1e-45)),
        on(x, "log", np.log(x + 0.25), epsilon=np.float32(0.25)),
        on(x, "rsqrt", 1 / np.sqrt(x + 1e-12)),
        on(x, "rsqrt", 1 / np.sqrt(x + 0.25), epsilon=np.float32(0.25)),
    ])  # fmt: skip


def test_integers_stay_integers() -> None:
    x, y = (np.array(each, np.int32) for each in ([7, -7, 7, -7, 6, 2**31 - 1], [2, 2, -2, -2, 3, 1]))
    small = x % 9
    agree_mil([
        MilCase(lambda x, y: mb.real_div(x=x, y=y), (x, y), np.trunc(x / y).astype(np.int32)),
        MilCase(lambda x, y: mb.floor_div(x=x, y=y), (x, y), x // y),
        MilCase(lambda x, y: mb.mod(x=x, y=y), (x, y), x % y),
        MilCase(lambda x, y: mb.pow(x=x, y=y), (x, abs(y)), x ** abs(y)),
        MilCase(lambda x, y: mb.add(x=x, y=y), (x, y), x + y),
        on(x, "threshold", np.maximum(x, 3), alpha=np.int32(3)),
        on(small, "exp2", 2**small),
        on(x, "square", x * x),
        on(x, "sign", np.sign(x)),
        on(x, "abs", abs(x)),
    ])  # fmt: skip


def test_mod_threshold_and_clip_are_not_what_pytorch_calls_so() -> None:
    x, y = np.arange(-7, 8, dtype=np.float32)[:, None] / 2, np.array([-1.5, -1, 1, 1.5], np.float32)
    agree_mil([
        MilCase(lambda x, y: mb.mod(x=x, y=y), (x, y), x % y),  # the divisor's sign
        on(x, "threshold", np.maximum(x, 0.5), alpha=np.float32(0.5)),
        on(x, "clip", np.clip(x, -1, 2), alpha=np.float32(-1), beta=np.float32(2)),
    ])  # fmt: skip


def cast_and_back(x: Array, dtype: str) -> MilCase:
    want = x.astype(np.int32).astype(dtype).astype(np.int32)
    return MilCase(lambda x: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype="int32"), (x,), want)


def test_casts_to_narrow_integers_truncate_and_wrap_around() -> None:
    numbers = np.array([-70000, -129, -1, 0, 1, 127, 128, 255, 256, 40000], np.int32)
    floats = np.array([-1.7, -0.5, 0.0, 0.5, 1.5, 126.9], np.float32)
    truth = MilCase(lambda x: mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="fp32"), (floats,), (floats != 0).astype(np.float32))
    agree_mil([truth, *(cast_and_back(x, dtype) for x in (numbers, floats) for dtype in ("int8", "uint8", "int16", "uint16"))])


@settings(max_examples=2)
@given(st.integers(0, 2**16))
def test_arithmetic_in_float16_rounds_as_float16_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = (np.ldexp(generator.uniform(1, 2, 500), generator.integers(-12, 12, 500)).astype(np.float16) for _ in range(2))
    with np.errstate(over="ignore"):
        want = [x + y, x - y, x * y, x / y, np.maximum(x, y), np.sqrt(x)]

    def build(x: Any, y: Any) -> tuple[Any, ...]:
        every = (mb.add, mb.sub, mb.mul, mb.real_div, mb.maximum)
        return (*(each(x=x, y=y) for each in every), mb.sqrt(x=x))

    found = run_mil(build, {"x": x, "y": y}, precision="float16")
    np.testing.assert_array_equal(list(found.values()), want)


def test_the_default_epsilon_of_log_is_nothing_in_a_float16_program() -> None:
    found = run_mil(lambda x: mb.log(x=x), {"x": np.zeros(3, np.float16)}, precision="float16")
    assert (next(iter(found.values())) == -np.inf).all()
