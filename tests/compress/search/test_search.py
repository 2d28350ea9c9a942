"""The search: every architecture or NSGA-II, with or without shared weights; its front, failures, and going on after a kill."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.search.found import Found, Trial
from edgeopt.compress.search.search import Sharing, load, search
from edgeopt.compress.technique import Context
from edgeopt.core import from_json, to_json
from edgeopt.errors import BudgetUnmet, CompressionError
from edgeopt.model.model import Batch, Predict
from tests.compress.search.families import build, context, data

SMALL = {"width": (0.25, 0.5), "depth": (1, 2)}
WIDE = {"width": tuple(number / 16 for number in range(1, 17)), "depth": (1, 2, 3)}


def pretend(calls: list[str] | None = None) -> Context:
    """Scores that cost nothing: the share of weights of the largest that a network has, less a little noise."""

    def score(predict: Predict) -> dict[str, float]:
        if calls is not None:
            calls.append("scored")
        return {"accuracy": float(predict(data()[2][:1].numpy())[0].std())}

    return context(evaluate=score, fit=None)


def dominates(one: Trial, other: Trial) -> bool:
    better = one.score >= other.score and one.macs <= other.macs
    return better and (one.score > other.score or one.macs < other.macs)


def test_a_small_space_is_tried_whole_and_the_front_is_what_nothing_beats() -> None:
    found = search(build, SMALL, pretend())
    assert {trial.name for trial in found.trials} == {f"width {w}, depth {d}" for w in (0.25, 0.5) for d in (1, 2)}
    expected = [one for one in found.trials if not any(dominates(other, one) for other in found.trials)]
    assert list(found.front) == sorted(expected, key=lambda trial: trial.macs)


def test_a_large_space_is_searched_within_its_trials_between_its_two_ends() -> None:
    found = search(build, WIDE, pretend(), trials=20)
    names = [trial.name for trial in found.trials]
    assert len(names) == len(set(names)) == 20
    assert names[:2] == ["width 1.0, depth 3", "width 0.0625, depth 1"]
    expected = {one.name for one in found.trials if not any(dominates(other, one) for other in found.trials)}
    assert {one.name for one in found.front} == expected


def test_the_same_seed_tries_the_same_and_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (search(build, WIDE, pretend(), trials=12) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert [one.name for one in search(build, WIDE, pretend(), trials=12, seed=1).trials] != [one.name for one in first.trials]


def test_training_happens_and_every_score_of_evaluate_is_kept() -> None:
    found = search(build, {"width": (0.5,)}, context(), epochs=3)
    (largest,) = found.trials
    assert largest.scores.keys() == {"accuracy", "zeros"}
    assert largest.score > 0.7
    assert largest.macs == macs(build(width=0.5), (data()[2][:1],))


def test_latency_is_measured_at_the_networks_own_resolution() -> None:
    seen: list[tuple[int, ...]] = []

    def latency(module: nn.Module, example: Batch) -> float:
        module(*example)
        seen.append(tuple(example[0].shape))
        return float(example[0].numel())

    found = search(build, {"resolution": (4, 8)}, pretend(), latency=latency)
    assert seen == [(1, 1, 8, 8), (1, 1, 4, 4)]
    assert found.cost == "latency_ms"
    assert {(trial.latency_ms, trial.latency_source) for trial in found.trials} == {(16.0, "measured"), (64.0, "measured")}


def test_an_architecture_that_fails_is_a_trial_with_its_reason_and_never_on_the_front() -> None:
    def picky(width: float, depth: int) -> nn.Module:
        if depth == 2:
            raise ValueError("no such depth")
        return build(width, depth)

    found = search(picky, SMALL, pretend())
    failed = [trial for trial in found.trials if trial.error]
    assert [trial.architecture["depth"] for trial in failed] == [2, 2]
    assert "no such depth" in failed[0].reason
    assert {trial.architecture["depth"] for trial in found.front} == {1}


def test_where_every_architecture_fails_the_first_reason_is_given() -> None:
    def broken(width: float) -> nn.Module:
        raise ValueError("nothing works")

    with pytest.raises(CompressionError, match=r"every architecture failed[\s\S]*nothing works"):
        search(broken, {"width": (0.5, 1.0)}, pretend())


def test_what_failed_is_tried_again_when_its_cause_is_gone(tmp_path: Path) -> None:
    broken = True

    def mended(width: float, depth: int) -> nn.Module:
        if broken and depth == 2:
            raise ValueError("not yet")
        return build(width, depth)

    first = search(mended, SMALL, pretend(), folder=tmp_path)
    broken = False
    second = search(mended, SMALL, pretend(), folder=tmp_path)
    assert sum(bool(trial.error) for trial in first.trials) == 2
    assert not any(trial.error for trial in second.trials)


def test_a_search_without_evaluate_trains_nothing() -> None:
    with pytest.raises(CompressionError, match="no evaluate"):
        search(build, SMALL, context(evaluate=None, fit=lambda module, epochs: pytest.fail("trained")), epochs=1)


@pytest.mark.parametrize("asked", [{"trials": 0}, {"epochs": -1}, {"epochs": 1}])
def test_an_impossible_search_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(CompressionError):
        search(build, SMALL, pretend(), **asked)  # type: ignore[arg-type]


def test_a_finished_search_is_read_back_and_its_networks_are_loaded(tmp_path: Path) -> None:
    calls: list[str] = []
    first = search(build, SMALL, pretend(calls), folder=tmp_path / "a b?c#d")
    count = len(calls)
    assert search(build, SMALL, pretend(calls), folder=tmp_path / "a b?c#d") == first
    assert len(calls) == count
    best = first.front[-1]
    module = load(build, best, tmp_path / "a b?c#d")
    example = data()[2][:1]
    assert float(module(example).detach().std(unbiased=False)) == pytest.approx(best.score)
    assert not module.training


def test_more_trials_go_on_from_those_in_the_folder(tmp_path: Path) -> None:
    calls: list[str] = []
    first = search(build, WIDE, pretend(calls), trials=4, folder=tmp_path)
    second = search(build, WIDE, pretend(calls), trials=6, folder=tmp_path)
    assert len(calls) == 6
    assert second.trials[:4] == first.trials


def test_a_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    search(build, SMALL, pretend(), folder=tmp_path)
    with pytest.raises(CompressionError, match="other settings"):
        search(build, SMALL, pretend(), folder=tmp_path, seed=1)


def _killed_at_the_third(folder: Path) -> None:
    count = 0

    def counting(width: float, depth: int) -> nn.Module:
        nonlocal count
        count += 1
        if count == 3:
            os._exit(9)
        return build(width, depth)

    search(counting, SMALL, pretend(), folder=folder)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_what_it_had(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed_at_the_third, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    calls: list[str] = []
    found = search(build, SMALL, pretend(calls), folder=tmp_path)
    assert len(calls) == 2
    assert len(found.trials) == 4


def test_optuna_keeps_quiet_and_its_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    search(build, SMALL, pretend())
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_shared_weights_are_trained_once_for_all_and_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    given = context(tell=lines.append)
    space = SMALL | {"resolution": (6, 8)}
    found = search(build, space, given, epochs=8, sharing=Sharing(sampled=1), folder=tmp_path)
    assert len(found.trials) == 8
    assert min(trial.score for trial in found.trials) > 0.5
    assert sum("training one network" in line for line in lines) == 1
    (tmp_path / "search.db").unlink()
    assert search(build, space, given, epochs=8, sharing=Sharing(sampled=1), folder=tmp_path) == found
    assert sum("training one network" in line for line in lines) == 1


def trial(number: int, score: float, cost: int) -> Trial:
    return Trial(number=number, architecture={"width": number}, scores={"accuracy": score}, macs=cost, parameters=1)


FOUND = Found(metric="accuracy", cost="macs", trials=(), front=(trial(0, 0.5, 10), trial(1, 0.7, 20), trial(2, 0.9, 40)))


@given(st.floats(0, 50), st.floats(0.3, 1.0))
@settings(max_examples=50)
def test_the_best_within_a_budget_is_the_most_accurate_or_the_cheapest(budget: float, floor: float) -> None:
    def outcome(call: Callable[[], Trial]) -> int | None:
        try:
            return call().number
        except BudgetUnmet:
            return None

    affordable = [one.number for one in FOUND.front if one.macs <= budget]
    assert outcome(lambda: FOUND.best(max_cost=budget)) == max(affordable, default=None)
    accurate = [one.number for one in FOUND.front if one.score >= floor]
    assert outcome(lambda: FOUND.best(min_score=floor)) == min(accurate, default=None)


def test_a_budget_that_nothing_meets_names_the_two_ends() -> None:
    with pytest.raises(BudgetUnmet, match=r"width 0 costs least: 10 MACs, accuracy 0.5000; width 2 scores most"):
        FOUND.best(max_cost=5)


def test_what_was_found_round_trips_through_json() -> None:
    found = search(build, SMALL, pretend())
    assert from_json(Found, to_json(found)) == found
