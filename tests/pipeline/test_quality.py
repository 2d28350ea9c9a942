"""``--quality``: how much is done for integers, what the plan says of it, and that no cache answers one with another."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edgeopt
from edgeopt.cli.app import app
from edgeopt.core import Quality, TargetResult
from edgeopt.model.model import Model
from edgeopt.pipeline.jobs import Job, jobs_of
from edgeopt.targets import loader
from tests.quantize.detectors import images

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def uneven() -> nn.Module:
    """Depthwise behind a convolution whose channels are of very different scale: equalization gains there."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.ReLU(), nn.Conv2d(24, 16, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-1.5, 0, 24)[:, None, None, None])
    return net.eval()


def made(folder: Path, quality: Quality, use_cache: bool = False) -> TargetResult:
    model = Model(uneven(), (images(1)[0],), calibration=lambda: [(one,) for one in images(40)], name="net")
    bundle = edgeopt.export(model, targets=["x86-fbgemm"], out=folder / quality, quality=quality, use_cache=use_cache)
    return next(one for one in bundle.manifest.results if one.target == "x86-fbgemm")


def said(result: TargetResult) -> dict[str, str]:
    assert result.plan is not None
    return {one.subject: one.choice for one in result.plan.decisions}


def sqnr(result: TargetResult) -> float:
    return next(one.value for one in result.verdicts if one.check == "sqnr_float")


@pytest.mark.slow
def test_fast_leaves_the_weights_as_they_are_and_balanced_keeps_more(tmp_path: Path) -> None:
    fast, balanced = made(tmp_path, "fast"), made(tmp_path, "balanced")
    assert said(fast)["quality"] == "fast" and said(balanced)["quality"] == "balanced"
    assert not {"activations", "weights"} & set(said(fast))
    assert "values equalized" in said(balanced)["activations"] and "rounded against" in said(balanced)["weights"]
    assert sqnr(balanced) > sqnr(fast) + 1


@pytest.mark.slow
def test_best_searches_ranges_too_and_says_of_how_many(tmp_path: Path) -> None:
    best = made(tmp_path, "best")
    assert best.status == "ok" and said(best)["quality"] == "best"
    assert said(best)["ranges of activations"].startswith("chosen by their outputs for ")
    assert "rounded against" in said(best)["weights"]


@pytest.mark.slow
def test_what_is_cached_for_one_quality_is_no_answer_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    found = [made(tmp_path, quality, use_cache=True) for quality in ("fast", "balanced", "fast")]
    digests = [one.artifact.sha256 for one in found if one.artifact]
    assert digests[0] == digests[2] != digests[1]


def test_float_conversions_do_not_depend_on_it() -> None:
    def job(target: str, quality: Quality) -> Job:
        return jobs_of([loader.load(target)], False, quality=quality)[0]

    assert job("apple-ane-fp16", "fast").conversion() == job("apple-ane-fp16", "best").conversion()
    assert job("x86-fbgemm", "fast").conversion() != job("x86-fbgemm", "best").conversion()


def test_another_word_is_refused_with_the_words_there_are() -> None:
    done = CliRunner().invoke(app, ["plan", "net.py:model", "--quality", "perfect"])
    assert done.exit_code == 2
    assert "--quality" in done.output and "'balanced'" in done.output
