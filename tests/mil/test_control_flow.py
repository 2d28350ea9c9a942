"""Conditions, loops and lists, and what keeps float16 in order within them."""

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813  as all of MIL's documentation calls it

from edgeopt.errors import ConversionError
from tests.mil.packages import run_mil

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")


def float32(*values: float) -> Any:
    return np.array(values, np.float32)


def test_a_condition_takes_one_of_two_branches_which_see_what_is_around_them() -> None:
    def branches(a: Any, b: Any) -> Any:
        sign = mb.squeeze(x=mb.greater(x=a, y=np.float32(0)), axes=[0])
        doubled = mb.mul(x=b, y=np.float32(2))

        def either() -> Any:
            return mb.add(x=b, y=doubled), mb.identity(x=b)

        def other() -> Any:
            return mb.sub(x=b, y=doubled), mb.identity(x=doubled)

        return mb.cond(pred=sign, _true_fn=either, _false_fn=other)

    inputs = {"a": float32(1), "b": float32(1), "c": float32(-1)}
    found = run_mil(lambda a, b, c: (*branches(a, b), *branches(c, b)), inputs)
    assert [each.item() for each in found.values()] == [3, 1, -1, 2]


def test_loops_within_loops_end_when_their_conditions_do() -> None:
    """For i < n: total += the sum of 0 .. i."""

    def sums(n: Any, x: Any) -> Any:
        def outer(i: Any, total: Any) -> Any:
            def inner(j: Any, part: Any) -> Any:
                return mb.add(x=j, y=np.float32(1)), mb.add(x=part, y=mb.mul(x=j, y=x))

            _, part = mb.while_loop(_cond=lambda j, part: mb.less_equal(x=j, y=i), _body=inner,
                                    loop_vars=(float32(0), float32(0)))  # fmt: skip
            return mb.add(x=i, y=np.float32(1)), mb.add(x=total, y=part)

        return mb.while_loop(_cond=lambda i, total: mb.less(x=i, y=n), _body=outer, loop_vars=(float32(0), x))

    counts = {f"n{n}": float32(n) for n in (0, 1, 5)}
    found = run_mil(lambda n0, n1, n5, x: (*sums(n0, x), *sums(n1, x), *sums(n5, x)), {**counts, "x": float32(2)})
    wanted = [(n, 2 + sum(2 * j for i in range(n) for j in range(i + 1))) for n in (0, 1, 5)]
    assert [each.item() for each in found.values()] == [number for pair in wanted for number in pair]


@pytest.mark.slow
def test_a_loop_may_exchange_its_values() -> None:
    def build(a: Any, b: Any, n: Any) -> Any:
        one = np.float32(1)
        return mb.while_loop(_cond=lambda a, b, n: mb.greater(x=n, y=np.float32(0)),
                             _body=lambda a, b, n: (mb.identity(x=b), mb.identity(x=a), mb.sub(x=n, y=one)),
                             loop_vars=(a, b, n))[:2]  # fmt: skip

    a, b = run_mil(build, {"a": float32(1), "b": float32(2), "n": float32(3)}).values()
    assert (a, b) == (2, 1)


def test_a_list_is_zeros_until_something_is_written_and_grows() -> None:
    def build(a: Any, b: Any, places: Any) -> Any:
        empty = mb.make_list(init_length=2, elem_shape=(2,))
        one = mb.list_write(ls=empty, index=0, value=a)
        more = mb.list_write(ls=one, index=3, value=b)
        pair = mb.list_scatter(ls=more, indices=places, value=mb.stack(values=(b, a), axis=0))
        return (mb.list_read(ls=empty, index=0), mb.expand_dims(x=mb.list_length(ls=more), axes=[0]),
                mb.list_gather(ls=more, indices=np.arange(4, dtype=np.int32)), mb.list_read(ls=pair, index=1),
                mb.list_read(ls=pair, index=0))  # fmt: skip

    a, b = float32(1, 2), float32(3, 4)
    first, length, every, second, last = run_mil(build, {"a": a, "b": b, "places": np.array([1, 0], np.int32)}).values()
    assert not first.any(), "an earlier list stays as it was"
    assert length == 4
    np.testing.assert_array_equal(every, [a, [0, 0], [0, 0], b])
    np.testing.assert_array_equal([second, last], [b, a])


@pytest.mark.slow
def test_a_list_of_an_unknown_shape_is_not_read_before_it_is_written() -> None:
    def build(a: Any) -> Any:
        ls = mb.make_list(init_length=2, elem_shape=("size",))
        return mb.list_read(ls=ls, index=0), mb.list_read(ls=mb.list_write(ls=ls, index=1, value=a), index=0)

    with pytest.raises(ConversionError, match="read before anything was written"):
        run_mil(build, {"a": float32(1, 2)})


def test_what_a_loop_carries_is_rounded_to_float16_in_every_turn() -> None:
    def build(x: Any, n: Any) -> Any:
        def body(x: Any, n: Any) -> Any:
            return mb.mul(x=x, y=np.float16(1.001)), mb.sub(x=n, y=np.float16(1))

        return mb.while_loop(_cond=lambda x, n: mb.greater(x=n, y=np.float16(0)), _body=body, loop_vars=(x, n))[0]

    want, factor = np.float16([1.0]), np.float16(1.001)
    inputs = {"x": want, "n": np.float16([50])}
    for _ in range(50):
        want = (want.astype(np.float32) * np.float32(factor)).astype(np.float16)
    (found,) = run_mil(build, inputs, precision="float16").values()
    np.testing.assert_array_equal(found, want)
    assert abs(found - np.float64(factor) ** 50) > 1e-3, "rounding at the end alone would not show"


def test_sums_and_scattered_sums_are_rounded_to_float16_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, generator=generator).to(torch.float16)
    zeros, places = np.zeros(4, np.float16), np.arange(100, dtype=np.int32) % 4
    found = run_mil(
        lambda x, zeros, places: (mb.cumsum(x=x, axis=0), mb.scatter(data=zeros, indices=places, updates=x, mode="add")),
        {"x": x.numpy(), "zeros": zeros, "places": places}, precision="float16",
    )  # fmt: skip
    sums, scattered = found.values()
    np.testing.assert_array_equal(sums, x.float().cumsum(0).to(torch.float16))
    np.testing.assert_array_equal(scattered, x.float().reshape(25, 4).sum(0).to(torch.float16))


@pytest.mark.slow
def test_select_takes_each_element_from_one_of_two_of_any_type() -> None:
    def build(x: Any, a: Any, b: Any) -> Any:
        where = mb.greater(x=x, y=np.float32(0))
        pairs = [(mb.cast(x=a, dtype=dtype), mb.cast(x=b, dtype=dtype)) for dtype in ("fp32", "int32", "bool")]
        return tuple(mb.cast(x=mb.select(cond=where, a=a, b=b), dtype="fp32") for a, b in pairs)

    found = run_mil(build, {"x": float32(1, -1, 1), "a": float32(1, 0, 1), "b": np.float32([[0, 1, 0], [1, 0, 0]])})
    for each in found.values():
        np.testing.assert_array_equal(each, [[1, 1, 1], [1, 0, 1]])
