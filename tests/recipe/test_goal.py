"""The search for the smallest amount with which a latency goal is reached."""

from hypothesis import given
from hypothesis import strategies as st

from edgeopt.recipe.goal import MOST, smallest


@given(st.floats(0.05, 1.0), st.floats(0.0, MOST))
def test_the_amount_reaches_the_goal_and_little_less_would_not(share: float, most: float) -> None:
    def time(amount: float) -> float | None:
        return None if amount > most else 1 - amount

    found = smallest(time, share)
    if found is None:
        assert 1 - most > share - 0.03
    else:
        assert found <= most
        assert 1 - found <= share
        assert 1 - (found - 0.03) > share or found < 0.03


def test_a_goal_that_the_greatest_amount_misses_is_told_after_one_trial() -> None:
    tried = list[float]()

    def time(amount: float) -> float:
        tried.append(amount)
        return 10.0

    assert smallest(time, 5.0) is None
    assert tried == [MOST]
