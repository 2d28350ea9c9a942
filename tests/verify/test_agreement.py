"""Agreement is counted row by row, over as many samples as there is time for."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeopt.converters.interface import Array
from edgeopt.core import AS_WRITTEN
from edgeopt.targets.schema import Checks
from edgeopt.verify import verdicts
from edgeopt.verify.agreement import Clock, Counts, chosen, steps
from edgeopt.verify.reference_outputs import Further, ReferenceOutputs
from edgeopt.verify.verdicts import Proof

SCORES = np.array([[1.0, 2, 3], [3, 2, 1]])


def agreement(one: Array, other: Array) -> float | None:
    return Counts.of([(one,)], [(other,)]).numbers(("y",))[0]["top1_agreement"]


def test_agreement_is_of_class_scores_only() -> None:
    assert agreement(SCORES, np.array([[1.0, 2, 3], [3, 2, 4]])) == 0.5
    for shape in ((2, 1), (1, 3, 3), (0, 3)):
        assert agreement(np.ones(shape), np.ones(shape)) is None


def test_what_has_another_shape_than_scores_agrees_nowhere() -> None:
    assert agreement(SCORES, SCORES[:1]) == 0


def test_the_rows_are_those_of_the_output_that_agrees_least() -> None:
    counts = Counts.of([(SCORES, SCORES[:1])], [(SCORES, -SCORES[:1])])
    assert counts.numbers(("a", "b")) == ({"top1_agreement": 0.0}, {"top1_agreement": "output b"})
    assert (counts.rows, counts.samples) == (1, 1)


@pytest.mark.parametrize(("rows", "interval"), [(16, (0.717, 0.989)), (256, (0.901, 0.961)), (0, None)])
def test_the_verdict_says_what_so_many_rows_leave_likely(rows: int, interval: tuple[float, float] | None) -> None:
    proof = Proof(compared=AS_WRITTEN, numbers={"top1_agreement": 0.9375}, rows=rows)
    (verdict,) = (one for one in verdicts.judge(proof, Checks()) if one.check == "top1_agreement")
    assert verdict.rows == (rows or None)
    assert verdict.interval == (None if interval is None else pytest.approx(interval, abs=1e-3))


def test_a_sample_costs_nothing_and_all_are_compared() -> None:
    assert list(steps(250, 16, 0.0, 1.0)) == list(range(16, 250))


@pytest.mark.parametrize(("seconds", "last"), [(0.0, 16), (15.9, 16), (16.0, 32), (47.9, 32), (48.0, 64), (1e9, 250)])
def test_their_number_doubles_as_long_as_that_ends_in_time(
    seconds: float, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    now = 0.0
    for clock in ("process_time", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now)
    found = 16
    for index in steps(250, 16, 16.0, seconds):  # a second each
        assert index == found
        found, now = found + 1, now + 1.0
    assert found == last


def test_where_later_samples_take_longer_it_ends_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    for clock in ("process_time", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: now)

    def count() -> Iterator[int]:
        nonlocal now
        for index in steps(256, 16, 1.0, 30.0):
            now += 1.0
            yield index

    assert len(list(count())) == 16


def test_a_machine_that_does_other_things_compares_as_many_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now = 10.0
    assert clock.seconds() == 2.5


def test_fewer_samples_than_are_always_compared_have_no_further_ones() -> None:
    assert list(steps(3, 3, 0.0, 60.0)) == []
    assert list(steps(16, 16, 0.0, 60.0)) == []


def test_further_samples_are_read_one_by_one_with_the_model_s_classes(tmp_path: Path) -> None:
    path = tmp_path / "references.npz"
    wide = [(np.full((1, 2), number, np.float32), np.array([number])) for number in range(12)]
    outputs = (SCORES, np.ones((1, 2, 2)), -SCORES)
    ReferenceOutputs(("a", "b", "c"), wide[:1], [outputs], further=wide, classes=[chosen(outputs)] * 12).write(path)
    found = ReferenceOutputs.read(path)
    assert (len(found.samples), found.further, found.classes) == (1, [], [])
    with Further.of(path) as further:
        assert further.count == 12
        for number in (11, 0, 2):
            sample, rows = further[number]
            assert [array.tolist() for array in sample] == [array.tolist() for array in wide[number]]
            assert {index: value.tolist() for index, value in rows.items()} == {0: [2, 0], 2: [0, 2]}
