"""Mutants of everything that others write, of a fixed seed; and what such mutants have found."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.parsers.attempt import attempt
from tests.fuzz.parsers.doors import DOORS
from tests.fuzz.parsers.mutate import mutant

ROOT = Path(__file__).parents[2]
LIGHT = tuple(name for name, door in DOORS.items() if not door.imports)
GROUPS: dict[tuple[str, ...], int] = {
    LIGHT: 80, ("manifest", "recipe"): 80, ("onnx", "tflite"): 120, ("mlpackage",): 10, ("pt2", "pt2-json"): 10,
}  # fmt: skip
"""How many mutants of each; those of the last ones take longest, since their samples are made by coremltools and torch."""


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_mutants_are_refused_in_edgeopt_s_words_or_taken(names: tuple[str, ...], tmp_path: Path) -> None:
    """In a process of its own, without the threads of this one: it forks."""
    options = ["--count", str(GROUPS[names]), "--only", ",".join(names), "--keep", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fuzz.parsers", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"\n{GROUPS[names] * len(names)} mutants" in done.stdout


def test_every_door_is_tried() -> None:
    assert {name for names in GROUPS for name in names} == set(DOORS)


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, where another test has imported it
def test_what_a_door_must_not_do_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")

    def hungry(path: Path) -> None:
        bytearray(3 << 30)

    def failing(path: Path) -> None:
        raise KeyError(path.name)

    def ending(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    assert attempt(hungry, path).kind == "memory"
    assert attempt(failing, path).kind == "KeyError"
    assert attempt(ending, path).kind == "crash"
    assert attempt(lambda path: None, path).kind == "taken"


def test_a_seed_gives_the_same_mutant() -> None:
    content = b'{"a": 1, "b": ["c", 2.5]}\n' * 3
    for text in (False, True):
        made = [mutant(content, Random(seed), text) for seed in range(50)]
        assert made == [mutant(content, Random(seed), text) for seed in range(50)]
        assert len(set(made)) > 40
