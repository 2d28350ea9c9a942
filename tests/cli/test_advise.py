"""``edgeopt advise`` from the command line to a recipe that ``edgeopt compress`` reads."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeopt import errors
from edgeopt.cli.app import app
from edgeopt.core import from_json
from edgeopt.recipe import schema
from edgeopt.recipe.outcome import Outcome

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

def bare():
    return nn.Linear(4, 2)
"""

DIGITS = """
import torch
from sklearn.datasets import load_digits
from torch import nn
import edgeopt

digits = load_digits()
images = torch.from_numpy(digits.images[:, None] / 16).float()
labels = torch.from_numpy(digits.target)

def evaluate(predict):
    return {"accuracy": float((predict(images[1400:].numpy())[0].argmax(1) == labels[1400:].numpy()).mean())}

def train_step(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])

def batches():
    yield from zip(images[:1400].split(50), labels[:1400].split(50))

def model():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(5):
        for batch in batches():
            optimizer.zero_grad()
            train_step(net, batch).backward()
            optimizer.step()
    samples = [(image[None],) for image in images[:50]]
    return edgeopt.Model(net.eval(), (images[:1],), calibration=samples, evaluate=evaluate, name="digits")
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
        (["{net}:bare", "--target", "arm-xnnpack", "--input", "1x4", "--scan", "5s"], 2, "add --evaluate"),
    ],
)
def test_bad_input_gives_one_message_and_its_exit_code(net: str, arguments: list[str], code: int, said: str) -> None:
    done = RUN.invoke(app, ["advise", *(argument.format(net=net) for argument in arguments)])
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.slow
def test_what_is_advised_runs_as_it_is_written_and_comes_out_as_expected(tmp_path: Path) -> None:
    """A CNN on real digits: scanned, planned for a size, written; then compressed, trained and exported by that recipe."""
    (tmp_path / "net.py").write_text(DIGITS)
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "recipe.toml"
    arguments = ["advise", f"{tmp_path}/net.py:model", "--target", "arm-xnnpack", "--max-size", "26kB"]
    done = RUN.invoke(app, [*arguments, "--write", str(recipe), "--scan", "600s"])
    assert done.exit_code == 0, done.output
    assert "1 channels" in done.stdout
    assert "magnitude: unstructured zeros give no speed" in done.stdout
    assert "What accuracy loses" in done.stdout
    assert (tmp_path / "recipes" / "recipe-sensitivity.svg").exists()

    read = schema.read(recipe)
    assert read.model == str(tmp_path / "recipes" / "../net.py:model")
    assert (read.target, [step.technique for step in read.steps]) == ("arm-xnnpack", ["channels"])
    assert read.steps[0].settings["exclude"] == ["0"]  # little work, and every other layer lives on it
    assert "0 loses" in recipe.read_text()

    done = RUN.invoke(app, ["compress", "--recipe", str(recipe), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    outcome = from_json(Outcome, (tmp_path / "out" / "outcome.json").read_bytes())
    parameters, macs, size = expected(recipe)
    assert (outcome.kept.size.parameters, outcome.kept.size.macs) == (parameters, macs)
    (made,) = (one.bytes for one in outcome.kept.artifacts if one.target == "arm-xnnpack")
    assert made == pytest.approx(size, rel=0.05)
    assert outcome.best == 1


def expected(recipe: Path) -> tuple[int, ...]:
    """What the last step's comment says: parameters, MACs, bytes."""
    (*_, line) = (line for line in recipe.read_text().splitlines() if line.endswith("bytes expected"))
    return tuple(int(word.replace(",", "")) for word in line.split() if word[0].isdigit())


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
