"""What the user's own code may do on the way: leave the program, want arguments, never end, give numbers of any kind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeopt import errors
from edgeopt.bundle.bundle import Bundle
from edgeopt.cli.app import app
from tests.cli.test_app import RUN
from tests.cli.test_endings import judge

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
ODD = """
import itertools
import sys

import numpy as np
import torch
from torch import nn

import edgeopt

X = torch.ones(1, 4)


class Net(nn.Module):
    def __init__(self, fault=""):
        super().__init__()
        self.head, self.fault = nn.Linear(4, 2), fault

    def forward(self, x):
        if self.fault == "exits":
            sys.exit(0)
        if self.fault == "speechless":
            raise Speechless
        return self.head(x)


class Speechless(BaseException):
    def __str__(self):
        raise ValueError("nothing to say")


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.table(ids))


def speechless_evaluate(predict):
    raise Speechless


def exiting():
    yield X
    sys.exit(0)


def wants_a_folder(folder):
    return [X]


def endless():
    while True:
        yield X


def exiting_evaluate(predict):
    predict(X)
    sys.exit(0)


calls = []


def exiting_on_artifacts(predict):
    calls.append(1)
    if len(calls) > 2:  # the float model is asked for twice
        sys.exit(0)
    return {"top1": np.float32(1)}


def scalars(predict):
    return {"[bold]top1\\n": np.float32(predict(X)[0].sum()), "all": np.bool_(True), "wide": torch.tensor(3)}


generator = (X for _ in range(3))
same_generator = lambda: generator
good, exits, speechless = (edgeopt.Model(Net(fault), X) for fault in ("", "exits", "speechless"))
table = edgeopt.Model(Table(), torch.zeros(1, 3, dtype=torch.int64))
ids = [torch.tensor([[1, 2, 3]])] * 3
recorded, held_out = [torch.tensor([[1, 2, 10]]), *ids], [*ids, torch.tensor([[1, 2, 10]])]
wide = edgeopt.Model(Net(), torch.ones(8, 4))
few = [torch.ones(3, 4), torch.ones(2, 4)]
numpy_pairs = [(np.ones((3, 4)), np.zeros(3))] * 2
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "odd.py"
    path.write_text(ODD)
    return path


@pytest.mark.parametrize(
    ("model", "option", "name", "error", "said"),
    [
        ("exits", "", "", errors.ForwardError, "odd.py, line 21: sys.exit(0)\n  cause: SystemExit: 0"),
        ("speechless", "", "", errors.ForwardError, "odd.py, line 23: raise Speechless\n  cause: Speechless"),
        ("good", "--evaluate", "speechless_evaluate", errors.EvaluationError, "cause: Speechless ("),
        ("good", "--calibration", "exiting", errors.CalibrationError, "cause: SystemExit: 0 ("),
        ("good", "--calibration", "wants_a_folder", errors.CalibrationError, "takes no arguments"),
        ("wide", "--calibration", "few", errors.CalibrationError, "5 rows came (the last batch: 2x4)"),
        ("table", "--calibration", "recorded", errors.ForwardError, "raised on calibration sample 0 in layer table"),
        ("table", "--calibration", "held_out", errors.ForwardError, "sample of the calibration data in layer table at "),
        ("good", "--evaluate", "exiting_evaluate", errors.EvaluationError, "cause: SystemExit: 0 ("),
        ("good", "--evaluate", "exiting", errors.EvaluationError, "takes 0 positional arguments but 1 was given"),
    ],
)
def test_what_the_user_s_code_does_has_an_error_with_its_line_and_never_the_exit_code_0(
    odd: Path, model: str, option: str, name: str, error: type[errors.EdgeoptError], said: str
) -> None:
    more = [option, f"{odd}:{name}"] if option else []
    out = str(odd.parent / "out")
    judge(RUN.invoke(app, ["export", f"{odd}:{model}", "--target", "portable-fp32", "--out", out, *more]), error, said)
    assert not (odd.parent / "out").exists()


@pytest.mark.slow
def test_an_exit_from_evaluate_on_an_artifact_fails_the_artifact(odd: Path) -> None:
    arguments = ["--target", "portable-fp32", "--out", f"{odd.parent}/exits", "--evaluate", f"{odd}:exiting_on_artifacts"]
    done = RUN.invoke(app, ["export", f"{odd}:good", *arguments])
    assert done.exit_code == errors.EvaluationError.exit_code
    results = Bundle.load(odd.parent / "exits").manifest.results
    assert {result.status for result in results} == {"failed"}
    assert all("SystemExit: 0" in result.reason for result in results)


@pytest.mark.slow
def test_numbers_of_numpy_and_torch_under_odd_names_are_kept(odd: Path) -> None:
    arguments = ["--target", "portable-fp32", "--out", f"{odd.parent}/scalars", "--evaluate", f"{odd}:scalars"]
    arguments += ["--calibration", f"{odd}:numpy_pairs"]
    done = RUN.invoke(app, ["export", f"{odd}:good", *arguments])
    assert done.exit_code == 0, done.output
    manifest = Bundle.load(odd.parent / "scalars").manifest
    assert list(manifest.model.accuracy) == ["[bold]top1\n", "all", "wide"]
    assert (manifest.model.accuracy["all"], manifest.model.accuracy["wide"]) == (1.0, 3.0)
    assert manifest.calibration == "6 samples"


@pytest.mark.slow
def test_a_function_that_gives_one_generator_again_is_read_once(odd: Path) -> None:
    arguments = ["--target", "portable-fp32", "--out", f"{odd.parent}/same", "--calibration", f"{odd}:same_generator"]
    done = RUN.invoke(app, ["export", f"{odd}:good", *arguments])
    assert done.exit_code == 0, done.output
    assert Bundle.load(odd.parent / "same").manifest.calibration == "3 samples"


@pytest.mark.slow
def test_data_without_an_end_is_told_as_it_is_read_and_ctrl_c_ends_it(odd: Path) -> None:
    command = [sys.executable, "-u", "-m", "edgeopt.cli", "export", f"{odd}:good", "--calibration", f"{odd}:endless"]
    command += ["--target", "portable-fp32", "--out", f"{odd.parent}/endless"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        told = next((line for line in run.stderr if "islice" in line), "")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    assert "10000 samples so far" in told
    assert run.returncode == errors.INTERRUPTED_EXIT_CODE
    assert not (odd.parent / "endless").exists()
