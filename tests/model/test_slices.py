from hypothesis import given
from hypothesis import strategies as st

from edgeopt.model.slices import falls, slices

numbers = st.dictionaries(st.sampled_from("abcdef"), st.floats(-1e6, 1e6))


def test_a_slice_has_the_name_of_the_number_and_a_stroke() -> None:
    found = {"top1": 0.9, "top1/class=7": 0.8, "top10/class=7": 0.9, "top1/night/class=7": 0.7, "loss/class=7": 0.1}
    assert slices(found, "top1") == ("top1/class=7", "top1/night/class=7")
    assert slices(found, "top5") == ()


@given(numbers, numbers)
def test_what_lost_the_most_comes_first_and_only_what_both_sides_have(
    before: dict[str, float], after: dict[str, float]
) -> None:
    found = falls(before, after, "abcdef")
    assert {fall.name for fall in found} == before.keys() & after.keys()
    assert [fall.lost for fall in found] == sorted((before[name] - after[name] for name in before.keys() & after), reverse=True)
