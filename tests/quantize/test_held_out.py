"""Which of the held-out samples are kept: all of few, of many some that are spread over the data, within memory."""

import pytest
import torch

from edgeopt.quantize import held_out
from edgeopt.quantize.held_out import FEWEST, MOST, HeldOut


def kept(count: int, size: int = 1) -> list[int]:
    """The numbers of the samples that are kept of ``count``, in the order in which they are compared."""
    found = HeldOut()
    for number in range(count):
        found.add((torch.full((size,), number, dtype=torch.int32),))
    assert found.count == count
    return [int(sample[0][0]) for sample in found.samples()]


@pytest.mark.parametrize("count", [0, 1, 3, FEWEST, 20, 100, MOST])
def test_of_few_all_are_kept(count: int) -> None:
    assert sorted(kept(count)) == list(range(count))


def test_few_are_compared_in_their_order() -> None:
    assert kept(FEWEST) == list(range(FEWEST))


@pytest.mark.parametrize("count", [40, 100, MOST, 1000, 5000])
def test_the_first_few_of_many_are_from_all_of_them(count: int) -> None:
    first = kept(count)[:FEWEST]
    assert min(first) < count / 4 and max(first) > 3 * count / 4


@pytest.mark.parametrize("period", [2, 4, 5, 8, 10, 16])
def test_data_that_goes_round_is_not_met_at_one_place_only(period: int) -> None:
    first = kept(200)[:FEWEST]
    assert len({number % period for number in first}) > period / 2


def test_of_many_every_part_of_the_data_is_there_and_the_same_ones_each_time() -> None:
    found = kept(5000)
    assert len(found) == len(set(found)) == MOST
    for tenth in range(10):
        assert 10 <= sum(500 * tenth <= number < 500 * (tenth + 1) for number in found) <= 45
    assert found == kept(5000)


def test_large_samples_are_fewer_but_never_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "HELD_OUT_BYTES", 4 * 1000 * 40)
    assert len(kept(300, size=1000)) == 40
    assert len(kept(300, size=100_000)) == FEWEST
