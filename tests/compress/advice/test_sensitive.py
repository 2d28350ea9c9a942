"""Which layers a scan says to leave whole."""

from edgeopt.compress.advice.sensitive import too_sensitive
from edgeopt.compress.advice.sensitivity import Point, Sensitivity


def scanned(drops: dict[str, float], macs: dict[str, int]) -> Sensitivity:
    points = tuple(Point(layer=layer, amount=0.5, score=0.9 - drop) for layer, drop in drops.items())
    return Sensitivity(technique="silenced channels", metric="accuracy", base=0.9, amounts=(0.5,), points=points, macs=macs)


def test_a_layer_that_loses_much_for_little_work_stays_whole_with_the_reason() -> None:
    found = too_sensitive(scanned({"first": 0.3, "second": 0.2}, {"first": 10, "second": 90}))
    assert found == {"first": "first loses 0.300 of accuracy without 50% of its channels, for 10% of the work"}


def test_what_loses_in_proportion_to_its_work_can_be_cut() -> None:
    assert too_sensitive(scanned({"first": 0.3, "second": 0.3}, {"first": 50, "second": 50})) == {}


def test_a_loss_that_is_allowed_is_none() -> None:
    found = scanned({"first": 0.04, "second": 0.0}, {"first": 10, "second": 90})
    assert list(too_sensitive(found)) == ["first"]
    assert too_sensitive(found, max_drop=0.05) == {}


def test_no_more_than_a_third_of_the_work_stays_whole() -> None:
    found = too_sensitive(scanned({"a": 0.4, "b": 0.35, "c": 0.01}, {"a": 18, "b": 17, "c": 65}))
    assert list(found) == ["a"]
