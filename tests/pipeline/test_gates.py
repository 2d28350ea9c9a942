"""The user's numbers as a release gate, with real exports: slices, numbers that do not hold, numbers that are none."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edgeopt
from edgeopt.bundle.bundle import Bundle
from edgeopt.cli.app import app
from edgeopt.core import TargetResult
from edgeopt.errors import EvaluationError, UsageError
from edgeopt.model.model import Evaluate, Model
from edgeopt.model.references import load_model
from edgeopt.support.progress import Event
from tests.user_folders import written

# The warnings are of torch and torchao; an export sends them to its log, but pytest would make them errors first.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ARM = "arm-xnnpack"
NET = """
import numpy as np
import torch
from torch import nn

import edgeopt

torch.manual_seed(0)
POINTS, CLASSES = torch.randn(600, 6), torch.randn(6, 5)
LABELS = (POINTS @ CLASSES).argmax(1).numpy()
LABELS[::10] = (LABELS[::10] + 1) % 5  # what the model gets wrong
net = nn.Sequential(nn.Linear(6, 5, bias=False))
net[0].weight.data = CLASSES.T.clone()


def numbers(predict, rows):
    right = predict(POINTS.numpy()[rows])[0].argmax(1) == LABELS[rows]
    return {"top1": float(right.mean())} | {f"top1/class={c}": float(right[LABELS[rows] == c].mean()) for c in range(5)}


def evaluate(predict):
    return numbers(predict, np.arange(600))


def whole(predict):
    return {"top1": evaluate(predict)["top1"], "top10/class=1": 1.0}


def some(predict):
    return numbers(predict, np.random.permutation(600)[:200])


def model():
    return edgeopt.Model(net, (POINTS[:1],), calibration=[(one[None],) for one in POINTS[:100]], evaluate=evaluate)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with written(tmp_path_factory.mktemp("gates"), NET) as found:
        yield found


def load(folder: Path, evaluate: str | None = None) -> Model:
    return load_model(f"{folder}/net.py:model", evaluate=evaluate and f"{folder}/net.py:{evaluate}")


def of(bundle: Bundle) -> TargetResult:
    return next(result for result in bundle.manifest.results if result.target == ARM)


def worst(bundle: Bundle) -> tuple[float, str]:
    """What the slice loses that lost the most, and its name, from the numbers themselves."""
    before, after = bundle.manifest.model.accuracy, of(bundle).accuracy
    return max((before[name] - after[name], name) for name in before if name.startswith("top1/"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    """Without a gate."""
    return edgeopt.export(load(folder), targets=[ARM], out=folder / "ungated")


def test_the_worst_slice_fails_an_artifact_that_is_good_on_average(bundle: Bundle, folder: Path) -> None:
    lost, name = worst(bundle)
    average = bundle.manifest.model.accuracy["top1"] - of(bundle).accuracy["top1"]
    limit = (lost + average) / 2
    assert average < limit < lost
    made = edgeopt.export(load(folder), targets=[ARM], out=folder / "gate", max_drop=limit, max_slice_drop=limit)
    failed = of(made)
    assert (failed.status, failed.error) == ("failed", "GateFailed")
    numbers = bundle.manifest.model.accuracy[name], of(bundle).accuracy[name]
    assert f"{name}, the worst of 5 slices: model {numbers[0]:.4f}, artifact {numbers[1]:.4f}" in failed.reason
    assert "accuracy_drop" not in failed.reason
    assert failed.artifact is not None


def test_a_gate_that_holds_passes_and_no_other_gate_s_answer_is_remembered(bundle: Bundle, folder: Path) -> None:
    lost, _ = worst(bundle)
    events: list[Event] = []
    made = edgeopt.export(load(folder), targets=[ARM], out=folder / "held", max_slice_drop=lost, listen=events.append)
    assert of(made).status == "ok"
    assert "nothing changed: from the cache" not in [event.detail for event in events]
    (verdict,) = (verdict for verdict in of(made).verdicts if verdict.check == "slice_drop")
    assert verdict.limit == lost and verdict.passed
    assert not any("evaluate gave other numbers" in warning for warning in of(made).warnings)


def test_the_command_line_takes_the_gate_from_the_configuration_file_and_shows_the_slices(folder: Path) -> None:
    lines = ['model = "net.py:model"', f'targets = ["{ARM}"]', "max_slice_drop = 0.0001", 'out = "configured"']
    (folder / "edgeopt.toml").write_text("\n".join(lines))
    failed = CliRunner().invoke(app, ["export", "--config", str(folder / "edgeopt.toml")], env={"COLUMNS": "80"})
    assert failed.exit_code == 40, failed.output
    assert "Slices that fell the most" in failed.stdout and "slice_drop" in failed.stdout
    passed = CliRunner().invoke(app, ["export", "--config", str(folder / "edgeopt.toml"), "--max-slice-drop", "1"])
    assert passed.exit_code == 0, passed.output


def test_a_gate_for_slices_without_slices_is_a_usage_error_and_writes_nothing(folder: Path) -> None:
    with pytest.raises(UsageError, match="--max-slice-drop has nothing to judge") as caught:
        edgeopt.export(load(folder, "whole"), targets=[ARM], out=folder / "none", max_slice_drop=0.1)
    assert "top10/class=1, and no slice of top1" in caught.value.why and '"top1/class=7"' in caught.value.fix
    assert not (folder / "none").exists()
    with pytest.raises(UsageError, match="max_slice_drop has nothing to judge"):
        edgeopt.export(Model(load(folder).module, load(folder).example_inputs), out=folder / "none", max_slice_drop=0.1)


def test_an_evaluate_that_draws_its_samples_is_told_on_every_result(folder: Path) -> None:
    made = edgeopt.export(load(folder, "some"), targets=[ARM], out=folder / "some", max_drop=0.9, max_slice_drop=0.9)
    for result in made.manifest.results:
        (said,) = (warning for warning in result.warnings if "evaluate gave other numbers" in warning)
        assert "cannot tell a drop of top1/class=" in said and "fix its random seed" in said


def answering(*answers: dict[str, float]) -> Evaluate:
    """Numbers for the float model, twice, then for the artifacts."""
    left = iter((answers[0], *answers))
    return lambda predict: next(left, answers[-1])


def export(folder: Path, *answers: dict[str, float], limit: float | None = 0.5) -> TargetResult:
    model = load(folder)
    given = Model(model.module, model.example_inputs, calibration=model.calibration, evaluate=answering(*answers))
    return of(edgeopt.export(given, targets=[ARM], out=folder / "answers", max_slice_drop=limit))


def test_a_slice_without_a_number_fails_the_artifact_by_name(folder: Path) -> None:
    found = export(folder, {"top1": 0.9, "top1/a": 0.9}, {"top1": 0.9, "top1/a": math.nan})
    assert (found.status, found.error) == ("failed", "EvaluationError")
    assert f"evaluate gave nan as top1/a for {ARM}/tflite" in found.reason and "leave top1/a out" in found.reason


def test_of_the_float_model_it_stops_the_export(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="evaluate gave nan as top1/a for the float model"):
        export(folder, {"top1": 0.9, "top1/a": math.nan})


@pytest.mark.parametrize(("model", "artifact"), [("top1/a", "top1/b"), ("top1/b", "top1/a")])
def test_a_slice_of_one_side_alone_passes_no_gate(folder: Path, model: str, artifact: str) -> None:
    shared = {"top1": 0.9, "top1/c": 0.9}
    found = export(folder, shared | {model: 0.9}, shared | {artifact: 0.9})
    assert (found.status, found.error) == ("failed", "EvaluationError")
    assert "evaluate gave top1/a for the" in found.reason and "always return the same names" in found.reason
    assert export(folder, shared | {model: 0.9}, shared | {artifact: 0.9}, limit=None).status == "ok"
