"""``edgeopt bench`` and ``edgeopt devices`` as they are typed: what an option does, and which do not go together."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.bench.types import BenchResult
from edgeopt.cli import bench
from edgeopt.cli.app import app
from edgeopt.devices.devices_toml import resolve
from edgeopt.errors import BadAnswer, RunFailed, UsageError
from tests.cli.test_app import RUN
from tests.report.bench_samples import everything


def test_samples_are_in_the_json_where_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for samples in (False, True):
        bench._show(everything(), [tmp_path], "json", samples)
        data = json.loads(capsys.readouterr().out)
        assert bool(data[0]["results"][0]["measurement"]["launches"][0]["samples_ns"]) is samples


def test_a_benchmark_that_measured_nothing_has_no_exit_code_0() -> None:
    run, *_ = everything()
    measured = next(one for one in run.results if one.status == "ok")
    skipped, failed = replace(measured, status="skipped"), replace(measured, status="failed", error="BadAnswer")

    def code(*results: BenchResult) -> int:
        return bench._exit_code((replace(run, error="", results=results),))

    assert code(measured) == code(measured, skipped) == 0
    assert code(skipped, skipped) == code() == RunFailed.exit_code
    assert code(failed, skipped) == code(measured, failed) == BadAnswer.exit_code


def test_samples_without_json_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for form in ("table", "csv", "markdown"):
        done = RUN.invoke(app, ["bench", str(tmp_path / "none.onnx"), "--format", form, "--samples"])
        assert done.exit_code == UsageError.exit_code
        assert "--format json" in done.output


def test_a_device_is_added_with_its_delegate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").touch()
    done = RUN.invoke(app, ["devices", "add", "board", "ssh://pi@board", "--delegate", "/usr/lib/libnpu.so"])
    assert done.exit_code == 0, done.output
    table = {"url": "ssh://pi@board", "delegate": "/usr/lib/libnpu.so"}
    assert tomllib.loads((tmp_path / "devices.toml").read_text()) == {"board": table}
    assert resolve("board").delegate == "/usr/lib/libnpu.so"
