"""A recipe from its file to what it leaves: steps, gate, resume after a crash, a training that diverges."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from edgeopt.cli.app import app
from edgeopt.errors import BudgetUnmet, ConfigError, TrainingFailed, UnknownName
from edgeopt.model.program_file import read_program
from edgeopt.recipe.run import compress
from edgeopt.recipe.schema import read
from edgeopt.support.progress import Event

NET = """
from pathlib import Path

import torch
from torch import nn

import edgeopt

HERE = Path(__file__).parent
torch.manual_seed(0)
points = torch.randn(300, 4)
labels = (points @ torch.tensor([1.0, -2.0, 0.5, 1.0]) > 0).long()
net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
for _ in range(60):
    optimizer.zero_grad()
    torch.autograd.backward(nn.functional.cross_entropy(net(points), labels))
    optimizer.step()


def evaluate(predict):
    right = predict(points.numpy())[0].argmax(1) == labels.numpy()
    return {"accuracy": float(right.mean()), "positive": float(right[labels.numpy() == 1].mean())}


def model():
    return edgeopt.Model(net, points[:1], calibration=[(points[:50],)], evaluate=evaluate)


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(4, 2)

    def forward(self, points):
        return self.only(points)


def batches():
    for chosen in torch.randperm(300).split(50):
        yield points[chosen], labels[chosen]


def train_step(module, batch):
    with (HERE / "trained").open("a") as log:
        log.write("x")
    if (HERE / "crash").exists():
        raise RuntimeError("the power went out")
    loss = nn.functional.cross_entropy(module(batch[0]), batch[1])
    return loss * float("nan") if (HERE / "diverge").exists() else loss
"""
HEAD = 'model = "net.py:model"\n[training]\ntrain_step = "net.py:train_step"\nbatches = "net.py:batches"\n'
HALF = '[[step]]\ntechnique = "magnitude"\nsparsity = 0.5\nepochs = 2\n'
MORE = '[[step]]\ntechnique = "magnitude"\nsparsity = 0.7\nepochs = 1\n'
NEARLY_ALL = '[[step]]\ntechnique = "magnitude"\nsparsity = 0.97\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def recipe(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


def trained(folder: Path) -> int:
    """Batches trained on so far."""
    log = folder / "trained"
    return len(log.read_text()) if log.exists() else 0


def test_every_step_is_measured_and_the_result_is_an_ordinary_program(folder: Path) -> None:
    outcome = compress(read(recipe(folder, HEAD + HALF + MORE)), folder / "out")
    assert [step.status for step in outcome.steps] == ["kept", "kept"]
    assert outcome.best == 2
    assert outcome.kept.size.zstd_bytes < outcome.original.size.zstd_bytes
    program = read_program(folder / "out" / "model.pt2")
    weights = [value for name, value in program.state_dict.items() if name.endswith("weight")]
    zero = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    assert zero == pytest.approx(0.7, abs=0.01)
    written = json.loads((folder / "out" / "outcome.json").read_text())
    assert written["steps"][0]["measured"]["scores"]["accuracy"] == outcome.steps[0].measured.scores["accuracy"]


def test_the_gate_stops_and_keeps_what_was_good(folder: Path) -> None:
    outcome = compress(read(recipe(folder, "max_drop = 0.05\n" + HEAD + HALF + NEARLY_ALL + MORE)), folder / "out")
    assert [step.status for step in outcome.steps] == ["kept", "stopped"]
    assert outcome.best == 1
    assert "max_drop 0.05" in outcome.steps[1].reason
    assert read_program(folder / "out" / "model.pt2").state_dict["2.weight"].eq(0).float().mean() < 0.6


def test_after_a_crash_in_training_the_steps_before_are_not_done_again(folder: Path) -> None:
    text = HEAD + HALF + MORE
    compress(read(recipe(folder, HEAD + HALF)), folder / "out")
    (folder / "crash").touch()
    with pytest.raises(TrainingFailed, match="the power went out"):
        compress(read(recipe(folder, text)), folder / "out")
    (folder / "crash").unlink()
    before, events = trained(folder), list[Event]()
    resumed = compress(read(recipe(folder, text)), folder / "out", events.append)
    assert trained(folder) - before == 6  # one epoch of the second step alone
    assert ("1 magnitude", "from the run before") in {(event.subject, event.detail) for event in events}
    alone = compress(read(recipe(folder, text)), folder / "alone", resume=False)
    assert resumed.kept.scores == alone.kept.scores
    again = read_program(folder / "alone" / "model.pt2").state_dict
    assert all(torch.equal(value, again[name]) for name, value in read_program(folder / "out" / "model.pt2").state_dict.items())


def test_a_student_of_another_class_is_taken_from_the_run_before(folder: Path) -> None:
    text = HEAD + '[[step]]\ntechnique = "distill"\nstudent = "net.py:Student"\nprogressive = "off"\nepochs = 2\n'
    compress(read(recipe(folder, text)), folder / "out")
    before = trained(folder)
    again = compress(read(recipe(folder, text)), folder / "out")
    assert trained(folder) == before
    assert again.kept.size.parameters == 10


def test_a_changed_step_is_done_again(folder: Path) -> None:
    compress(read(recipe(folder, HEAD + HALF)), folder / "out")
    before = trained(folder)
    compress(read(recipe(folder, HEAD + HALF.replace("0.5", "0.6"))), folder / "out")
    assert trained(folder) > before


def test_a_training_that_diverges_leaves_the_steps_before(folder: Path) -> None:
    compress(read(recipe(folder, HEAD + HALF)), folder / "out")
    (folder / "diverge").touch()
    with pytest.raises(TrainingFailed, match="nan") as caught:
        compress(read(recipe(folder, HEAD + HALF + MORE)), folder / "out")
    assert "learning rate" in str(caught.value)
    assert json.loads((folder / "out" / "outcome.json").read_text())["best"] == 1


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (HEAD + '[[step]]\ntechnique = "magnitud"', UnknownName, "did you mean 'magnitude'"),
        (HEAD + '[[step]]\ntechnique = "magnitude"\nsparsty = 0.5', ConfigError, "did you mean 'sparsity'"),
        (HEAD + '[[step]]\ntechnique = "magnitude"\nsparsity = 1.5', ConfigError, "step 1: magnitude does not fit"),
        ('model = "net.py:model"\n' + HALF, ConfigError, "no training"),
        (HEAD + '[[step]]\ntechnique = "magnitude"\nlatency = 0.5', ConfigError, "needs a target"),
    ],
)
def test_what_cannot_be_is_told_before_any_training(folder: Path, text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        compress(read(recipe(folder, text)), folder / "out")
    assert trained(folder) == 0


@pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
@pytest.mark.slow
def test_a_result_beyond_the_recipes_budget_is_told_with_both_figures_and_ends_as_failed(folder: Path) -> None:
    text = 'target = "x86-fbgemm"\n' + HEAD + HALF
    within = compress(read(recipe(folder, "max_bytes = 1000000\n" + text)), folder / "out")
    made = within.kept.bytes_of("x86-fbgemm")
    assert within.over == "" and made
    path = recipe(folder, f"max_bytes = {made - 1}\n" + text)
    over = compress(read(path), folder / "out").over
    assert over == f"{made:,} bytes, and max_bytes is {made - 1:,}"
    shown = CliRunner().invoke(app, ["compress", "--recipe", str(path), "--out", str(folder / "out")])
    assert shown.exit_code == BudgetUnmet.exit_code
