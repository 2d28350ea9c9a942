"""Whole benchmarks on this computer: a real bundle, two devices that are one, Ctrl-C, and runs that are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import edgeopt
from edgeopt.bench.artifacts import load
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import DeviceRun
from edgeopt.bundle.bundle import Bundle
from edgeopt.core import from_json
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.model.model import Predict
from edgeopt.model.references import load_model
from tests.bench.parts import QUICK, bench, here, onnx_file, refuse, tflite_file
from tests.pipeline.test_pipeline import NET
from tests.unpaused import unpaused
from tests.user_folders import written

# The warnings are of torch and torchao, in this process; the export's workers send theirs to its log.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ENDLESS = replace(QUICK, min_seconds=600.0, max_seconds=600.0, timeout_s=900.0)
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    """A busy machine looks like a throttled device: launches are repeated, but nobody waits."""
    with unpaused((0.0, 0.0)):
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with written(tmp_path_factory.mktemp("local"), NET) as folder:
        model = load_model(f"{folder}/net.py:model")
        yield edgeopt.export(model, targets=("arm-xnnpack", "x86-fbgemm"), out=folder / "bundle", max_drop=0.5)


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def processes(folder: Path) -> dict[int, str]:
    """What runs of the device in ``folder``, its reaper included: command lines by process."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or ()
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder / "edgeopt-device") in word for word in words):
            found[process.pid] = " ".join(words)
    return found


def runners(folder: Path) -> list[int]:
    """The Pythons that measure there just now."""
    return [process for process, line in processes(folder).items() if line.startswith(sys.executable) and ".zip" in line]


def assert_clear(folder: Path) -> None:
    until(lambda: not processes(folder), f"left: {processes(folder)}")
    assert [path.name for path in (folder / "edgeopt-device" / "sessions").iterdir()] == []
    assert not (folder / "edgeopt-device" / "lock").is_symlink()


# --- a bundle ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[DeviceRun, ...]]:
    """The bundle on the same device twice in one call, with evaluate."""
    folder = tmp_path_factory.mktemp("twice")
    model = load_model(f"{bundle.path.parent}/net.py:model")
    benchmark = Benchmark(
        Request(
            artifacts=load(bundle.path), devices=[here(folder, "first"), here(folder, "second")],
            settings=replace(QUICK, wait_s=3600.0), out=folder / "runs", ask=refuse, evaluate=model.evaluate,
            specs=bundle.manifest.model.inputs,
        )
    )  # fmt: skip
    runs = benchmark.run()
    assert benchmark.folders == sorted((folder / "runs").iterdir())
    return folder, runs


def test_one_device_asked_for_twice_is_measured_one_after_the_other(twice: tuple[Path, tuple[DeviceRun, ...]]) -> None:
    folder, runs = twice
    assert [(run.device, run.error, run.reason) for run in runs] == [("first", "", ""), ("second", "", "")]
    spans = []
    for run in runs:
        assert [result.status for result in run.results] == ["ok"] * 4, [result.reason for result in run.results]
        times = [m.before.uptime_s for r in run.results if (m := r.measurement) and m.before and m.before.uptime_s is not None]
        spans.append((min(times), max(times)))
    (first_start, first_end), (second_start, second_end) = spans
    assert first_end <= second_start or second_end <= first_start
    assert_clear(folder)


def test_every_result_has_its_figures_its_accuracy_and_its_proof(twice: tuple[Path, tuple[DeviceRun, ...]]) -> None:
    for run in twice[1]:
        names = {f"{result.subject.target}/{result.subject.format}" for result in run.results}
        assert names == {"portable-fp32/onnx", "portable-fp32/tflite", "arm-xnnpack/tflite", "x86-fbgemm/onnx"}
        for result in run.results:
            found = result.measurement
            assert found is not None
            assert [len(launch.samples_ns) >= QUICK.min_runs for launch in found.launches] == [True, True]
            assert found.agreement is not None
            assert found.agreement.bit_exact, result.key
            assert found.agreement.samples == 12
            assert found.accuracy["agreement"] >= 0.5
            assert found.latency is not None
            assert all(launch.peak_bytes and launch.load_ns and launch.first_ns for launch in found.launches)
        assert set(run.comparisons) == {"arm-xnnpack/tflite x1", "x86-fbgemm/onnx x1"}


def test_results_are_files_that_say_the_same(twice: tuple[Path, tuple[DeviceRun, ...]]) -> None:
    folder, runs = twice
    for kept, run in zip(sorted((folder / "runs").iterdir()), runs, strict=True):
        assert kept.name.endswith(f"-{run.device}")
        assert from_json(DeviceRun, (kept / "result.json").read_bytes()) == run
        events = [json.loads(line) for line in (kept / "lines.jsonl").read_text().splitlines() if line.startswith("{")]
        samples = sum(len(event["ns"]) for event in events if event["event"] == "samples")
        measured = [result.measurement for result in run.results if result.measurement]
        kept_samples = sum(len(launch.samples_ns) for found in measured for launch in found.launches)
        discarded = sum(found.discarded for found in measured)
        assert samples > kept_samples if discarded else samples == kept_samples


# --- runs that end before their time -------------------------------------------------------------------------------------


def beside(folder: Path, request: Request) -> tuple[Benchmark, threading.Thread, list[DeviceRun]]:
    """A benchmark in a thread of its own; the list has its runs when it is over."""
    benchmark, found = Benchmark(request), list[DeviceRun]()
    thread = threading.Thread(target=lambda: found.extend(benchmark.run()))
    thread.start()
    return benchmark, thread, found


def test_a_runner_that_is_killed_fails_its_configuration_only_and_keeps_its_samples(tmp_path: Path) -> None:
    settings = replace(QUICK, launches=1, min_seconds=3.0, max_seconds=6.0)
    artifacts = [onnx_file(tmp_path), tflite_file(tmp_path)]
    request = Request(artifacts=artifacts, devices=[here(tmp_path)], settings=settings, out=tmp_path / "runs", ask=refuse)
    _, thread, found = beside(tmp_path, request)
    lines = tmp_path / "runs"
    until(lambda: any('"samples"' in file.read_text() for file in lines.glob("*/lines.jsonl")), "no samples came")
    (runner,) = runners(tmp_path)
    os.kill(runner, signal.SIGKILL)
    thread.join(PATIENCE_S)
    killed, other = found[0].results
    assert (killed.status, killed.error, found[0].error) == ("failed", "RunFailed", "")
    assert "was killed" in killed.reason
    assert killed.measurement is not None
    assert killed.measurement.marks[-1] == "partial"
    assert killed.measurement.latency is not None
    assert (other.status, other.subject.format) == ("ok", "tflite")
    assert_clear(tmp_path)


def test_a_run_that_takes_too_long_is_ended_and_keeps_its_samples(tmp_path: Path) -> None:
    (run,) = bench(tmp_path, [onnx_file(tmp_path)], here(tmp_path), settings=replace(ENDLESS, timeout_s=4.0, launches=3))
    (result,) = run.results
    assert (result.status, result.error, run.error) == ("failed", "DeviceTimeout", "")
    assert result.measurement is not None
    assert len(result.measurement.launches[0].samples_ns) > 0
    assert_clear(tmp_path)


def test_stopping_from_another_thread_writes_what_there_is(tmp_path: Path) -> None:
    devices = [here(tmp_path, "first"), here(tmp_path, "waiting")]
    request = Request(artifacts=[onnx_file(tmp_path)], devices=devices, settings=ENDLESS, out=tmp_path / "runs", ask=refuse)
    benchmark, thread, found = beside(tmp_path, request)
    until(lambda: runners(tmp_path), "it does not run")
    started = time.monotonic()
    benchmark.stop()
    thread.join(PATIENCE_S)
    assert time.monotonic() - started < 20
    reasons = {result.reason.splitlines()[0] for run in found for result in run.results}
    assert reasons == {"interrupted"}
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 2
    assert_clear(tmp_path)


def test_stopping_ends_an_evaluation_that_would_never_end(tmp_path: Path) -> None:
    begun = threading.Event()

    def endless(predict: Predict) -> dict[str, float]:
        while predict(np.zeros((4, 8), np.float32)):
            begun.set()
        return {}

    settings = replace(QUICK, launches=1)
    request = Request(
        artifacts=[onnx_file(tmp_path)], devices=[here(tmp_path)], settings=settings, out=tmp_path / "runs", ask=refuse,
        evaluate=endless,
    )  # fmt: skip
    benchmark, thread, found = beside(tmp_path, request)
    assert begun.wait(PATIENCE_S)
    benchmark.stop()
    thread.join(PATIENCE_S)
    (result,) = found[0].results
    assert (result.status, result.measurement is not None) == ("ok", True), "what was measured is whole"
    assert_clear(tmp_path)


def test_stopping_leaves_a_connection_that_is_never_made_and_an_evaluation_that_never_predicts(tmp_path: Path) -> None:
    begun, end = threading.Event(), threading.Event()

    def silent(predict: Predict) -> dict[str, float]:
        begun.set()
        end.wait(PATIENCE_S)
        return {"late": 1.0}

    with socket.create_server(("127.0.0.1", 0)) as host:
        devices = [DeviceSpec(name="mute", url=f"adb://127.0.0.1:{host.getsockname()[1]}"), here(tmp_path)]
        settings = replace(QUICK, launches=1)
        request = Request(
            artifacts=[onnx_file(tmp_path)], devices=devices, settings=settings, out=tmp_path / "runs", ask=refuse,
            evaluate=silent,
        )  # fmt: skip
        benchmark, thread, found = beside(tmp_path, request)
        assert begun.wait(PATIENCE_S)
        started = time.monotonic()
        benchmark.stop()
        thread.join(PATIENCE_S)
        assert time.monotonic() - started < 8
    assert benchmark.left_behind
    assert [(run.results[0].status, run.results[0].measurement is not None) for run in found] == [
        ("failed", False),
        ("ok", True),
    ]
    end.set()
    until(lambda: not benchmark.left_behind, "its threads end by themselves")
    for run, folder in zip(found, benchmark.folders, strict=True):
        assert from_json(DeviceRun, (folder / "result.json").read_bytes()) == run, "what was answered stays"
    assert_clear(tmp_path)


def test_ctrl_c_clears_the_device_and_keeps_the_result(tmp_path: Path) -> None:
    artifact = onnx_file(tmp_path).path
    root = str(tmp_path / "edgeopt-device")
    (tmp_path / "devices.toml").write_text(f'[here]\nurl = "local"\nroot = {json.dumps(root)}\n')
    command = [
        sys.executable,
        "-m",
        "edgeopt.cli",
        "bench",
        str(artifact),
        "--device",
        "here",
        "--max-seconds",
        "10m",
        "--seconds",
        "10m",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            until(lambda: runners(tmp_path), "it does not run")
            time.sleep(1.0)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group gets it
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert_clear(tmp_path)
    (kept,) = (tmp_path / "runs").iterdir()
    run = from_json(DeviceRun, (kept / "result.json").read_bytes())
    assert [result.reason.splitlines()[0] for result in run.results] == ["interrupted"]
    with pytest.raises(ProcessLookupError):  # nobody is left of its process group
        os.killpg(process.pid, 0)


def test_a_device_that_cannot_be_reached_harms_no_other(tmp_path: Path) -> None:
    lost = DeviceSpec(name="lost", url="ssh://nobody@127.0.0.1:9")
    found = bench(tmp_path, [onnx_file(tmp_path)], lost, here(tmp_path), settings=replace(QUICK, launches=1))
    assert [(run.device, run.error) for run in found] == [("lost", "Unreachable"), ("here", "")]
    assert [result.status for run in found for result in run.results] == ["failed", "ok"]
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 2


def test_a_fault_in_a_kind_of_device_is_its_own_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeopt import registry

    plain = registry.transport

    def broken(url: str, ask: object = None) -> object:
        if url == "adb://broken":
            raise ZeroDivisionError("their fault")
        return plain(url)

    monkeypatch.setattr(registry, "transport", broken)
    spec = DeviceSpec(name="broken", url="adb://broken")
    found = bench(tmp_path, [onnx_file(tmp_path)], spec, here(tmp_path), settings=replace(QUICK, launches=1))
    assert [(run.device, run.error) for run in found] == [("broken", "DeviceError"), ("here", "")]
    assert "ZeroDivisionError: their fault" in found[0].reason
    assert "their fault" in next((tmp_path / "runs").glob("*-broken/fault.txt")).read_text()


def test_operators_are_given_where_the_runtime_has_them_and_else_a_warning(tmp_path: Path) -> None:
    settings = replace(QUICK, launches=1, operators=True)
    (run,) = bench(tmp_path, [onnx_file(tmp_path), tflite_file(tmp_path)], here(tmp_path), settings=settings)
    assert [result.status for result in run.results] == ["ok", "ok"]
    onnx = run.results[0].measurement
    assert onnx is not None
    assert [operator.kind for operator in onnx.operators] == ["Relu"]
    assert any("no times of operators of tanh.tflite" in warning for warning in run.warnings)
