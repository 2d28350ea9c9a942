"""A lab's computer that has no runtime itself: devices are measured all the same, and what that leaves out is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.errors import MissingExtra
from edgeopt.support import extras
from tests.bench.parts import QUICK, bench, here, onnx_file

ONE = replace(QUICK, launches=1, min_runs=5)


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ONNX Runtime were not installed here; the device, which is this computer too, has it."""
    real = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnxruntime" else real(name))


def test_outputs_that_cannot_be_compared_are_one_warning_with_the_command(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifacts = [onnx_file(tmp_path), onnx_file(tmp_path, "again.onnx")]
    request.getfixturevalue("no_onnx")
    (run,) = bench(tmp_path, artifacts, here(tmp_path), settings=ONE)
    assert [(one.status, one.measurement and one.measurement.agreement) for one in run.results] == [("ok", None)] * len(
        run.results
    )
    (warning,) = (one for one in run.warnings if "compared" in one)
    assert "not installed: onnxruntime; pip install 'edgeopt[onnx]'" in warning


def test_evaluate_asks_for_the_extra_before_anything_is_measured(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    artifact = onnx_file(tmp_path)
    request.getfixturevalue("no_onnx")
    with pytest.raises(MissingExtra, match="--evaluate cannot be run here") as caught:
        bench(tmp_path, [artifact], here(tmp_path), settings=ONE, evaluate=lambda predict: {"one": 1.0})
    assert caught.value.fix == "pip install 'edgeopt[onnx]'"
    assert not (tmp_path / "runs").exists()
