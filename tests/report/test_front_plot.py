"""The plot of an architecture search."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeopt.compress.search.found import Found, Trial
from edgeopt.report.front_plot import write_front


def trial(number: int, score: float, cost: int, error: str = "") -> Trial:
    scores = {} if error else {"top$1": score}
    return Trial(number=number, architecture={"width": number}, scores=scores, macs=cost, parameters=1, error=error)


TRIALS = (trial(0, 0.9, 4000), trial(1, 0.7, 100), trial(2, 0.6, 200), trial(3, 0.0, 0, "CompressionError"))
FOUND = Found(metric="top$1", cost="macs", trials=TRIALS, front=(TRIALS[1], TRIALS[0]))


def test_the_front_is_named_and_the_same_search_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    write_front(FOUND, first)
    write_front(FOUND, second)
    assert first.read_bytes() == second.read_bytes()
    texts = {"".join(element.itertext()).strip() for element in ElementTree.parse(first).iter() if element.tag.endswith("text")}
    assert {"width 0", "width 1", "MACs", "top$1"} <= texts
    assert "width 2" not in texts


@pytest.mark.parametrize("cost", [0.0, 2.5])
def test_latency_says_where_it_comes_from(tmp_path: Path, cost: float) -> None:
    one = Trial(
        number=0, architecture={"width": 1}, scores={"top1": 0.5}, macs=1, parameters=1, latency_ms=cost,
        latency_source="predicted, 1 of 2 layers interpolated",
    )  # fmt: skip
    write_front(Found(metric="top1", cost="latency_ms", trials=(one,), front=(one,)), tmp_path / "front.svg")
    assert "latency, ms (predicted)" in (tmp_path / "front.svg").read_text()
