"""The runner, started as on a device, with the runtimes that are installed here."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeopt.devices.runner import job as runner_job
from edgeopt.devices.runner.failures import Failure
from edgeopt.devices.runner.memory import least_squares_slope
from edgeopt.devices.runner.runtimes.onnx_runtime import from_profile, placement_in
from edgeopt.devices.runner_archive import archive
from tests.devices.runner_jobs import SHAPE, Array, Done, job, onnx_model, run, sample, start, tensor, tflite_model

DELEGATE_SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
typedef struct D { void *data; int (*prepare)(void *, struct D *); void *from, *to, *free; int64_t flags; void *opaque; } D;
static int prepare(void *context, D *self) { return 0; }
D *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
    D *made = calloc(1, sizeof(D));
    made->prepare = prepare;
    return made;
}
void tflite_plugin_destroy_delegate(D *made) { free(made); }
"""
"""A delegate that takes no node at all."""


def output(folder: Path, done: Done, number: int = 0) -> Array:
    """An output of a measurement as its files have it, checked against what the event says of it."""
    fact = done.one("outputs")["files"][number]
    data = (folder / "out" / fact["file"]).read_bytes()
    assert (sha256(data).hexdigest(), len(data)) == (fact["sha256"], fact["bytes"])
    return np.frombuffer(data, fact["dtype"]).reshape(fact["shape"])


def relu(folder: Path, **more: Any) -> dict[str, Any]:
    """A job of ONNX Runtime with one operator."""
    return job(onnx_model(folder / "model.onnx"), "onnx", [tensor(folder, "x", sample())], **more)


def test_a_measurement_goes_through_its_phases_in_order(tmp_path: Path) -> None:
    done = run(tmp_path, relu(tmp_path, outputs="out", warm_up_max_seconds=2, sustained_seconds=0.2, cpus=[0]))
    assert done.exit_code == 0, done.stderr
    names = [event["event"] for event in done.events]
    phases = [name for name in dict.fromkeys(names) if name != "environment"]
    assert phases == [
        "runtime", "loaded", "first", "warm", "samples", "phase", "sustained", "memory", "outputs", "placement", "end",
    ]  # fmt: skip
    assert done.one("runtime")["cpus"] == [0] and done.one("loaded")["threads"] == 1
    assert done.one("warm")["stable"]
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


def test_litert_tells_what_xnnpack_took_and_what_it_left(tmp_path: Path) -> None:
    model = tflite_model(tmp_path / "model.tflite", "RELU", "LOG_SOFTMAX", "ABS")
    done = run(tmp_path, job(model, "tflite", [tensor(tmp_path, "x", sample())], outputs="out"))
    assert done.exit_code == 0, done.stderr
    x = np.maximum(sample(), 0)
    expected = np.abs(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))
    np.testing.assert_allclose(output(tmp_path, done), expected, rtol=1e-5)
    placement = done.one("placement")
    assert (placement["accelerated"], placement["fallback"], placement["partitions"]) == (2, 1, 2)
    assert placement["operators"] == {"LOG_SOFTMAX": 1}


@pytest.fixture(scope="module")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for a delegate")
    folder = tmp_path_factory.mktemp("delegate")
    (folder / "nothing.c").write_text(DELEGATE_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "nothing.so", "nothing.c"], cwd=folder, check=True)
    return str(folder / "nothing.so")


def test_what_xnnpack_takes_beside_a_delegate_is_fallback_all_the_same(tmp_path: Path, delegate: str) -> None:
    model = tflite_model(tmp_path / "model.tflite", "RELU", "ABS")
    accelerated = job(
        model,
        "tflite",
        [tensor(tmp_path, "x", sample())],
        accelerator="npu",
        delegate={"path": delegate, "options": {"a": "b"}},
    )
    placement = run(tmp_path, accelerated).one("placement")
    assert (placement["accelerated"], placement["fallback"]) == (0, 2)
    error = run(tmp_path, {**accelerated, "fail_on_fallback": True}).error
    assert error["kind"] == "fallback" and "RELU" in error["message"]


@pytest.mark.slow
def test_a_program_of_torch_export_runs_in_torch(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.ReLU()), (torch.zeros(4, 8),))
    torch.export.save(program, tmp_path / "model.pt2")
    given = job(tmp_path / "model.pt2", "pt2", [tensor(tmp_path, "input", sample())], outputs="out", warm_up_max_seconds=0.05)
    done = run(tmp_path, given)
    assert done.exit_code == 0, done.stderr
    expected = program.module()(torch.from_numpy(sample())).detach().numpy()
    np.testing.assert_allclose(output(tmp_path, done), expected, rtol=1e-5, atol=1e-6)
    assert done.one("loaded")["threads"] == 1


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


def test_times_of_operators_come_from_onnx_runtimes_own_profile(tmp_path: Path) -> None:
    done = run(tmp_path, relu(tmp_path, mode="operators"))
    (operator,) = done.one("operators")["operators"]
    assert (operator["kind"], operator["provider"]) == ("Relu", "CPUExecutionProvider")
    assert operator["runs"] == done.one("operators")["runs"] == 20 and operator["mean_ns"] >= 0
    assert done.one("placement")["accelerated"] == 1
    assert not list(tmp_path.glob("profile*"))


def test_a_profile_counts_the_last_runs_and_names_what_fell_back() -> None:
    def event(node: str, microseconds: int, provider: str) -> dict[str, Any]:
        arguments = {"op_name": node.split("_")[0], "provider": provider}
        return {"cat": "Node", "name": f"{node}_kernel_time", "dur": microseconds, "args": arguments}

    events = [{"cat": "Session", "name": "model_run", "dur": 5}]
    for microseconds in (900, 10, 20):
        events += [event("Conv_1", microseconds, "NnapiExecutionProvider"), event("Softmax_2", 1, "CPUExecutionProvider")]
    operators = from_profile(events, 2)
    assert [(found["name"], found["runs"], found["mean_ns"]) for found in operators] == [
        ("Conv_1", 2, 15_000), ("Softmax_2", 2, 1_000),
    ]  # fmt: skip
    placement = placement_in(operators, "nnapi")
    assert (placement["accelerated"], placement["fallback"], placement["operators"]) == (1, 1, {"Softmax": 1})


TRTEXEC = """#!/bin/sh
printf '%s\\n' "$@" > arguments
echo '[01/01/2026-10:00:00] [I] TensorRT version: 8.6.1'
echo '[01/01/2026-10:00:01] [I] Engine loaded in 0.0125 sec.'
cat > times.json <<'END'
[
  { "startEnqMs" : 0, "startComputeMs" : 0.5, "endComputeMs" : 4, "h2dMs" : 0.1, "computeMs" : 3.5, "latencyMs" : 3.75 }
, { "startEnqMs" : 999, "startComputeMs" : 999.9, "endComputeMs" : 1001, "computeMs" : 1.1, "latencyMs" : 1.25 }
, { "startEnqMs" : 1001, "startComputeMs" : 1001.5, "endComputeMs" : 1002, "computeMs" : 1, "latencyMs" : 1.125 }
, { "startEnqMs" : 1003, "startComputeMs" : 1003.5, "endComputeMs" : 1004, "computeMs" : 1, "latencyMs" : 1.5 }
]
END
cat > profile.json <<'END'
[ { "count" : 40 }
, { "name" : "conv1 + relu1", "timeMs" : 10, "averageMs" : 0.25, "medianMs" : 0.25, "percentage" : 80 }
, { "name" : "fc", "timeMs" : 2.5, "averageMs" : 0.0625, "percentage" : 20 }
]
END
"""
"""A stand-in for trtexec that writes what its source writes; there is no GPU here."""


def with_trtexec(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = TRTEXEC) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "trtexec").write_text(script)
    (folder / "bin" / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)


def test_trtexec_measures_where_tensorrt_has_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_trtexec(tmp_path, monkeypatch)
    given = {**relu(tmp_path), "format": "tensorrt", "accelerator": "tensorrt"}
    done = run(tmp_path, given)
    assert done.exit_code == 0, done.stderr
    assert done.one("runtime")["versions"] == {"tensorrt": "8.6.1"}
    assert done.one("loaded")["ns"] == 12_500_000 and done.one("first")["ns"] == 3_750_000
    assert done.one("warm")["runs"] == 2 and done.one("samples")["ns"] == [1_125_000, 1_500_000]
    assert "--loadInputs=x:x.bin" in (tmp_path / "arguments").read_text().splitlines()
    operators = run(tmp_path, {**given, "mode": "operators"}).one("operators")
    assert operators["runs"] == 40 and [found["mean_ns"] for found in operators["operators"]] == [250_000, 62_500]


def test_what_trtexec_says_of_a_refused_engine_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_trtexec(tmp_path, monkeypatch, "#!/bin/sh\necho '[I] fine'\necho '[E] Error[1]: version mismatch'\nexit 1\n")
    error = run(tmp_path, {**relu(tmp_path), "format": "tensorrt"}).error
    assert error["kind"] == "load" and error["message"] == "[E] Error[1]: version mismatch"


def test_litert_has_no_times_of_operators_and_says_so(tmp_path: Path) -> None:
    model = tflite_model(tmp_path / "model.tflite", "RELU")
    error = run(tmp_path, job(model, "tflite", [tensor(tmp_path, "x", sample())], mode="operators")).error
    assert error["kind"] == "missing_runtime" and "benchmark_model" in error["message"]


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


@pytest.mark.parametrize(
    ("format", "accelerator", "kind", "words"),
    [
        ("onnx", "cuda", "missing_runtime", "CPUExecutionProvider"),
        ("onnx", "nonsense", "missing_runtime", "nonsense"),
        ("tflite", "gpu", "missing_runtime", "delegate"),
        ("tensorrt", "cuda", "missing_runtime", "tensorrt"),
        pytest.param(
            "coreml", "all", "missing_runtime", "macOS", marks=pytest.mark.skipif(sys.platform == "darwin", reason="it is one")
        ),
    ],
)
def test_an_accelerator_that_is_not_here_is_no_silent_cpu(
    tmp_path: Path, format: str, accelerator: str, kind: str, words: str
) -> None:
    error = run(tmp_path, {**relu(tmp_path), "format": format, "accelerator": accelerator}).error
    assert error["kind"] == kind and words in error["message"]


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


def test_what_others_print_on_standard_output_goes_to_stderr(tmp_path: Path) -> None:
    code = (
        "import os, sys; from edgeopt_runner.lines import Lines; lines = Lines.instead_of_stdout();"
        "print('python'); sys.stdout.flush(); os.system('echo native'); lines.write('end', n=1)"
    )
    (tmp_path / "runner.zip").write_bytes(archive())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "runner.zip")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, text=True, check=True)
    assert done.stdout == '{"event":"end","n":1}\n'
    assert "python" in done.stderr and "native" in done.stderr


def test_a_wrong_command_line_says_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "runner.zip").write_bytes(archive())
    done = subprocess.run([sys.executable, str(tmp_path / "runner.zip")], capture_output=True, text=True, check=False)
    assert done.returncode == 64 and "job.json" in done.stderr


GOOD = {"schema": 1, "mode": "measure", "format": "onnx", "artifact": __file__, "inputs": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"mode": "dance"}, "mode"),
        ({"format": None}, "format"),
        ({"artifact": "/nowhere"}, "/nowhere"),
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
        ({"min_seconds": -1}, "min_seconds"),
        ({"min_seconds": float("nan")}, "min_seconds"),
        ({"cpus": []}, "cpus"),
        ({"cpus": ["0"]}, "cpus"),
        ({"surprise": 1}, "surprise"),
        ({"mode": "predict"}, "outputs"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "complex64", "shape": []}]}, "dtype"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "int8", "shape": [-1]}]}, "shape"),
        ({"inputs": [{"name": "x", "file": "x", "dtype": "int8", "shape": [1], "more": 1}]}, "more"),
        ({"inputs": ["x"]}, "object"),
        ({"samples": [1]}, "list of tensors"),
        ({"delegate": {}}, "path"),
    ],
)
def test_mistakes_in_a_job_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "job.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(Failure, match=words) as raised:
        runner_job.read_job(str(tmp_path / "job.json"))
    assert raised.value.kind == "bad_job"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "samples", "cpus", "delegate", "threads", "outputs"]), json_values))
def test_any_json_is_a_job_or_a_named_mistake(tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-job.json"
    path.write_text(json.dumps({**GOOD, **change}))
    try:
        runner_job.read_job(str(path))
    except Failure as failure:
        assert failure.kind == "bad_job"


def sources() -> list[tuple[str, str]]:
    with zipfile.ZipFile(BytesIO(archive())) as packed:
        return [(name, packed.read(name).decode()) for name in packed.namelist()]


def test_the_archive_is_the_same_every_time_and_holds_every_file() -> None:
    first = archive()
    archive.cache_clear()
    assert archive() == first
    names = [name for name, _ in sources()]
    assert "__main__.py" in names and "edgeopt_runner/runtimes/litert.py" in names


@pytest.mark.parametrize(("name", "source"), sources(), ids=[name for name, _ in sources()])
def test_the_runner_is_python_3_8_and_needs_nothing_but_the_standard_library(name: str, source: str) -> None:
    tree = ast.parse(source, name, feature_version=(3, 8))
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and name != "__main__.py":
            imported = [node.module or ""]
        assert all(module.split(".")[0] in sys.stdlib_module_names for module in imported), imported


def old_pythons() -> list[str]:
    found = []
    for version in ("3.8", "3.9", "3.10", "3.12", "3.13", "3.14"):
        path = shutil.which(f"python{version}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def test_other_pythons_start_the_runner(tmp_path: Path) -> None:
    pythons = old_pythons()
    if not pythons:
        pytest.skip("no other Python is installed here")
    for python in pythons:
        done = run(tmp_path, {**relu(tmp_path), "format": "tensorrt"}, python)
        assert done.error["kind"] == "missing_runtime", done.stderr
