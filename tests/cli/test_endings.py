import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgeopt import errors
from edgeopt.cli.app import app

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
RUN = CliRunner()
BAD = '''
import math
import torch
from torch import nn
import edgeopt

X = torch.ones(1, 4)


class Net(nn.Module):
    """Fails as its attributes say."""

    def __init__(self, fault=""):
        super().__init__()
        self.head, self.fault = nn.Linear(4, 2), fault

    def forward(self, x):
        if self.fault == "raises":
            raise RuntimeError("out of luck")
        if self.fault == "branches" and x.sum() > 0:
            x = -x
        if self.fault == "logs":
            x = (x - 2).log()
        if self.fault == "overflows":
            x = x * 1e38 * 1e38
        return None if self.fault == "nothing" else self.head(x)


def broken_weights():
    net = Net()
    net.head.weight.data[1, 2] = math.nan
    return edgeopt.Model(net, X)


def raising_data():
    yield X
    raise OSError("cannot read photo 1")


def raising_evaluate(predict):
    raise KeyError("labels")


good = edgeopt.Model(Net(), X)
raises, branches, logs = (edgeopt.Model(Net(fault), X) for fault in ("raises", "branches", "logs"))
overflows, nothing = (edgeopt.Model(Net(fault), X) for fault in ("overflows", "nothing"))
wrong_shape = edgeopt.Model(Net(), torch.ones(1, 5))
empty = []
nan_data = [X, X * math.nan]
infinite_data = [X / 0]
misshapen_data = [torch.ones(1, 5)]
integer_data = [torch.ones(1, 4, dtype=torch.int64)]
no_numbers = lambda predict: {"top1": "good"}
misuse = lambda predict: {"top1": len(predict(X, X))}
number = 3
'''


@pytest.fixture(autouse=True)
def _no_logging_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers that torch set up in an earlier test keep the stream of that test, which the runner has closed."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "bad.py"
    path.write_text(BAD)
    return path


def export(bad: Path, model: str, *arguments: str, out: str = "out") -> Result:
    return RUN.invoke(app, ["export", f"{bad}:{model}", "--target", "x86-fbgemm", "--out", str(bad.parent / out), *arguments])


MODELS = [
    ("missing", errors.ReferenceNotFound, "has no 'missing'"),
    ("number", errors.ModelError, "is a int, not a model"),
    ("Net", errors.InputError, "--input"),
    ("raises", errors.ForwardError, "bad.py, line 19: raise RuntimeError"),
    ("wrong_shape", errors.ForwardError, "x=1x5:float32"),
    ("branches", errors.CaptureError, "bad.py, line 20"),
    ("nothing", errors.ModelError, "returns no tensor"),
    ("broken_weights", errors.NotFiniteError, "parameter head.weight holds 1 NaN"),
    ("logs", errors.NotFiniteError, "the first NaN comes from layer"),
    ("overflows", errors.NotFiniteError, "output output holds NaN or infinity"),
]


@pytest.mark.parametrize(("model", "error", "said"), MODELS, ids=[model for model, _, _ in MODELS])
def test_a_model_that_cannot_be_used(bad: Path, model: str, error: type[errors.EdgeoptError], said: str) -> None:
    judge(export(bad, model), error, said)
    assert not (bad.parent / "out").exists()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ("missing", errors.ReferenceNotFound, "has no 'missing'"),
        ("number", errors.CalibrationError, "not calibration data"),
        ("empty", errors.CalibrationError, "the calibration data is empty"),
        ("raising_data", errors.CalibrationError, "OSError: cannot read photo 1"),
        ("nan_data", errors.NotFiniteError, "calibration sample 1 holds NaN or infinity in x"),
        ("infinite_data", errors.NotFiniteError, "calibration sample 0 holds NaN or infinity in x"),
        ("misshapen_data", errors.InputError, "has shape (1, 5), expected (1, 4)"),
        ("integer_data", errors.InputError, "is int64, expected float32"),
    ],
)
def test_calibration_data_that_cannot_be_used(bad: Path, data: str, error: type[errors.EdgeoptError], said: str) -> None:
    judge(export(bad, "good", "--calibration", f"{bad}:{data}"), error, said)
    assert not (bad.parent / "out").exists()


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("number", errors.EvaluationError, "not a function"),
        ("raising_evaluate", errors.EvaluationError, "evaluate raised on the float model"),
        ("no_numbers", errors.EvaluationError, "evaluate gave no numbers for the float model"),
        ("misuse", errors.InputError, "predict got 2 arrays, the model takes 1"),
    ],
)
def test_an_evaluate_that_cannot_be_used(bad: Path, function: str, error: type[errors.EdgeoptError], said: str) -> None:
    judge(export(bad, "good", "--evaluate", f"{bad}:{function}"), error, said)
    assert not (bad.parent / "out").exists()


def test_a_folder_that_cannot_be_written(bad: Path) -> None:
    (bad.parent / "file").write_text("mine")
    judge(export(bad, "good", out="file"), errors.OutputError, "file")
    assert (bad.parent / "file").read_text() == "mine"


def test_a_full_disk_is_told(bad: Path) -> None:
    judge(RUN.invoke(app, ["export", f"{bad}:good", "--out", "/dev/full/out"]), errors.OutputError, "/dev/full")


def test_a_missing_extra_says_the_command_that_installs_it(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.support.extras.find_spec", lambda name: None)
    judge(export(bad, "good"), errors.MissingExtra, "pip install 'edgeopt[")


@pytest.mark.parametrize(
    ("model", "error"),
    [("nowhere", errors.ReferenceNotFound), ("raises", errors.ForwardError), ("branches", errors.CaptureError)],
)
def test_the_real_process_says_one_message_and_nothing_else(
    bad: Path, tmp_path: Path, model: str, error: type[errors.EdgeoptError]
) -> None:
    command = [sys.executable, "-m", "edgeopt.cli", "export", f"{bad}:{model}", "--out", f"{tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == error.exit_code
    said = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert [line.split(": ")[0] for line in said] == ["error", *(["  cause"] if len(said) == 3 else []), "  next step"]
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_the_model_raised(bad: Path) -> None:
    done = export(bad, "raises", "--debug")
    assert done.exit_code == errors.ForwardError.exit_code
    assert "Traceback" in done.stderr
    assert "RuntimeError: out of luck" in done.stderr


def judge(done: Result, error: type[errors.EdgeoptError], said: str) -> None:
    """One message with cause or next step and the error's own exit code."""
    assert done.exit_code == error.exit_code, done.output
    assert said in done.stderr
    assert "error: " in done.stderr
    assert "next step: " in done.stderr or "cause: " in done.stderr
    assert "Traceback (most recent call last)" not in done.output.split("error: ")[-1]
