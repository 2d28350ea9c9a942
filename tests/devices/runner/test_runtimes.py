"""The runner's runtimes, those that are installed here: what they compute, and where."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from edgeopt.devices.runner import job as runner_job
from edgeopt.devices.runner import tensors as runner_tensors
from edgeopt.devices.runner.failures import Failure
from edgeopt.devices.runner.runtimes import onnx_runtime
from edgeopt.devices.runner.runtimes.onnx_runtime import from_profile, placement_in
from tests.devices.runner.jobs import delegate_library, job, output, relu, run, sample, tensor, tflite_model


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
    return delegate_library(tmp_path_factory.mktemp("delegate"))


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


def in_process(folder: Path, given: dict[str, Any]) -> runner_job.Job:
    """The job as the runner reads it, in ``folder``."""
    (folder / "job.json").write_text(json.dumps(given))
    return runner_job.read_job(str(folder / "job.json"))


def test_nodes_that_leave_an_onnx_provider_are_counted_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = "AzureExecutionProvider"  # in every wheel, and takes no node of this model
    if provider not in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has no second provider here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(onnx_runtime._PROVIDERS, "npu", provider)
    given = in_process(tmp_path, relu(tmp_path, accelerator="npu"))
    runtime = onnx_runtime.OnnxRuntime(given)
    runtime.load()
    call = runtime.prepare(runner_tensors.read(given.inputs))
    runtime.collect(call())
    placement = runtime.placement()
    assert (placement["accelerated"], placement["fallback"], placement["operators"]) == (0, 1, {"Relu": 1})
    assert not list(tmp_path.glob("profile*"))
    runtime.collect(call())
    strict = onnx_runtime.OnnxRuntime(in_process(tmp_path, relu(tmp_path, accelerator="npu", fail_on_fallback=True)))
    with pytest.raises(Failure, match="fallback") as raised:
        strict.load()
    assert raised.value.kind == "fallback"


def test_an_npu_that_is_not_here_is_fallback_though_litert_calls_it_full_acceleration(tmp_path: Path) -> None:
    model = tflite_model(tmp_path / "model.tflite", "RELU", "ABS")
    given = job(model, "tflite", [tensor(tmp_path, "x", sample())], accelerator="npu", outputs="out")
    done = run(tmp_path, given)
    assert done.exit_code == 0, done.stderr
    assert np.array_equal(output(tmp_path, done), np.maximum(sample(), 0))
    assert done.one("placement")["fallback"] == 1
    assert run(tmp_path, {**given, "fail_on_fallback": True}).error["kind"] == "fallback"
    short = run(tmp_path, {**given, "inputs": [tensor(tmp_path, "x", sample()[:2])]})
    assert short.error["kind"] == "run" and "(4, 8)" in short.error["message"]


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


@pytest.mark.parametrize(
    ("format", "accelerator", "kind", "words"),
    [
        ("onnx", "cuda", "no_accelerator", "CPUExecutionProvider"),
        ("onnx", "nonsense", "no_accelerator", "nonsense"),
        ("tflite", "nnapi", "no_accelerator", "delegate"),
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
