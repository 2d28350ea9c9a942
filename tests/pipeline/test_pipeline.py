import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import edgeopt
from edgeopt.bundle.bundle import Bundle
from edgeopt.cli.app import app
from edgeopt.core import TargetResult
from edgeopt.model.model import Model
from edgeopt.model.references import load_model
from edgeopt.support.files import sha256_of
from edgeopt.support.progress import Event
from tests.user_folders import written

# The warnings are of torch and torchao; an export sends them to its log, but pytest would make them errors first.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
TARGETS = ("arm-xnnpack", "android-nnapi", "x86-fbgemm", "apple-ane")
NET = """
import numpy as np
import torch
from torch import nn

import edgeopt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16, 5)

    def forward(self, image):
        hidden = self.stem(image).relu()
        return self.head((hidden + self.body(hidden).relu()).mean((2, 3)))


torch.manual_seed(0)
IMAGES = torch.randn(12, 1, 3, 16, 16)
net = Net()


def evaluate(predict):
    with torch.no_grad():
        expected = [int(net(image).argmax()) for image in IMAGES]
    return {"agreement": float(np.mean([predict(i.numpy())[0].argmax() == e for i, e in zip(IMAGES, expected)]))}


model = edgeopt.Model(net.eval(), IMAGES[:1, 0], calibration=list(IMAGES), evaluate=evaluate)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the user's file and a cache that is empty at first."""
    with written(tmp_path_factory.mktemp("pipeline"), NET) as found:
        yield found


def load(folder: Path) -> Model:
    return load_model(f"{folder}/net.py:model")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return edgeopt.export(load(folder), targets=TARGETS, out=folder / "first", max_drop=0.2)


def results(bundle: Bundle) -> dict[str, TargetResult]:
    return {f"{result.target}/{result.format}": result for result in bundle.manifest.results}


def digests(bundle: Bundle) -> dict[str, str]:
    return {result.artifact.path: result.artifact.sha256 for result in bundle.manifest.results if result.artifact}


def test_every_target_is_made_and_the_twins_always(bundle: Bundle) -> None:
    found = results(bundle)
    assert {name: result.status for name, result in found.items()} == dict.fromkeys(
        ("portable-fp32/onnx", "portable-fp32/tflite", "arm-xnnpack/tflite", "android-nnapi/tflite", "x86-fbgemm/onnx",
         "apple-ane/coreml"), "ok",
    )  # fmt: skip
    assert all(result.calibrated for result in found.values())
    for result in found.values():
        assert result.artifact is not None
        assert sha256_of(bundle.path / result.artifact.path) == result.artifact.sha256
        assert (result.latency is not None) == (result.format != "coreml")
        assert "agreement" in result.accuracy


def test_the_bundle_that_was_written_says_the_same(bundle: Bundle) -> None:
    assert Bundle.load(bundle.path) == bundle
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle.path, check=True)


def test_targets_that_ask_for_the_same_bytes_share_one_conversion(bundle: Bundle) -> None:
    found = results(bundle)
    first, shared = found["arm-xnnpack/tflite"], found["android-nnapi/tflite"]
    assert first.artifact is not None
    assert shared.artifact is not None
    assert first.artifact.sha256 == shared.artifact.sha256
    assert shared.plan is not None
    assert "shared with arm-xnnpack" in [decision.choice for decision in shared.plan.decisions]
    assert any("legacy" in warning for warning in shared.warnings)


def test_the_same_export_again_in_one_process_does_nothing(bundle: Bundle, folder: Path) -> None:
    events: list[Event] = []
    again = edgeopt.export(load(folder), targets=TARGETS, out=folder / "again", max_drop=0.2, listen=events.append)
    assert [one.detail for one in events] == ["nothing changed: from the cache"]
    assert again.manifest == bundle.manifest


def test_one_more_target_takes_the_others_from_the_cache(bundle: Bundle, folder: Path) -> None:
    events: list[Event] = []
    more = edgeopt.export(load(folder), targets=(*TARGETS, "arm-ort"), out=folder / "more", listen=events.append)
    converted = {one.subject for one in events if one.phase == "quantize"}
    assert converted == {"arm-ort/onnx"}
    assert digests(bundle).items() <= digests(more).items()


def test_numbers_from_the_cache_are_those_of_the_samples_held_out_now(bundle: Bundle, folder: Path) -> None:
    """A float artifact's bytes do not depend on the data, so another export's are taken; its numbers do."""
    other = replace(load(folder), calibration=[100 * torch.randn(1, 3, 16, 16) for _ in range(12)], evaluate=None)
    events: list[Event] = []
    cached = results(edgeopt.export(other, targets=["portable-fp32"], out=folder / "samples", listen=events.append))
    anew = results(edgeopt.export(other, targets=["portable-fp32"], out=folder / "anew", use_cache=False))
    assert "unchanged: from the cache" in [one.detail for one in events]
    for name, result in cached.items():
        assert result.verdicts == anew[name].verdicts
        assert result.verdicts != results(bundle)[name].verdicts


def run(folder: Path, out: str, *arguments: str) -> tuple[Bundle, str]:
    """The bundle that the command line makes, and what it said."""
    done = CliRunner().invoke(app, ["export", f"{folder}/net.py:model", "--out", str(folder / out), *arguments])
    assert done.exit_code == 0, done.output
    return Bundle.load(folder / out), done.stdout + done.stderr


def run_elsewhere(folder: Path, out: str, *arguments: str) -> tuple[Bundle, str]:
    """As ``run``, in a process of its own."""
    command = [sys.executable, "-m", "edgeopt.cli", "export", f"{folder}/net.py:model", "--out", str(folder / out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Bundle.load(folder / out), done.stdout + done.stderr


def test_another_process_makes_the_same_bytes(bundle: Bundle, folder: Path) -> None:
    other, _ = run_elsewhere(folder, "other", "--no-cache", *(part for target in TARGETS for part in ("--target", target)))
    assert digests(other) == digests(bundle)
    assert other.manifest.model.sha256 == bundle.manifest.model.sha256


def test_a_run_in_which_nothing_changed_does_nothing(bundle: Bundle, folder: Path) -> None:
    first, _ = run_elsewhere(folder, "unchanged", "--target", "x86-fbgemm")
    second, said = run_elsewhere(folder, "unchanged", "--target", "x86-fbgemm")
    assert "nothing changed: from the cache" in said
    assert "convert" not in said
    assert second == first
    third, said = run(folder, "unchanged", "--target", "x86-fbgemm", "--max-drop", "0.5")
    assert "nothing changed" not in said
    assert digests(third) == digests(first)


def test_a_profile_from_a_file_needs_no_python_and_what_is_uncalibrated_says_so(folder: Path) -> None:
    text = (ROOT / "targets" / "arm-xnnpack.toml").read_text()
    (folder / "my-board.toml").write_text(text.replace('name = "arm-xnnpack"', 'name = "my-board"'))
    model = replace(load(folder), calibration=None, evaluate=None)
    made = edgeopt.export(model, targets=[f"{folder}/my-board.toml"], out=folder / "mine", io_float=True)
    mine = results(made)["my-board/tflite"]
    assert mine.status == "ok"
    assert mine.artifact is not None
    assert {spec.dtype for spec in (*mine.artifact.inputs, *mine.artifact.outputs)} == {"float32"}
    assert mine.plan is not None
    assert mine.plan.io_float
    assert ("float", "asked for") in [(decision.choice, decision.reason) for decision in mine.plan.decisions]
    assert not mine.calibrated
    assert any("UNCALIBRATED" in warning for warning in mine.warnings)
    assert "uncalibrated" in made.manifest.calibration
    assert results(made)["portable-fp32/tflite"].calibrated


def test_an_artifact_that_loses_more_than_allowed_fails_with_both_numbers(folder: Path) -> None:
    numbers = iter([0.9])
    model = replace(load(folder), evaluate=lambda predict: {"top1": next(numbers, 0.7)})
    made = edgeopt.export(model, targets=["x86-fbgemm"], out=folder / "gate", max_drop=0.1)
    failed = results(made)["x86-fbgemm/onnx"]
    assert (failed.status, failed.error) == ("failed", "GateFailed")
    assert "model 0.9000, artifact 0.7000" in failed.reason
    assert failed.artifact is not None


def test_a_refused_scheme_falls_back_to_the_profile_s_next_and_records_it(folder: Path) -> None:
    class Recurrent(nn.Module):
        """With remainders of a number: only a trace carries these to Core ML, and a trace carries no integers."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.lstm = nn.Linear(64, 64), nn.LSTM(64, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return torch.remainder(5.0, self.lstm(self.stem(x).relu())[0] + 10)

    made = edgeopt.export(Recurrent(), torch.randn(1, 6, 64), targets=["apple-ane"], out=folder / "traced")
    result = results(made)["apple-ane/coreml"]
    assert result.status == "ok"
    assert result.plan is not None
    assert result.plan.scheme.describe() == "fp16"
    assert made.manifest.model.macs == 6 * (64 * 64 + (64 + 16) * 16 * 4)
    assert any(d.subject == "scheme" and "was refused" in d.reason for d in result.plan.decisions)
    assert any("made as fp16" in warning for warning in result.warnings)


def test_a_target_whose_converter_refuses_fails_alone_with_its_cause(folder: Path) -> None:
    class Determinant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.det(x) * 2

    made = edgeopt.export(Determinant(), torch.randn(2, 3, 3), targets=["x86-fbgemm", "portable-fp32"], out=folder / "refused")
    found = results(made)
    assert found["portable-fp32/onnx"].status == "ok", found["portable-fp32/onnx"].reason
    assert (found["portable-fp32/tflite"].status, found["portable-fp32/tflite"].error) == ("failed", "ConversionError")
    assert "det" in found["portable-fp32/tflite"].reason


def test_an_artifact_that_nothing_here_can_run_is_kept_and_not_ok(folder: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = self.scale(x)
            return scaled + 0.0 * torch.randn(1, 4)

    made = edgeopt.export(Noisy(), torch.randn(1, 4), targets=["apple-ane-fp16"], out=folder / "noisy")
    result = results(made)["apple-ane-fp16/coreml"]
    assert (result.status, result.error) == ("unverified", "UnknownOperator")
    assert "not verified: the operator random_normal" in result.reason
    assert not result.verdicts
    assert made.artifact_path(result).exists()


def test_what_overflows_float16_is_a_warning_with_its_layer(folder: Path) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud = nn.Linear(4, 4)
            nn.init.constant_(self.loud.weight, 30_000.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.loud(x) * 1e-5)

    made = edgeopt.export(Loud(), torch.ones(1, 4), targets=["apple-ane-fp16"], out=folder / "loud")
    result = results(made)["apple-ane-fp16/coreml"]
    found = "of layer loud: 16 of 16 values exceed 65,504"  # in four samples
    assert any(found in warning for warning in result.warnings), result.warnings


def test_a_target_that_takes_too_long_fails_alone(bundle: Bundle, folder: Path) -> None:
    model = replace(load(folder), evaluate=None)
    made = edgeopt.export(model, targets=["x86-fbgemm", "x86-fbgemm-avx2"], out=folder / "late", timeout_s=0.02)
    found = results(made)
    late = found["x86-fbgemm-avx2/onnx"]
    assert (late.status, late.error) == ("failed", "WorkerTimeout")
    assert "--timeout" in late.reason
    (log,) = re.findall(r"where it hangs: (\S+)", late.reason)
    assert Path(log) == folder / "late" / "logs" / "x86-fbgemm-avx2-onnx.log" and Path(log).is_file()
    assert found["x86-fbgemm/onnx"].status == "ok"


def test_an_evaluate_that_raises_on_the_model_leaves_the_old_bundle(folder: Path) -> None:
    (folder / "kept").mkdir()
    model = replace(load(folder), evaluate=lambda predict: 1 / 0)
    with pytest.raises(edgeopt.EdgeoptError, match="evaluate raised on the float model"):
        edgeopt.export(model, targets=["x86-fbgemm"], out=folder / "kept")
    assert list((folder / "kept").iterdir()) == []


@pytest.mark.parametrize("at", ["calibrate", "convert"])
def test_ctrl_c_leaves_no_process_no_temporary_folder_and_the_old_bundle_whole(
    bundle: Bundle, folder: Path, tmp_path: Path, at: str
) -> None:
    before = _contents(bundle.path)
    command = [sys.executable, "-m", "edgeopt.cli", "export", f"{folder}/net.py:model", "--out", str(bundle.path), "--no-cache"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as run:
        assert run.stdout is not None
        said = ""
        while at not in said:
            line = run.stdout.readline()
            assert line, f"ended before {at}: {said}"
            said += line
        workers = psutil.Process(run.pid).children(recursive=True)
        os.kill(run.pid, signal.SIGINT)
        rest, _ = run.communicate(timeout=60)
    assert run.returncode == edgeopt.errors.INTERRUPTED_EXIT_CODE, rest
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("edgeopt")]
    assert _contents(bundle.path) == before
    assert [path.name for path in bundle.path.parent.iterdir() if path.name.startswith((".first", "first"))] == ["first"]


def _contents(path: Path) -> dict[str, Any]:
    return {str(file): sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file()}
