"""How many samples a number is of, and what they leave likely, with real exports."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgeopt
from edgeopt import registry
from edgeopt.cli.app import app
from edgeopt.core import Decision, TargetResult, Verdict
from edgeopt.model.references import load_model
from edgeopt.support.proportions import wilson
from edgeopt.verify import agreement
from tests.user_folders import written

# The warnings are of torch and torchao; an export sends them to its log, but pytest would make them errors first.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ARM, TWIN = "arm-xnnpack", "portable-fp32"
NET = """
import numpy as np
import torch
from torch import nn

import edgeopt

torch.manual_seed(0)
POINTS, CLASSES = torch.randn(3000, 6), torch.randn(6, 5)
LABELS = (POINTS @ CLASSES).argmax(1).numpy()
LABELS[::10] = (LABELS[::10] + 1) % 5  # what the model gets wrong
net = nn.Sequential(nn.Linear(6, 5, bias=False))
net[0].weight.data = CLASSES.T.clone()


class Two(nn.Module):
    def forward(self, x):
        return net(x)[None]


def top1(predict):
    return {"top1": float((predict(POINTS.numpy()[:600])[0].argmax(-1).reshape(-1) == LABELS[:600]).mean())}


def rounded(predict):
    return {"top1": round(top1(predict)["top1"], 2) + 0.001}


def model(samples=300, rows=1, module=net, evaluate=top1):
    points = POINTS[: samples * rows].reshape(samples, rows, 6)
    return edgeopt.Model(module, (points[0],), calibration=[(one,) for one in points], evaluate=evaluate)


def many():
    return model(3000)


def few():
    return model(2, rows=3)


def single():
    return model(1)


def maps():
    return model(module=Two(), evaluate=None)


def few_maps():
    return model(2, module=Two(), evaluate=None)


def unclear():
    return model(evaluate=rounded)


def bare():
    return edgeopt.Model(net, (POINTS[:1],))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with written(tmp_path_factory.mktemp("intervals"), NET) as found:
        yield found


def export(folder: Path, name: str, max_drop: float | None = None) -> dict[str, TargetResult]:
    bundle = edgeopt.export(load_model(f"{folder}/net.py:{name}"), targets=[ARM], out=folder / name, max_drop=max_drop)
    return {result.target: result for result in bundle.manifest.results}


def verdict(result: TargetResult, check: str) -> Verdict | None:
    return next((one for one in result.verdicts if one.check == check), None)


def on(result: TargetResult) -> list[Decision]:
    assert result.plan is not None
    return [one for one in result.plan.decisions if one.subject == "agreement"]


def test_every_held_out_sample_counts_with_its_interval(folder: Path) -> None:
    for result in export(folder, "model").values():
        found = verdict(result, "top1_agreement")
        assert found is not None and found.value is not None and found.rows == 30
        assert found.interval == pytest.approx(wilson(round(30 * found.value), 30))
        assert on(result) == []


def test_of_many_as_many_as_are_kept_and_it_says_why_not_more(folder: Path) -> None:
    found = export(folder, "many")
    for result in found.values():
        (said,) = on(result)
        assert said.choice == "on 256 of 300 held-out samples" and "at most 256" in said.reason
    verdicts = [verdict(result, "top1_agreement") for result in found.values()]
    assert [one.rows for one in verdicts if one] == [256, 256]


def test_the_number_is_that_of_the_samples_themselves(folder: Path) -> None:
    """Counted again here, by the artifact's own runtime."""
    bundle = edgeopt.export(load_model(f"{folder}/net.py:model"), targets=[ARM], out=folder / "counted")
    result = next(one for one in bundle.manifest.results if one.target == ARM)
    predictor = registry.converter(result.format).load(bundle.artifact_path(result), threads=1)
    model = load_model(f"{folder}/net.py:model")
    held_out = [sample[0] for sample in list(model.calibration)[9::10]]  # type: ignore[arg-type]
    same = [int(predictor(one.numpy())[0].argmax() == model.module(one).detach().numpy().argmax()) for one in held_out]
    found = verdict(result, "top1_agreement")
    assert found is not None and found.value == pytest.approx(np.mean(same))


@pytest.mark.parametrize(("seconds", "model_seconds", "said"), [(12.0, 12.0, "its share of the"), (60.0, 0.0, "the model")])
def test_where_time_is_short_fewer_are_compared_and_it_says_so(
    folder: Path, seconds: float, model_seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stages", "judge"):
        monkeypatch.setattr(f"edgeopt.pipeline.{module}.SECONDS", seconds)
    for module in ("stages", "judge", "references"):
        monkeypatch.setattr(f"edgeopt.pipeline.{module}.MODEL_SECONDS", model_seconds)
    bundle = edgeopt.export(load_model(f"{folder}/net.py:many"), targets=[ARM], out=folder / "short", use_cache=False)
    for result in bundle.manifest.results:
        (decision,) = on(result)
        assert decision.choice == "on 16 of 300 held-out samples" and said in decision.reason
        found = verdict(result, "top1_agreement")
        assert found is not None and found.rows == 16 and found.interval is not None


def test_rows_of_a_batch_count_one_by_one_and_few_rows_say_little(folder: Path) -> None:
    found = verdict(export(folder, "few")[TWIN], "top1_agreement")
    assert found is not None and found.rows == 3
    assert found.interval == pytest.approx((0.4385, 1.0), abs=1e-4)


@pytest.mark.parametrize("name", ["single", "bare"])
def test_what_is_compared_on_noise_has_no_interval(folder: Path, name: str) -> None:
    for result in export(folder, name).values():
        found = verdict(result, "top1_agreement")
        assert found is not None and (found.rows, found.interval) == (None, None)
        assert on(result) == []


def test_outputs_without_class_scores_are_compared_on_the_first_few(folder: Path) -> None:
    for result in export(folder, "maps").values():
        assert verdict(result, "top1_agreement") is None
        (said,) = on(result)
        assert said.choice == "on 16 of 30 held-out samples" and "no output has class scores" in said.reason
    assert [on(result) for result in export(folder, "few_maps").values()] == [[], []]


def test_a_drop_that_the_rows_do_not_exclude_is_told_of_what_may_have_one(folder: Path) -> None:
    drop = verdict(export(folder, "model")[ARM], "accuracy_drop")
    assert drop is not None and drop.value is not None and drop.rows == 600 and drop.interval is not None
    assert drop.interval[0] < drop.value < drop.interval[1]
    found = export(folder, "model", max_drop=(drop.value + drop.interval[1]) / 2)
    (said,) = (warning for warning in found[ARM].warnings if "do not exclude" in warning)
    assert "600 rows do not exclude a drop of" in said and "let evaluate predict more" in said
    assert not any("do not exclude" in warning for warning in found[TWIN].warnings)
    assert found[ARM].status == "ok"
    enough = export(folder, "model", max_drop=drop.interval[1] + 1e-6)
    assert not any("do not exclude" in warning for warning in enough[ARM].warnings)


def test_accuracies_stand_with_their_intervals(folder: Path) -> None:
    bundle = edgeopt.export(load_model(f"{folder}/net.py:model"), targets=[ARM], out=folder / "accuracies")
    for one in (bundle.manifest.model, *bundle.manifest.results):
        assert one.accuracy_interval == pytest.approx(wilson(round(600 * one.accuracy["top1"]), 600))


def test_a_number_that_is_no_share_of_the_rows_has_none(folder: Path) -> None:
    found = export(folder, "unclear", max_drop=0.1)[ARM]
    drop = verdict(found, "accuracy_drop")
    assert drop is not None and (drop.interval, drop.rows, found.accuracy_interval) == (None, None, None)


def test_the_table_shows_the_interval_beside_the_number(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", f"{folder}/net.py:model", "--target", ARM, "--out", str(folder / "shown")], env={"COLUMNS": "120"}
    )
    assert done.exit_code == 0, done.output
    assert "agree   95 %" in done.stdout and "agreement is of 30 rows held out" in " ".join(done.stdout.split())
    stored = json.loads((folder / "shown" / "manifest.json").read_text())
    assert stored["model"]["accuracy_interval"] is not None


def test_the_limits_are_those_that_the_page_names() -> None:
    assert (agreement.SECONDS, agreement.MODEL_SECONDS) == (60.0, 12.0)
