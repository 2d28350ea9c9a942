import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.support.quantities import bytes_of, milliseconds_of


@pytest.mark.parametrize(
    ("text", "count"), [("4MB", 4_000_000), ("512 KiB", 524_288), ("1.5 gb", 1_500_000_000), ("7B", 7), ("0.1B", 1)]
)
def test_a_size_with_its_unit(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize(("text", "time"), [("20ms", 20), ("1.5s", 1500), ("800 us", 0.8)])
def test_a_time_with_its_unit(text: str, time: float) -> None:
    assert milliseconds_of(text) == pytest.approx(time)


@pytest.mark.parametrize("text", ["", "4", "MB", "-4MB", "0MB", "4 parsecs", "4MBps", "1e3MB", "٤MB", "nan MB"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write it as 4MB"):
        bytes_of(text)
    with pytest.raises(UsageError, match="write it as 20ms"):
        milliseconds_of(text)


@given(st.text(max_size=8))
def test_no_text_gives_less_than_a_byte(text: str) -> None:
    try:
        assert bytes_of(text) >= 1
    except UsageError as error:
        assert error.fix
