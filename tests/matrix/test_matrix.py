"""Every architecture on every kind of target: a status may only improve."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.matrix.architectures import ARCHITECTURES
from tests.matrix.table import changes, measure, read_expected


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, str]]:
    return read_expected()


def test_the_table_covers_every_architecture(expected: dict[str, dict[str, str]]) -> None:
    assert list(expected) == list(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_depends_on_its_input_and_is_the_same_each_time(name: str) -> None:
    """Random weights can die out: a constant output would pass every comparison."""
    model, again = ARCHITECTURES[name](), ARCHITECTURES[name]()
    batches: Any = model.calibration
    with torch.no_grad():
        first, second, repeated = model.module(*batches[0]), model.module(*batches[1]), again.module(*batches[0])
    for one, other, same in zip(*(out if isinstance(out, tuple) else (out,) for out in (first, second, repeated)), strict=True):
        assert torch.equal(one, same)
        assert (one - other).norm() > 0.05 * one.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_target_got_worse(name: str, expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    jobs = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    worse, better = changes(expected[name], measure(ARCHITECTURES[name](), tmp_path / name, jobs))
    assert not worse
    assert not better, "improved: run scripts/matrix.py and commit its table"
