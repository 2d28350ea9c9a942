"""The search for the smallest amount with which a latency goal is reached."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.common.measures import macs
from edgeopt.compress.search.latency_goal import MOST, AmountTrial, smallest, within
from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.magnitude import Magnitude
from edgeopt.errors import BudgetUnmet, ConfigError

IMAGE = (torch.rand(1, 1, 8, 8),)
CONTEXT = Context(example_inputs=IMAGE)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    layers = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4)]
    return nn.Sequential(*layers).eval()


def time(module: nn.Module) -> float:
    """A device that takes a millisecond per million of multiply-accumulates."""
    return macs(module, IMAGE) / 1e6


def test_the_amount_found_reaches_the_goal_and_the_next_smaller_one_tried_does_not(net: nn.Module) -> None:
    told = list[AmountTrial]()
    goal = 0.4 * time(net)
    chosen = within(Channels(), goal, net, CONTEXT, time, told.append)
    assert chosen.technique == Channels(amount=chosen.amount)
    assert 0.5 * goal < time(chosen.technique.apply(net, CONTEXT).module) <= goal
    less = [trial.ms for trial in chosen.trials if trial.amount < chosen.amount]
    assert less
    assert all(ms is not None and ms > goal for ms in less)
    assert tuple(told) == chosen.trials


def test_a_goal_out_of_reach_is_told_with_the_fastest_that_was_tried(net: nn.Module) -> None:
    with pytest.raises(BudgetUnmet, match=r"1e-06 ms cannot be reached[\s\S]*amount 0\.90: [\d.e-]+ ms[\s\S]*ask for less"):
        within(Channels(), 1e-6, net, CONTEXT, time)


def test_a_technique_without_an_amount_is_refused(net: nn.Module) -> None:
    with pytest.raises(ConfigError, match="Magnitude has no amount"):
        within(Magnitude(), 1.0, net, CONTEXT, time)


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
