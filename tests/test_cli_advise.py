"""``edgeopt advise`` from the command line to a recipe that ``edgeopt compress`` reads."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeopt import errors
from edgeopt.cli import app
from edgeopt.recipe import schema

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
RUN = CliRunner()

NET = """
import torch
from torch import nn
import edgeopt

def model():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    return edgeopt.Model(net, (torch.randn(1, 1, 16, 16),), evaluate=lambda predict: {"score": 1.0})

def train_step(net, batch):
    return net(batch).pow(2).mean()

def batches():
    yield torch.randn(4, 1, 16, 16)

def bare():
    return nn.Linear(4, 2)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path}/net.py"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{net}:model", "--target", "arm-xnpack"], 4, "arm-xnnpack"),
        (["{net}:model", "--target", "arm-xnnpack", "--max-size", "4"], 2, "write it as 4MB"),
        (["{net}:model", "--target", "arm-xnnpack", "--max-latency", "4MB"], 2, "write it as 20ms"),
        (["{net}:model", "--target", "arm-xnnpack", "--format", "jsn"], 2, "did you mean 'json'"),
        (["{net}:model", "--target", "arm-xnnpack", "--write", "{net}"], 2, "exists"),
        (["{net}:model", "--target", "arm-xnnpack", "--write", "r.toml", "--input", "1x4"], 2, "do not go together"),
        (["{net}:bare", "--target", "arm-xnnpack"], 12, "pass --input"),
        (["{net}:bare", "--target", "arm-xnnpack", "--input", "1x4", "--max-drop", "0.1"], 2, "add --evaluate"),
        (["{net}:bare", "--target", "arm-xnnpack", "--input", "1x4", "--sensitivity", "x.svg"], 2, "add --evaluate"),
    ],
)
def test_bad_input_gives_one_message_and_its_exit_code(net: str, arguments: list[str], code: int, said: str) -> None:
    done = RUN.invoke(app, ["advise", *(argument.format(net=net) for argument in arguments)])
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.slow
def test_advice_is_printed_and_written_as_a_recipe(net: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "recipe.toml"
    arguments = ["advise", f"{net}:model", "--target", "arm-xnnpack", "--max-size", "22kB", "--max-drop", "0.02"]
    done = RUN.invoke(
        app, [*arguments, "--write", str(recipe), "--sensitivity", str(tmp_path / "scan.svg"), "--scan-time", "20s"]
    )
    assert done.exit_code == 0, done.output
    assert "1 channels" in done.stdout
    assert "magnitude: unstructured zeros give no speed" in done.stdout
    assert "What score loses" in done.stdout
    assert (tmp_path / "scan.svg").exists()
    read = schema.read(recipe)
    assert Path(read.model.rpartition(":")[0]).resolve() == Path(net).resolve()
    assert (read.target, read.max_drop, [step.technique for step in read.steps]) == ("arm-xnnpack", 0.02, ["channels"])
    assert read.training.train_step is not None
    assert read.training.train_step.endswith("net.py:train_step")
    assert read.steps[0].epochs > 0


@pytest.mark.slow
def test_a_latency_is_that_of_the_target_s_artifact_here_and_json_is_json(net: str) -> None:
    done = RUN.invoke(app, ["advise", f"{net}:model", "--target", "x86-fbgemm", "--max-latency", "10s", "--format", "json"])
    assert done.exit_code == 0, done.output
    advice = json.loads(done.stdout)
    assert advice["before"]["latency_ms"] > 0
    assert advice["steps"] == []


@pytest.mark.slow
def test_a_size_out_of_reach_has_its_own_exit_code(net: str) -> None:
    done = RUN.invoke(app, ["advise", f"{net}:model", "--target", "arm-xnnpack", "--max-size", "100B"])
    assert done.exit_code == errors.BudgetUnmet.exit_code
    assert "the nearest is" in done.stderr
