"""What is seen of values: peaks of channels, those that never change, and what a grid or a clip cuts off."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.diagnosis.watching import Watched
from edgeopt.quantize.ranges import QParams

GRID = QParams(scale=0.1, zero_point=0, low=0, high=255)


def test_an_outlier_is_found_by_its_number_whatever_sample_it_is_in() -> None:
    watched = Watched()
    torch.manual_seed(0)
    for sample in range(4):
        value = torch.randn(1, 8, 5, 5)
        value[:, 6] *= 100 if sample == 2 else 1
        watched.add(value, 1, None, None)
    (found,) = watched.outliers
    assert found.channel == 6 and found.times > 30


def test_dead_channels_need_values_to_be_called_so() -> None:
    watched = Watched()
    watched.add(torch.zeros(1, 4), 1, None, None)
    assert watched.dead == 0
    watched.add(torch.cat([torch.zeros(16, 2), torch.randn(16, 2)], 1), 1, None, None)
    assert watched.dead == 2


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50))
def test_what_rounding_reaches_is_not_cut_off_and_everything_else_is(values: list[float]) -> None:
    watched = Watched()
    value = torch.tensor(values)
    watched.add(value, None, GRID, None)
    integers = (value.double() / GRID.scale).round()
    expected = int(((integers < GRID.low) | (integers > GRID.high)).sum())
    near = int(((value.double() / GRID.scale - integers).abs() > 0.499).sum())  # where float32 decides
    assert abs(watched.clipped - expected) <= near


@pytest.mark.parametrize(("values", "share"), [([6.0, 6.0, 3.0, 0.0], 0.5), ([0.0, 1.0], 0.0)])
def test_values_at_the_layers_own_clip_are_counted(values: list[float], share: float) -> None:
    watched = Watched()
    watched.add(torch.tensor([values]), 1, None, 6.0)
    assert watched.clips and watched.saturated / watched.count == share
