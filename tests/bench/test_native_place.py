"""Devices without Python: native tools are found or pushed, run in a real session, and their words become results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.inventory import inventory
from edgeopt.bench.types import DeviceRun, Measurement
from edgeopt.core import from_json
from edgeopt.devices.devices_toml import DeviceSpec
from tests.bench.parts import QUICK, bench, here, onnx_file, refuse, tflite_file
from tests.devices.native.test_native_output import GOLDEN

PERF_TEST = """
while [ $# -gt 2 ]; do shift; done
echo 'Session creation time cost: 0.01 s'
echo 'First inference time cost: 2 ms'
echo 'Total inference requests: 300'
echo 'Average inference time cost: 10 ms'
run=0
while [ $run -lt 300 ]; do echo "model,0.01,1000,50,$run"; run=$((run + 1)); done > "$2"
"""


def tool(folder: Path, script: str, name: str = "benchmark_model") -> Path:
    path = folder / "its own folder" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    return path


def phone(folder: Path, *tools: Path) -> DeviceSpec:
    """This computer as a device that has no Python."""
    return here(folder, "phone", python="", tools={path.name: str(path) for path in tools})


def measurement(run: DeviceRun, number: int = 0) -> Measurement:
    found = run.results[number]
    assert found.status == "ok", found.reason
    assert found.measurement is not None
    return found.measurement


def test_a_tool_that_gives_a_summary_has_no_latency_but_its_figures(tmp_path: Path) -> None:
    path = tool(tmp_path, f"cat '{GOLDEN}/benchmark_model.xnnpack.txt'")
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, path))
    found = measurement(run)
    assert (found.latency, found.agreement, found.launch_spread) == (None, None, 0.0)
    assert [launch.summary["median_ns"] for launch in found.launches] == [899_281_000.0] * 2
    assert found.launches[0].peak_bytes == round(93.2383 * 1024**2)
    assert found.launches[0].load_ns == 614_333_000
    assert found.marks == ()
    kept = (*(tmp_path / "runs").iterdir(),)[0]
    assert from_json(DeviceRun, (kept / "result.json").read_bytes()) == run
    lines = (kept / "lines.jsonl").read_text().splitlines()
    assert sum("Initialized session in 614.333ms" in line for line in lines) == 4, "twice per launch: times, then memory"
    assert json.loads(lines[-1]) == {"event": "end"}
    assert not list((tmp_path / "edgeopt-device" / "sessions").iterdir())


def test_a_tool_that_gives_samples_has_percentiles(tmp_path: Path) -> None:
    path = tool(tmp_path, PERF_TEST, "onnxruntime_perf_test")
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], phone(tmp_path, path))
    latency = measurement(run).latency
    assert latency is not None
    assert latency.median.value == 10_000_000


def test_tools_of_both_formats_do_not_disturb_each_other(tmp_path: Path) -> None:
    tools = (tool(tmp_path, PERF_TEST, "onnxruntime_perf_test"), tool(tmp_path, f"cat '{GOLDEN}/benchmark_model.xnnpack.txt'"))
    (run,) = bench(tmp_path, [onnx_file(tmp_path), tflite_file(tmp_path)], phone(tmp_path, *tools))
    assert measurement(run, 0).latency is not None
    assert measurement(run, 1).latency is None


def test_libraries_beside_a_tool_go_with_it_under_their_own_names(tmp_path: Path) -> None:
    path = tool(tmp_path, f'cat "$LD_LIBRARY_PATH/libonnxruntime.so.1" > {tmp_path}/seen\n{PERF_TEST}', "onnxruntime_perf_test")
    (path.parent / "libonnxruntime.so.1").write_bytes(b"the library")
    (path.parent / "notes.txt").write_bytes(b"not a library")
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], phone(tmp_path, path), settings=replace(QUICK, launches=1))
    measurement(run)
    assert (tmp_path / "seen").read_bytes() == b"the library"
    stored = {file.read_bytes() for file in (tmp_path / "edgeopt-device" / "store").iterdir()}
    assert b"the library" in stored
    assert b"not a library" not in stored


def test_a_tool_in_a_folder_full_of_libraries_is_refused(tmp_path: Path) -> None:
    path = tool(tmp_path, "exit 1")
    for number in range(41):
        (path.parent / f"lib{number}.so").touch()
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, path))
    assert (run.results[0].status, run.results[0].error) == ("failed", "RunFailed")
    assert "folder of its own" in run.results[0].reason


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("echo 'ERROR: Disallowed CPU fallback detected.' >&2; exit 1", "FellBack", "did not stay on the accelerator"),
        ("echo 'ERROR: Failed to load model'; exit 1", "RunFailed", "could not be loaded"),
        ("printf 'Initialized session in 1ms.\\ncount=1 curr=nan\\ncount=1 curr=nan\\n'", "BadAnswer", "makes no sense"),
        ("kill -9 $$", "RunFailed", "ran out of memory"),
    ],
)
def test_what_a_tool_ends_with_is_the_result(tmp_path: Path, script: str, error: str, said: str) -> None:
    settings = replace(QUICK, accelerator="gpu", fail_on_fallback=True)
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, tool(tmp_path, script)), settings=settings)
    assert (run.error, run.results[0].status, run.results[0].error) == ("", "failed", error)
    assert said in run.results[0].reason


def test_a_tool_for_another_processor_is_skipped(tmp_path: Path) -> None:
    path = tool(tmp_path, "")
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, path))
    assert (run.results[0].status, run.results[0].error) == ("skipped", "")


def test_without_a_tool_the_result_says_where_to_get_it_and_others_are_measured(tmp_path: Path) -> None:
    path = tool(tmp_path, PERF_TEST, "onnxruntime_perf_test")
    artifacts: list[Runnable] = [tflite_file(tmp_path), onnx_file(tmp_path)]
    (run,) = bench(tmp_path, artifacts, phone(tmp_path, path), settings=replace(QUICK, launches=1))
    by_format = {result.subject.format: result for result in run.results}
    assert by_format["tflite"].status == "failed"
    assert "neither Python nor benchmark_model" in by_format["tflite"].reason
    assert by_format["onnx"].status == "ok"


def test_what_native_tools_cannot_do_is_a_warning(tmp_path: Path) -> None:
    path = tool(tmp_path, f"cat '{GOLDEN}/benchmark_model.xnnpack.txt'")
    settings = replace(QUICK, launches=1, sustained_seconds=1.0)
    more = {"settings": settings, "evaluate": lambda predict: {"score": 1.0}}
    (run,) = bench(tmp_path, [tflite_file(tmp_path)], phone(tmp_path, path), **more)
    assert measurement(run).accuracy == {}
    assert [warning.split(": ")[1] for warning in run.warnings] == ["no accuracy", "no sustained times"]


def test_the_list_of_devices_names_the_tools_of_one_without_python(tmp_path: Path) -> None:
    path = tool(tmp_path, "exit 0")
    with_tools, without = inventory([phone(tmp_path, path), phone(tmp_path)], refuse)
    assert (with_tools.error, with_tools.installed["benchmark_model"]) == ("", str(path))
    assert "has no Python" in without.error or without.installed, "unless this computer has tools of its own"


def test_the_devices_delegate_is_given_to_the_tool_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tool(tmp_path, f"echo \"$@\" >> {tmp_path}/said\ncat '{GOLDEN}/benchmark_model.gpu.txt'")
    device = replace(phone(tmp_path, path), delegate="/vendor/lib64/libnpu.so", delegate_options={"power": "high"})
    for accelerator in ("cpu", "delegate"):
        settings = replace(QUICK, launches=1, accelerator=accelerator)
        (run,) = bench(tmp_path, [tflite_file(tmp_path)], device, settings=settings)
        assert measurement(run).launches[0].placement["accelerator"] == accelerator
    given = ["--external_delegate_path=/vendor/lib64/libnpu.so --external_delegate_options=power:high" in line
             for line in (tmp_path / "said").read_text().splitlines()]  # fmt: skip
    assert given == [False, False, True, True], "twice per launch: times, then memory"
