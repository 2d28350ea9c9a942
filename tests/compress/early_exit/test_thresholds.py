"""Thresholds of early exits: within the budget, as cheap as a search of all of them, honest about few samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.compress.early_exit.thresholds import NEVER, Bools, Floats, calibrated, cascade

COSTS = (10, 30, 100)


def samples(count: int, seed: int, knows: float = 0.9) -> tuple[Floats, Bools]:
    """Two exits whose confidence is the chance that they are right, and a last exit that is right in ``knows`` of cases."""
    random = np.random.default_rng(seed)
    confidence = random.beta((4, 6), (1, 1), (count, 2)).T
    right = np.vstack((random.random((2, count)) < confidence, random.random(count) < knows))
    return confidence, right


@given(st.integers(0, 50), st.floats(0, 0.1))
@settings(max_examples=15)
def test_the_budget_holds_and_shares_and_costs_add_up(seed: int, max_drop: float) -> None:
    confidence, right = samples(800, seed)
    found = calibrated(confidence, right, COSTS, max_drop)
    assert found.full_accuracy - found.accuracy <= found.drop_bound <= max_drop + 1e-12
    assert sum(found.shares) == pytest.approx(1)
    assert found.macs == pytest.approx(sum(share * cost for share, cost in zip(found.shares, COSTS, strict=True)))
    assert found == cascade(confidence, right, COSTS, found.thresholds)
    assert found.macs <= COSTS[-1]


def test_more_budget_is_never_dearer_and_some_of_it_saves() -> None:
    confidence, right = samples(4000, 0)
    spent = [calibrated(confidence, right, COSTS, drop).macs for drop in (0.0, 0.01, 0.05, 0.3)]
    assert spent == sorted(spent, reverse=True)
    assert spent[2] < 70


def test_the_budget_holds_on_samples_that_did_not_choose_the_thresholds() -> None:
    broken = 0
    for seed in range(10):
        found = calibrated(*samples(4000, seed), COSTS, 0.02)
        fresh = cascade(*samples(20_000, seed + 1000), COSTS, found.thresholds)
        broken += fresh.full_accuracy - fresh.accuracy > 0.02
    assert broken <= 1  # the drop that was merely seen would break it about every second time


def test_an_exit_that_is_always_wrong_is_never_taken() -> None:
    confidence, right = samples(1000, 0)
    right[0] = False
    found = calibrated(confidence, right, COSTS, 0.01)
    assert found.shares[0] < 0.01


def test_few_samples_prove_nothing() -> None:
    confidence, right = samples(20, 0)
    right[:] = True
    assert calibrated(confidence, right, COSTS, 0.005).thresholds == (NEVER, NEVER)
