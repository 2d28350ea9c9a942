"""Native benchmark tools: their command lines, and whole runs through a real session."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.devices.local import connect
from edgeopt.devices.native import benchmark_model, native, perf_test
from edgeopt.devices.native.job import NativeJob
from edgeopt.devices.session.device import Device
from edgeopt.devices.session.session import Session
from edgeopt.devices.variables import with_variables
from edgeopt.errors import BadAnswer, DeviceTimeout, RunFailed
from tests.devices.native.test_native_output import GOLDEN, ONNX, PROFILE, TFLITE, by_name

# --- command lines -------------------------------------------------------------------------------------------------------


def test_benchmark_model_is_given_what_was_asked_for() -> None:
    job = replace(TFLITE, threads=4, cpus=(4, 5, 6, 7), min_runs=200, min_seconds=2.5, max_seconds=60, accelerator="gpu")
    assert benchmark_model.command(replace(job, fail_on_fallback=True)) == (
        *("taskset", "f0", *with_variables({"LD_LIBRARY_PATH": "/data/local/tmp"}, ["/data/local/tmp/benchmark_model"])),
        *("--graph=/store/a model.tflite", "--num_threads=4", "--use_gpu=true", "--require_full_delegation=true"),
        *("--num_runs=200", "--min_secs=2.5", "--max_secs=60", "--warmup_runs=1", "--warmup_min_secs=2"),
    )
    assert "--enable_op_profiling=true" in benchmark_model.command(replace(job, mode="operators"))
    assert "--report_peak_memory_footprint=true" in benchmark_model.memory_command(job)
    assert "--report_peak_memory_footprint=true" not in benchmark_model.command(job)


def test_xnnpack_on_the_cpu_may_leave_operators_to_other_kernels() -> None:
    assert "--require_full_delegation=true" not in benchmark_model.command(replace(TFLITE, fail_on_fallback=True))


def test_a_delegate_of_the_users_own_is_given_by_its_path() -> None:
    job = replace(
        TFLITE, accelerator="npu", delegate="/data/local/tmp/libdelegate.so", delegate_options={"backend": "htp", "x": "1"}
    )
    said = benchmark_model.command(job)
    assert "--external_delegate_path=/data/local/tmp/libdelegate.so" in said
    assert "--external_delegate_options=backend:htp;x:1" in said


def test_perf_test_is_given_what_was_asked_for() -> None:
    job = replace(ONNX, threads=2, accelerator="npu", fail_on_fallback=True)
    assert perf_test.command(job, ("-m", "times", "-r", "7")) == (
        *with_variables({"LD_LIBRARY_PATH": "/data/local/tmp"}, ["/data/local/tmp/onnxruntime_perf_test"]),
        *("-e", "qnn"),
        *("-i", "backend_type|htp", "-C", "session.disable_cpu_ep_fallback|1", "-m", "times", "-r", "7"),
        *("-x", "2", "-y", "1", "-S", "1", "-s", "-I", "/store/a model.onnx", "result.csv"),
    )


@pytest.mark.parametrize(
    "job", [replace(TFLITE, accelerator="magic"), replace(ONNX, accelerator="magic"), replace(ONNX, delegate="/x.so")]
)
def test_an_accelerator_that_a_tool_does_not_have_is_refused(job: NativeJob) -> None:
    with pytest.raises(RunFailed, match="has no accelerator"):
        list(native.measure(None, job))  # type: ignore[arg-type]  # it must not even be asked


def test_a_missing_tool_says_where_to_get_it_and_how_to_name_it(tmp_path: Path) -> None:
    def push(path: Path) -> str:
        return f"/there/{path.name}"

    with pytest.raises(RunFailed, match="neither Python nor benchmark_model") as missing:
        native.tool_for("tflite", "aarch64", {}, {}, push)
    assert "ai.google.dev/edge/litert" in missing.value.fix
    assert "devices.toml" in missing.value.fix
    with pytest.raises(RunFailed, match="needs Python"):
        native.tool_for("coreml", "arm64", {}, {}, push)
    with pytest.raises(RunFailed, match="is not there"):
        native.tool_for("onnx", "aarch64", {}, {"onnxruntime_perf_test": tmp_path / "no"}, push)
    (tmp_path / "mine").touch()
    found = {"benchmark_model": "/data/local/tmp/benchmark_model"}
    assert native.tool_for("tflite", "aarch64", found, {}, push) == "/data/local/tmp/benchmark_model"
    assert native.tool_for("tflite", "aarch64", found, {"benchmark_model": tmp_path / "mine"}, push) == "/there/mine"


# --- through a real session ----------------------------------------------------------------------------------------------


def refuse(question: str) -> str:
    raise AssertionError(question)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Device.connect("here", connect("local", refuse), root=str(tmp_path / "device")) as device, device.session() as found:
        yield found


def tool(session: Session, folder: Path, script: str) -> str:
    source = folder / "tool"
    source.write_text(f'#!/bin/sh\nfor argument; do echo "$argument"; done >> {folder}/arguments\n{script}')
    return session.push(source, executable=True)


def test_benchmark_model_is_run_twice_since_memory_polling_disturbs(session: Session, tmp_path: Path) -> None:
    path = tool(session, tmp_path, f"cat '{GOLDEN}/benchmark_model.xnnpack.txt'")
    found = list(native.measure(session, replace(TFLITE, tool=path, artifact="a model's.tflite")))
    names = [event["event"] for event in found]
    assert names == ["runtime", "loaded", "first", "warm", "summary", "placement", "memory", "end"]
    assert found[-2]["peak"] == round(93.2383 * 1024**2)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments.count("--graph=a model's.tflite") == 2
    assert arguments.count("--report_peak_memory_footprint=true") == 1


PERF_TEST = """
runs=RUNS
while [ $# -gt 2 ]; do
    [ "$1" != -r ] || runs=$2
    [ "$1" != -p ] || cp FOLDER/profile "$2_2026-01-01_00-00-00.json"
    shift
done
echo 'Session creation time cost: 0.01 s'
echo 'First inference time cost: 2 ms'
echo "Total inference requests: $runs"
echo 'Average inference time cost: 10 ms'
run=0
while [ $run -lt $runs ]; do
    echo "model,0.01,1000,50,$run"
    run=$((run + 1))
done > "$2"
"""


def test_perf_test_gives_every_sample(session: Session, tmp_path: Path) -> None:
    path = tool(session, tmp_path, PERF_TEST.replace("RUNS", "300"))
    found = list(native.measure(session, replace(ONNX, tool=path, artifact="m.onnx")))
    samples = [sample for event in found if event["event"] == "samples" for sample in event["ns"]]
    warm = by_name(found)["warm"]
    assert warm["stable"] is True
    assert len(samples) == 300 - warm["runs"] and set(samples) == {10_000_000}
    assert found[-1] == {"event": "end"}
    arguments = (tmp_path / "arguments").read_text().split()
    assert (arguments[arguments.index("-t") + 1], "-r" in arguments) == ("3", False)


def test_perf_test_is_run_longer_where_the_time_was_not_enough_runs(session: Session, tmp_path: Path) -> None:
    path = tool(session, tmp_path, PERF_TEST.replace("RUNS", "20"))
    job = replace(ONNX, tool=path, artifact="m.onnx", min_runs=200, warm_up_max_seconds=1)
    found = by_name(list(native.measure(session, job)))
    assert found["phase"]["runs"] >= 200
    assert found["phase"]["stopped_by"] == "enough"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[arguments.index("-r") + 1] == "301"


def test_perf_test_gives_operators(session: Session, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(json.dumps(PROFILE))
    path = tool(session, tmp_path, PERF_TEST.replace("RUNS", "20").replace("FOLDER", f"'{tmp_path}'"))
    job = replace(ONNX, tool=path, artifact="m.onnx", mode="operators", accelerator="qnn")
    found = by_name(list(native.measure(session, job)))
    assert [operator["kind"] for operator in found["operators"]["operators"]] == ["Conv", "Resize"]
    assert found["placement"]["fallback"] == 1
    assert "end" in found


def test_a_result_file_that_lies_is_an_error(session: Session, tmp_path: Path) -> None:
    path = tool(session, tmp_path, PERF_TEST.replace("RUNS", "3").replace("model,0.01", "model,nan"))
    found = list(native.measure(session, replace(ONNX, tool=path, artifact="m.onnx")))
    assert [event["kind"] for event in found if event["event"] == "error"] == ["bad_output"]
    assert found[-1]["event"] == "error"


def test_a_tool_that_hangs_or_floods_is_stopped(session: Session, tmp_path: Path) -> None:
    path = tool(session, tmp_path, "sleep 60")
    with pytest.raises(DeviceTimeout):
        list(native.measure(session, replace(TFLITE, tool=path, timeout_s=0.5)))
    flood = tool(session, tmp_path, "yes 'count=1 curr=1' | head -c 100000000")
    with pytest.raises(BadAnswer):
        list(native.measure(session, replace(TFLITE, tool=flood)))


def test_a_tool_for_another_processor_is_told(session: Session, tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    found = list(native.measure(session, replace(TFLITE, tool=session.push(source, executable=True))))
    assert found[-1]["kind"] == "missing_runtime"
