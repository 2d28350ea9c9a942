"""Times and lists of CPUs as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.support.durations import MAX_CPUS, MAX_SECONDS, cpu_list, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("90", 90), ("90s", 90), (" 1.5 m ", 90), ("2min", 120), ("2H", 7200), ("250ms", 0.25), ("0.000001s", 1e-6),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1d", "1e3", "inf", "nan", "1,5s", "1 2", "٣s", "9999999999", "1.0000001", "721h"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError):
        seconds_of(text)


@given(st.text(max_size=20))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    try:
        assert 0 <= seconds_of(text) <= MAX_SECONDS
    except UsageError as error:
        assert error.fix


@given(st.integers(0, 10**6), st.sampled_from([("s", 1), ("m", 60)]))
def test_whole_numbers_come_back(count: int, unit: tuple[str, int]) -> None:
    if count * unit[1] <= MAX_SECONDS:
        assert seconds_of(f"{count}{unit[0]}") == count * unit[1]


@given(st.sets(st.integers(0, MAX_CPUS - 1), min_size=1, max_size=30))
def test_a_list_of_cpus_comes_back_sorted(cpus: set[int]) -> None:
    assert cpu_list(",".join(map(str, cpus))) == tuple(sorted(cpus))


def test_ranges_of_cpus() -> None:
    assert cpu_list("0, 4-7,6") == (0, 4, 5, 6, 7)
    assert cpu_list("3-3") == (3,)


@pytest.mark.parametrize("text", ["", ",", "7-4", "a", "-1", "1-", "0,1024", "0-9999", "٣", "1;2", "0x1"])
def test_no_cpus(text: str) -> None:
    with pytest.raises(UsageError):
        cpu_list(text)


@given(st.text("0123456789-, ", max_size=12))
def test_any_list_is_cpus_or_a_usage_error(text: str) -> None:
    try:
        found = cpu_list(text)
    except UsageError:
        return
    assert all(0 <= cpu < MAX_CPUS for cpu in found)
