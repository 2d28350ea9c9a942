"""What the user's own numbers lose, and which losses they cannot tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.model.choices import Paired
from edgeopt.model.repeated import Change, Numbers
from edgeopt.verify.gates import accuracy_drop, interval, slice_drop, unsteady, unsure
from edgeopt.verify.verdicts import describe

MODEL = {"top1": 0.9, "top1/class=7": 0.92, "top1/class=3": 0.95, "loss/class=7": 5.0}
shares = st.floats(0, 1)


def test_the_worst_slice_fails_the_gate_with_its_name_and_both_numbers() -> None:
    verdict = slice_drop("top1", MODEL, MODEL | {"top1/class=7": 0.81, "top1/class=3": 0.94, "loss/class=7": 0.0}, 0.05)
    assert verdict is not None and not verdict.passed
    said = "slice_drop 0.11, limit 0.05 (top1/class=7, the worst of 2 slices: model 0.9200, artifact 0.8100)"
    assert describe(verdict) == said


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=8), shares)
def test_the_gate_holds_for_every_slice(pairs: list[tuple[float, float]], limit: float) -> None:
    model = {f"top1/{index}": before for index, (before, _) in enumerate(pairs)}
    artifact = {f"top1/{index}": after for index, (_, after) in enumerate(pairs)}
    verdict = slice_drop("top1", model, artifact, limit)
    assert verdict is not None
    assert verdict.passed == all(before - after <= limit + 1e-9 for before, after in pairs)


def test_without_a_limit_the_number_is_shown_and_without_slices_there_is_none() -> None:
    verdict = slice_drop("top1", MODEL, MODEL | {"top1/class=3": 0.0}, None)
    assert verdict is not None and verdict.passed and verdict.value == 0.95
    assert slice_drop("top1", {"top1": 0.9}, {"top1": 0.1}, 0.0) is None


def test_numbers_that_hold_are_no_warning() -> None:
    assert list(unsteady(Numbers(MODEL), 0.01, 0.01)) == []


def test_a_number_that_does_not_hold_is_told_with_what_the_gates_cannot_tell() -> None:
    changes = (Change("top1/class=7", 0.92, 0.8), Change("top1/class=3", 0.95, 0.9), Change("top1", 0.9, 0.88))
    (said,) = unsteady(Numbers(MODEL, changes), 0.01, 0.05)
    assert "top1 0.9, then 0.88, top1/class=7 0.92, then 0.8 and 1 more" in said
    assert "--max-drop 0.01 cannot tell a drop of top1 below 0.02" in said
    assert "--max-slice-drop 0.05 cannot tell a drop of top1/class=7 below 0.12" in said
    assert said.endswith("fix its random seed, and let it take the same inputs each time")


def test_what_no_gate_judges_is_told_without_a_gate() -> None:
    (said,) = unsteady(Numbers(MODEL, (Change("loss/class=7", 5.0, 4.0),)), 0.01, 0.05)
    assert "loss/class=7 5, then 4" in said and "--max" not in said


@pytest.mark.parametrize("change", [Change("top1/class=9", 0.9, None), Change("top1/class=9", None, 0.9)])
def test_a_slice_of_one_call_alone_cannot_be_judged(change: Change) -> None:
    (said,) = unsteady(Numbers(MODEL, (change,)), None, 0.05)
    assert "nothing" in said and "--max-slice-drop 0.05 cannot judge top1/class=9" in said


def test_other_inputs_each_time_are_told() -> None:
    (said,) = unsteady(Numbers(MODEL, other_inputs=True), None, None)
    assert said.startswith("evaluate asks for other inputs each time")


def test_what_the_rows_leave_likely_stands_beside_the_loss() -> None:
    verdict = accuracy_drop("top1", 0.83, 0.825, 0.01, "kernels", Paired(800, 40))
    assert verdict.passed and verdict.rows == 800
    assert verdict.interval == pytest.approx((-0.0108, 0.0213), abs=2e-4)
    assert verdict.note == "top1: model 0.8300, artifact 0.8250, 40 of 800 rows got another class"


def test_a_loss_that_they_do_not_exclude_is_called_that_with_how_many_would() -> None:
    paired = Paired(800, 40)
    (said,) = unsure(accuracy_drop("top1", 0.83, 0.825, 0.01, paired=paired), paired)
    assert said.startswith("accuracy_drop 0.005 is within --max-drop 0.01, but 800 rows do not exclude a drop of 0.021")
    assert said.endswith("(95 %): about 7,800 would, if they are like these; let evaluate predict more")
    (said,) = unsure(accuracy_drop("top1", 0.83, 0.82, 0.01, paired=paired), paired)
    assert "a million more would not" in said


@pytest.mark.parametrize(
    ("artifact", "limit", "paired"),
    [
        (0.825, 0.03, Paired(800, 40)),  # excluded
        (0.825, None, Paired(800, 40)),  # no gate
        (0.8, 0.01, Paired(800, 40)),  # it fails, which says more
        (0.825, 0.01, None),  # nobody knows the rows
        (0.825, 0.01, Paired(800, 3)),  # four are lost where three changed: it is no share of classes
        (0.8249, 0.01, Paired(800, 40)),  # no whole number of rows
    ],
)
def test_else_nothing_is_said(artifact: float, limit: float | None, paired: Paired | None) -> None:
    assert list(unsure(accuracy_drop("top1", 0.83, artifact, limit, paired=paired), paired)) == []


@pytest.mark.parametrize(
    ("numbers", "rows", "known"),
    [({"top1": 0.5, "f1": 0.3}, 4, True), ({"f1": 0.3, "top1": 0.5}, 4, False), ({"top1": 0.5}, 0, False), ({}, 4, False)],
)
def test_an_interval_is_of_the_first_number_where_it_is_a_share(numbers: dict[str, float], rows: int, known: bool) -> None:
    assert (interval(numbers, rows) is not None) == known
