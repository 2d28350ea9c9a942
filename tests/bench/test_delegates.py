"""A LiteRT delegate of the device's own, named in devices.toml, in whole benchmarks on this computer."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.bench.types import BenchResult
from tests.bench.parts import QUICK, bench, here, onnx_file, tflite_file
from tests.devices.runner.jobs import delegate_library

SETTINGS = replace(QUICK, launches=1, accelerator="delegate")


def measured(folder: Path, delegate: str | None, **more: object) -> BenchResult:
    device = here(folder, delegate=delegate, delegate_options=more.pop("options", {}))
    (run,) = bench(folder, [tflite_file(folder)], device, settings=replace(SETTINGS, **more))  # type: ignore[arg-type]
    return run.results[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return delegate_library(tmp_path_factory.mktemp("delegate"))


def test_the_delegate_is_used_and_what_it_leaves_is_fallback(tmp_path: Path, library: str) -> None:
    result = measured(tmp_path, library)
    assert result.status == "ok", result.reason
    assert result.measurement is not None
    assert "fallback" in result.measurement.marks
    (launch,) = result.measurement.launches
    assert launch.placement["operators"] == {"TANH": 1}
    assert result.accelerator == "delegate"


def test_fail_on_fallback_holds_for_a_delegate(tmp_path: Path, library: str) -> None:
    result = measured(tmp_path, library, fail_on_fallback=True)
    assert (result.status, result.error) == ("failed", "FellBack")
    assert "TANH" in result.reason


@pytest.mark.slow
def test_on_the_cpu_the_delegate_is_left_alone(tmp_path: Path) -> None:
    assert measured(tmp_path, "/nowhere/libnpu.so", accelerator="cpu").status == "ok"


@pytest.mark.parametrize(
    ("delegate", "said"),
    [
        ("/nowhere/libnpu.so", "there is no /nowhere/libnpu.so"),
        ("libnowhere.so", "libnowhere.so: cannot open shared object file"),
        (None, "none was named for this device"),
    ],
)
def test_a_delegate_that_is_not_there_fails_with_the_place_to_name_it(tmp_path: Path, delegate: str | None, said: str) -> None:
    result = measured(tmp_path, delegate)
    assert (result.status, result.error, result.measurement) == ("failed", "RunFailed", None)
    assert said in result.reason
    assert "devices.toml" in result.reason


@pytest.mark.slow
def test_a_library_that_is_no_delegate_and_one_that_refuses_say_so(tmp_path: Path, library: str) -> None:
    (tmp_path / "libtext.so").write_text("no library")
    assert "libtext.so" in measured(tmp_path, str(tmp_path / "libtext.so")).reason
    assert "no such NPU" in measured(tmp_path, library, options={"refuse": "no such NPU"}).reason


def test_a_runtime_without_delegates_is_skipped_not_measured_on_the_cpu(tmp_path: Path) -> None:
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], here(tmp_path, delegate="/x.so"), settings=SETTINGS)
    assert [result.status for result in run.results] == ["skipped"]
