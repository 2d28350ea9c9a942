"""Intervals of shares: published values, what they cover, and what so few rows cannot tell."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.support.proportions import Interval, drop, hits, rows_to_exclude, wilson


@pytest.mark.parametrize(
    ("found", "rows", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3, and the three after it
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(found: int, rows: int, interval: Interval) -> None:
    assert wilson(found, rows) == pytest.approx(interval, abs=1e-4)


@given(st.integers(1, 300).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_a_share_lies_in_its_interval_and_that_in_0_to_1(pair: tuple[int, int]) -> None:
    found, rows = pair
    least, most = wilson(found, rows)
    assert 0 <= least <= found / rows <= most <= 1
    assert wilson(rows - found, rows) == pytest.approx((1 - most, 1 - least))
    assert most - least > wilson(4 * found, 4 * rows)[1] - wilson(4 * found, 4 * rows)[0]


def test_one_row_says_next_to_nothing() -> None:
    assert wilson(1, 1) == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert drop(0, 0, 1) == pytest.approx((-0.793, 0.793), abs=1e-3)


@given(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400)).filter(lambda cells: sum(cells) > 0))
def test_a_loss_lies_in_its_interval_which_turns_with_the_models(cells: tuple[int, int, int]) -> None:
    fell, rose, _ = cells
    rows = sum(cells)
    least, most = drop(fell - rose, fell + rose, rows)
    assert -1 <= least <= (fell - rose) / rows + 1e-9
    assert (fell - rose) / rows - 1e-9 <= most <= 1
    assert drop(rose - fell, fell + rose, rows) == pytest.approx((-most, -least), abs=1e-9)
    assert drop(fell - rose, fell + rose + 0.5, rows + 0.5)[1] >= most - 0.5 / rows


def test_tango_s_interval_is_the_published_one() -> None:
    """Of airway reactions before and after a transplantation: 1 and 7 of 21 changed (Fagerland, Lydersen and Laake 2013)."""
    assert drop(1 - 7, 1 + 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("rows", "fell", "rose"), [(20, 0.1, 0.05), (50, 0.05, 0.03), (50, 0.02, 0.0), (100, 0.01, 0.01)])
def test_19_of_20_intervals_of_a_loss_hold_what_is_true(rows: int, fell: float, rose: float) -> None:
    """Added up over everything that can be drawn."""
    covered = 0.0
    for one in range(rows + 1):
        for other in range(rows - one + 1):
            ways = comb(rows, one) * comb(rows - one, other)
            chance = ways * fell**one * rose**other * (1 - fell - rose) ** (rows - one - other)
            least, most = drop(one - other, one + other, rows) if chance > 1e-9 else (1.0, -1.0)
            covered += chance if least <= fell - rose <= most else 0
    assert covered > 0.945


@given(st.integers(0, 30), st.integers(0, 10), st.integers(50, 1000), st.floats(0.001, 0.2))
def test_so_many_rows_exclude_the_limit(differing: int, lost: int, rows: int, limit: float) -> None:
    lost = min(lost, differing)
    needed = rows_to_exclude(limit, lost, differing, rows)
    if needed is None:
        assert drop(lost / rows * 1e6, differing / rows * 1e6, 1e6)[1] > limit
    else:
        more = 1.1 * needed + 1
        assert drop(lost / rows * more, differing / rows * more, more)[1] <= limit


def test_a_loss_at_the_limit_is_excluded_by_no_number_of_rows() -> None:
    assert rows_to_exclude(0.01, 8, 40, 800) is None


@pytest.mark.parametrize(
    ("value", "rows", "found"),
    [
        (0.9625, 400, 385), (0.0, 7, 0), (1.0, 7, 7), (1 / 3, 3, 1), (float.fromhex("0x1.eb851ep-1"), 50000, 48000),
        (0.963, 450, None), (0.5, 7, None), (96.25, 400, None), (-0.25, 4, None), (1.25, 4, None),
    ],
)  # fmt: skip
def test_only_a_whole_number_of_rows_is_a_share_of_them(value: float, rows: int, found: int | None) -> None:
    assert hits(value, rows) == found
