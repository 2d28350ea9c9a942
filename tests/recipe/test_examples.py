"""The recipe that the documentation shows, on real data: from one file to a bundle. Fewer images, fewer epochs."""

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeopt.bundle.bundle import Bundle
from edgeopt.cli.app import app
from edgeopt.core import TWIN, from_json
from edgeopt.recipe.outcome import MadeFor, Outcome, Worth
from examples.fashion_mnist import data_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and torchao: an export sends them to its log


def made(measured: Worth, target: str) -> MadeFor:
    return next(found for found in measured.artifacts if (found.target, found.format) == (target, "tflite"))


def test_the_example_goes_from_one_file_to_a_bundle_a_tenth_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not data_folder().is_dir() and not os.environ.get("EDGEOPT_REQUIRE_DATA"):
        pytest.skip("Fashion-MNIST is missing: run scripts/datasets path")
    text = (EXAMPLES / "fashion_mnist.toml").read_text()
    for said, instead in (("epochs = 6", "epochs = 2"), ("max_drop = 0.02", "max_drop = 0.5"), ("[export]", EXPORT)):
        assert said in text
        text = text.replace(said, instead)
    shutil.copy(EXAMPLES / "fashion_mnist.py", tmp_path)
    (tmp_path / "recipe.toml").write_text(text)
    fewer = {"EDGEOPT_EXAMPLE_TRAIN": "2000", "EDGEOPT_EXAMPLE_TEST": "500", "EDGEOPT_CACHE": str(tmp_path / "cache")}
    for name, value in fewer.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compress", "--recipe", "recipe.toml", "--out", "out"])
    assert done.exit_code == 0, done.output
    assert "What fell the most" in done.stdout
    outcome = from_json(Outcome, (tmp_path / "out" / "outcome.json").read_bytes())
    assert [(step.technique, step.status) for step in outcome.steps] == [("distill", "kept"), ("channels", "kept")]
    assert outcome.kept.size.macs < 0.13 * outcome.original.size.macs
    before, after = made(outcome.original, TWIN), made(outcome.kept, "arm-xnnpack")
    assert before.bytes and after.bytes and before.bytes > 10 * after.bytes
    results = Bundle.load(tmp_path / "out" / "bundle").manifest.results
    assert {result.target: result.status for result in results} == dict.fromkeys((TWIN, *TARGETS), "ok")
    assert (tmp_path / "out" / "accuracy.svg").read_text().count("<svg") == 1
    assert (tmp_path / "out" / "model.pt2").is_file()


TARGETS = ("arm-xnnpack", "x86-fbgemm", "apple-ane")
EXPORT = f"[export]\ntargets = {list(TARGETS)}"
