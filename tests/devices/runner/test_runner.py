"""The runner, started as on a device: what it measures, in which order, and how it fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeopt.devices.runner.memory import least_squares_slope
from edgeopt.devices.session.runner_archive import archive
from tests.devices.runner.jobs import SHAPE, Array, job, onnx_model, output, relu, run, sample, start, tensor, tflite_model


def test_a_measurement_goes_through_its_phases_in_order(tmp_path: Path) -> None:
    done = run(tmp_path, relu(tmp_path, outputs="out", warm_up_max_seconds=2, sustained_seconds=0.2, cpus=[0]))
    assert done.exit_code == 0, done.stderr
    names = [event["event"] for event in done.events]
    phases = [name for name in dict.fromkeys(names) if name != "environment"]
    assert phases == [
        "runtime", "loaded", "first", "warm", "samples", "phase", "sustained", "memory", "outputs", "placement", "end",
    ]  # fmt: skip
    assert done.one("runtime")["cpus"] == [0] and done.one("loaded")["threads"] == 1
    assert done.one("warm")["runs"] > 40
    samples = [ns for event in done.all("samples") for ns in event["ns"]]
    burst, sustained = done.all("phase")
    assert len(samples) == burst["runs"] >= 20 and min(samples) > 0 and burst["stopped_by"] == "enough"
    assert 0 < sum(samples) < burst["ns"]
    windows = done.all("sustained")
    assert sum(window["runs"] for window in windows) == sustained["runs"]
    assert windows[0]["ns_total"] >= sum(windows[0]["ns"]) > 0
    assert np.array_equal(output(tmp_path, done), np.maximum(sample(), 0))
    assert done.one("outputs")["same_at_end"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_told_at_every_stage(tmp_path: Path) -> None:
    memory = run(tmp_path, relu(tmp_path)).one("memory")
    assert 0 < memory["start"] < memory["imported"] < memory["loaded"] <= memory["peak"]
    assert memory["series"] and memory["end"] <= memory["peak"]


def test_growth_is_the_slope_of_the_series() -> None:
    assert least_squares_slope([(0, 100), (10, 120), (20, 140)]) == pytest.approx(2)
    assert least_squares_slope([(0, 100), (10, 120)]) is None
    assert least_squares_slope([(5, 1), (5, 2), (5, 3)]) is None


def test_predictions_of_all_samples_lie_in_one_file_in_their_order(tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "model.onnx")
    batch = np.stack([sample(seed) for seed in range(5)])
    (tmp_path / "all.bin").write_bytes(batch.tobytes())
    samples = [
        [{"name": "x", "file": "all.bin", "offset": number * 128, "dtype": "float32", "shape": list(SHAPE)}]
        for number in range(5)
    ]
    done = run(tmp_path, job(model, "onnx", [], mode="predict", samples=samples, outputs="out"))
    assert done.exit_code == 0, done.stderr
    assert [event["sample"] for event in done.all("prediction")] == [0, 1, 2, 3, 4]
    assert [event["outputs"][0]["offset"] for event in done.all("prediction")] == [0, 128, 256, 384, 512]
    got = np.frombuffer((tmp_path / "out" / "0.bin").read_bytes(), np.float32).reshape(batch.shape)
    assert np.array_equal(got, np.maximum(batch, 0))


def test_a_killed_run_keeps_what_it_measured(tmp_path: Path) -> None:
    with start(tmp_path, relu(tmp_path, min_seconds=60, max_seconds=60)) as process:
        assert process.stdout is not None
        lines: list[bytes] = []
        while sum(b'"event":"samples"' in line for line in lines) < 2:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    assert sum(len(event["ns"]) for event in events if event["event"] == "samples") > 0
    assert events[-1]["event"] != "end" and process.returncode == -9


def test_a_missing_runtime_is_named(tmp_path: Path) -> None:
    given = relu(tmp_path)
    (tmp_path / "runner.zip").write_bytes(archive())
    (tmp_path / "job.json").write_text(json.dumps(given))
    command = [sys.executable, "-S", "-E", "runner.zip", "job.json"]  # a Python without its packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    error = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, error["kind"]) == (1, "missing_runtime")
    assert "onnxruntime" in error["message"]


@pytest.mark.parametrize("format", ["onnx", "tflite", "pt2"])
def test_a_broken_artifact_fails_to_load(tmp_path: Path, format: str) -> None:
    (tmp_path / "model").write_bytes(b"not a model" * 100)
    done = run(tmp_path, job(tmp_path / "model", format, [tensor(tmp_path, "x", sample())]))
    assert done.error["kind"] == "load"
    assert not done.all("loaded") and len(done.error["message"]) <= 4000


def test_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    values = np.ones(SHAPE, np.float32)
    values[0, :3] = -1
    model = onnx_model(tmp_path / "model.onnx", "Sqrt")
    done = run(tmp_path, job(model, "onnx", [tensor(tmp_path, "x", values)], outputs="out"))
    assert done.one("outputs")["not_finite"] == 3
    assert np.isnan(output(tmp_path, done)).sum() == 3


def test_too_little_memory_is_told_apart(tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("n", TensorProto.INT64, (2,))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["n"], ["y"])], "huge", [shape], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "huge.onnx"))
    given = job(tmp_path / "huge.onnx", "onnx", [tensor(tmp_path, "n", np.array([2**24, 2**20]))])
    assert run(tmp_path, given).error["kind"] == "memory"


def test_an_input_of_the_wrong_size_is_the_jobs_mistake(tmp_path: Path) -> None:
    given = relu(tmp_path)
    (tmp_path / "x.bin").write_bytes(sample().tobytes()[:-4])
    error = run(tmp_path, given).error
    assert error["kind"] == "bad_job" and "128 bytes" in error["message"] and "124" in error["message"]


def test_inputs_of_other_names_are_the_jobs_mistake(tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "model.onnx", "Add", ("x", "z"))
    error = run(tmp_path, job(model, "onnx", [tensor(tmp_path, "x", sample()), tensor(tmp_path, "w", sample())])).error
    assert error["kind"] == "bad_job" and "'w'" in error["message"] and "'z'" in error["message"]


@pytest.mark.parametrize("array", [np.zeros((2, 8), np.float32), np.zeros(SHAPE, np.int32)])
def test_an_input_that_the_model_does_not_take_fails_the_run(tmp_path: Path, array: Array) -> None:
    for model, format in (
        (onnx_model(tmp_path / "model.onnx"), "onnx"),
        (tflite_model(tmp_path / "model.tflite", "RELU"), "tflite"),
    ):
        error = run(tmp_path, job(model, format, [tensor(tmp_path, "x", array)])).error
        assert error["kind"] == "run" and len(error["message"]) > 20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_a_cpu_that_is_not_there_is_the_jobs_mistake(tmp_path: Path) -> None:
    assert run(tmp_path, relu(tmp_path, cpus=[4095])).error["kind"] == "bad_job"


def test_time_bounds_the_runs_from_above(tmp_path: Path) -> None:
    done = run(tmp_path, relu(tmp_path, min_runs=10**9, max_seconds=0.2))
    (phase,) = done.all("phase")
    assert phase["stopped_by"] == "max_seconds" and phase["ns"] < 1e9
