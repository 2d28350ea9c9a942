"""What channels may be told to reach, from a recipe: MACs, size, and latency here and on an ARM64 board over SSH."""

import json
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from torch import nn

from edgeopt.bench.types import BenchSettings
from edgeopt.errors import BudgetUnmet, DeviceError
from edgeopt.recipe import measure
from edgeopt.recipe.goal import Times
from edgeopt.recipe.outcome import Outcome, StepOutcome
from edgeopt.recipe.run import compress
from edgeopt.recipe.schema import read
from edgeopt.report.compress_plot import write_plot
from edgeopt.report.compress_view import print_outcome
from edgeopt.support.progress import Event
from tests.emulators.arm64 import Board, switched_on
from tests.recipe.test_run import recipe

NET = """
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import edgeopt

digits = load_digits()
images = torch.from_numpy((digits.images[:, None] / 16).astype(np.float32))
labels = torch.from_numpy(digits.target)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(8192, 10),
)


def evaluate(predict):
    return {"accuracy": float(np.mean([predict(one[None])[0].argmax() == label for one, label in
        zip(images[:50].numpy(), digits.target)]))}


def model():
    return edgeopt.Model(net, images[:1], calibration=[(images[:1],)], evaluate=evaluate)


def train_step(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def batches():
    yield from zip(images[:200].split(50), labels.split(50))
"""
HEAD = 'model = "net.py:model"\n'
TRAINING = '[training]\ntrain_step = "net.py:train_step"\nbatches = "net.py:batches"\n'
CHANNELS = '[[step]]\ntechnique = "channels"\n'
LATENCY = CHANNELS + "multiple = 64\nepochs = 1\n"
"""Few widths to try, far apart: 128 and 64 channels, the one twice as fast as the other and more."""
IN_PROCESS = pytest.mark.filterwarnings("ignore")  # of torch and torchao, which export here
QUICK = BenchSettings(launches=1, min_runs=50, min_seconds=0.2, max_seconds=2.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "devices.toml").write_text(f'[local]\nurl = "local"\nroot = "{tmp_path}/local"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "TIMING", QUICK)
    return tmp_path


@pytest.fixture
def board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Switched on, with a name in devices.toml and ONNX Runtime."""
    with switched_on(folder / "files") as found:
        monkeypatch.setenv("EDGEOPT_SSH_CONFIG", str(found.ssh_config))
        with (folder / "devices.toml").open("a") as known:
            known.write(f'[board]\nurl = "{found.url}"\n')
        command = [sys.executable, "-m", "edgeopt.cli", "devices", "setup", "board", "--runtime", "onnx"]
        subprocess.run(command, check=True, capture_output=True)
        yield found


def test_a_module_is_timed_once_even_over_two_runs_but_not_for_another_step(tmp_path: Path) -> None:
    timed = list[nn.Module]()

    def time(module: nn.Module) -> float:
        timed.append(module)
        return float(len(timed))

    one, other = nn.Linear(2, 2), nn.Linear(2, 3)
    times = Times(tmp_path / "latency" / "times.json", "key", time)
    times.put(other, 7.0)
    assert [times(one), times(deepcopy(one)), times(other)] == [1.0, 1.0, 7.0]
    assert Times(times.path, "key", time)(one) == 1.0
    assert Times(times.path, "another", time)(one) == 2.0
    assert Times(tmp_path / "none.json", None, time)(one) == 3.0
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize("goal", ["macs", "parameters"])
def test_channels_reach_the_share_of_what_they_were_told(folder: Path, goal: str) -> None:
    text = HEAD + CHANNELS + f'measure = "{goal}"\namount = 0.3\nmultiple = 1\n'
    outcome = compress(read(recipe(folder, text)), folder / "out")
    before, after = outcome.original.size, outcome.kept.size
    shares = {"macs": after.macs / before.macs, "parameters": after.parameters / before.parameters}
    assert 0.67 < shares.pop(goal) <= 0.7
    assert not 0.67 < shares.popitem()[1] <= 0.7  # what it was not told is somewhere else


def assert_reached(outcome: Outcome, share: float) -> StepOutcome:
    """The goal was measured as reached, with the smallest amount tried that reached it; this is recorded."""
    (step,) = outcome.steps
    goal, before = step.goal, outcome.original.ms_of(outcome.target)
    assert goal is not None
    assert before is not None
    assert step.measured.ms_of(outcome.target) is not None
    assert goal.original_ms == before
    assert goal.ms == share * before
    assert step.measured.size.macs < share * outcome.original.size.macs  # its own time, after training, is a measurement more
    assert step.record.settings["amount"] == goal.amount
    assert [trial.ms is not None and trial.ms <= goal.ms for trial in goal.trials] == [
        trial.amount >= goal.amount for trial in goal.trials
    ]
    assert step.record.changed
    return step


@pytest.mark.slow
@IN_PROCESS
def test_a_latency_goal_is_reached_on_this_computer_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, out = HEAD + 'target = "x86-fbgemm"\n' + TRAINING + LATENCY, folder / "out"
    outcome = compress(read(recipe(folder, head + "latency = 0.7\n")), out)
    step = assert_reached(outcome, 0.7)
    written = json.loads((out / "outcome.json").read_text())
    assert written["device"] == "local"
    assert written["steps"][0]["goal"]["amount"] == step.record.settings["amount"]
    print_outcome(outcome, out)
    said = " ".join(capsys.readouterr().out.split())
    assert f"latency: the goal, 0.7 of the original's {outcome.original.ms_of('x86-fbgemm'):.3g} ms on local" in said
    write_plot(outcome, out / "accuracy.svg")
    assert "x86-fbgemm: ms on local" in (out / "accuracy.svg").read_text()
    with pytest.raises(BudgetUnmet, match=r"cannot be reached this way\n  cause: the fastest that was tried, amount 0\.90"):
        compress(read(recipe(folder, head + "latency = 0.01\n")), out)


@pytest.mark.slow
@pytest.mark.device
@IN_PROCESS
def test_a_board_that_goes_away_while_a_latency_goal_is_looked_for_costs_nothing(folder: Path, board: Board) -> None:
    told = list[str]()

    def lose(event: Event) -> None:
        told.append(event.subject)
        if "1 channels, amount 0.90" in told and "launch 1" in event.detail:
            board.stop()

    path, out = (
        recipe(folder, HEAD + 'target = "arm-ort"\ndevice = "board"\n' + TRAINING + LATENCY + "latency = 0.6\n"),
        folder / "out",
    )
    while "1 channels, amount 0.90" not in told:  # an emulated board on a busy machine may be lost before it is stopped
        with pytest.raises(DeviceError, match=r"board measured no latency of arm-ort[\s\S]*run the same command again"):
            compress(read(path), out, lose)
    original = (out / "steps" / "0-original" / "original.json").read_bytes()
    known = json.loads((out / "steps" / "1-channels" / "latency" / "times.json").read_text())["ms"].values()
    assert len(known) == 2  # the original's, and the trial's
    board.start()
    step = assert_reached(compress(read(path), out), 0.6)
    assert (out / "steps" / "0-original" / "original.json").read_bytes() == original
    assert step.goal
    assert step.goal.trials[0].ms in known
