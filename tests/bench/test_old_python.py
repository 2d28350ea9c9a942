"""Devices whose Python is too old for the runner: named with its version, and native tools measure where there are some."""

import os
from pathlib import Path

import pytest

from edgeopt.bench.inventory import inventory
from edgeopt.devices.devices_toml import DeviceSpec
from tests.bench.parts import bench, here, onnx_file, refuse, tflite_file
from tests.bench.test_native_place import measurement, tool
from tests.devices.native.test_native_output import GOLDEN


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceSpec:
    """This computer, reached as another one would be, whose ``python3`` is an old one."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && exec echo Python 3.6.15\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("edgeopt.bench.python.LOCAL", "not this computer")
    return here(tmp_path, "old")


def test_an_old_python_is_named_with_its_version_and_the_one_that_is_needed(tmp_path: Path, old: DeviceSpec) -> None:
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], old)
    reason = run.results[0].reason
    assert "neither a Python that can be used nor onnxruntime_perf_test" in reason
    assert "bin/python3 is Python 3.6.15, and the runner needs 3.8 or newer" in reason
    assert "edgeopt devices setup" in reason


def test_native_tools_measure_beside_an_old_python(tmp_path: Path, old: DeviceSpec) -> None:
    path = tool(tmp_path, f"cat '{GOLDEN}/benchmark_model.xnnpack.txt'")
    (run,) = bench(
        tmp_path, [tflite_file(tmp_path)], DeviceSpec(name="old", url="local", root=old.root, tools={path.name: str(path)})
    )
    assert measurement(run).launches


def test_a_listing_names_it_too(old: DeviceSpec) -> None:
    (row,) = inventory([old], refuse)
    assert "no Python that can be used" in row.error and "is Python 3.6.15, and the runner needs 3.8 or newer" in row.error


def test_an_old_python_that_devices_toml_names_says_so_itself(tmp_path: Path) -> None:
    python = tmp_path / "python3.6"
    python.write_text('#!/bin/sh\necho \'{"event": "error", "kind": "old_python", "message": "it is 3.6"}\'\nexit 1\n')
    python.chmod(0o755)
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], here(tmp_path, python=str(python)))
    assert (run.results[0].status, run.results[0].error) == ("failed", "RunFailed")
    assert "the Python for relu.onnx on here is too old" in run.results[0].reason and "it is 3.6" in run.results[0].reason
