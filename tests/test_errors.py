"""The tree drawn at the top of errors.py is the one of its classes, and of several failures the worst gives the exit code."""

import re
import runpy
from itertools import permutations
from pathlib import Path

import pytest

from edgeopt import errors
from edgeopt.errors import (
    BadAnswer,
    ConversionError,
    DeviceBusy,
    EdgeoptError,
    EvaluationError,
    FellBack,
    GateFailed,
    InputError,
    TargetFailed,
    UnknownOperator,
    Unreachable,
    VerificationFailed,
    WorkerCrashed,
    WorkerTimeout,
    worst_of,
)

ROOT = Path(__file__).parents[1]


def classes() -> set[type[EdgeoptError]]:
    found = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EdgeoptError)}
    return found - {EdgeoptError}


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and exit code by name, as the docstring has them."""
    above: list[str] = []
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}(?P<indent>(?:│   | {4})*)(?:├── |└── )(?P<name>\w+) +(?P<code>\d+) ", line)
        if match is None:
            continue
        depth = len(match["indent"]) // 4
        above = [*above[:depth], match["name"]]
        found[match["name"]] = (above[depth - 1] if depth else "EdgeoptError", int(match["code"]))
    return found


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    assert drawn() == {kind.__name__: (kind.__bases__[0].__name__, kind.exit_code) for kind in classes()}


def test_every_class_has_an_exit_code_of_its_own_that_a_shell_can_give() -> None:
    kinds: list[type[EdgeoptError]] = [*classes(), EdgeoptError]
    codes = [kind.exit_code for kind in kinds]
    assert len(codes) == len(set(codes))
    assert all(0 < code < 126 for code in codes)


WORSE_FIRST = [
    (VerificationFailed, UnknownOperator),
    (VerificationFailed, GateFailed),
    (GateFailed, WorkerCrashed),
    (GateFailed, UnknownOperator),
    (WorkerCrashed, WorkerTimeout),
    (WorkerTimeout, ConversionError),
    (EvaluationError, ConversionError),
    (InputError, UnknownOperator),
    (ConversionError, UnknownOperator),
    (TargetFailed, UnknownOperator),
    (VerificationFailed, BadAnswer),
    (BadAnswer, FellBack),
    (FellBack, Unreachable),
    (Unreachable, DeviceBusy),
]


@pytest.mark.parametrize(("worse", "other"), WORSE_FIRST, ids=lambda kind: kind.__name__)
def test_the_worse_of_two_failures_gives_the_exit_code(worse: type[EdgeoptError], other: type[EdgeoptError]) -> None:
    for names in permutations([worse.__name__, other.__name__, other.__name__]):
        assert worst_of(names) == worse.exit_code


def test_without_a_failure_the_exit_code_is_0_and_a_failure_never_gives_0() -> None:
    assert worst_of([]) == 0
    assert all(worst_of([kind.__name__]) == kind.exit_code for kind in classes())
    assert worst_of([""]) == worst_of(["NoSuchClass"]) == worst_of(["Iterable"]) == TargetFailed.exit_code


def test_the_table_of_exit_codes_is_current() -> None:
    found = runpy.run_path(str(ROOT / "scripts" / "exit_codes.py"), run_name="table")
    assert found["DOCUMENT"].read_text(encoding="utf-8") == found["markdown"](), "run scripts/exit_codes.py"
