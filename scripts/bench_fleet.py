#!/usr/bin/env python3
"""Twenty devices at once against one alone: does the harness itself get in the way? Run it on an otherwise idle machine.

    .venv/bin/python scripts/bench_fleet.py            # 20 devices, about two minutes
    .venv/bin/python scripts/bench_fleet.py 5

Every device is a folder of its own behind a real OpenSSH server on this machine, and runs the real runner, with a runtime that
sleeps instead of computing: two cores cannot compute for twenty.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import psutil
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgeopt.bench.artifacts import load  # noqa: E402  this checkout's, wherever the script is started
from edgeopt.bench.run import Benchmark, Request  # noqa: E402
from edgeopt.bench.types import BenchSettings  # noqa: E402
from edgeopt.devices.devices_toml import DeviceSpec  # noqa: E402
from edgeopt.support.progress import Event  # noqa: E402
from tests.emulators.sshd import Server, sshd  # noqa: E402

SLEEPS_S = 0.02
SETTINGS = BenchSettings(launches=2, min_runs=100, min_seconds=20.0, max_seconds=40.0, timeout_s=120.0)
MOST_TIME, MOST_CPU = 1.2, 0.10
RUNTIME = f"""
import time
__version__ = "sleeping"
class SessionOptions:
    def add_session_config_entry(self, *entry): pass
class ExecutionMode:
    ORT_SEQUENTIAL = 0
class Value:
    def __init__(self, name): self.name = name
class InferenceSession:
    def __init__(self, path, options, providers): self.options = options
    def get_providers(self): return ["CPUExecutionProvider"]
    def get_inputs(self): return [Value("x")]
    def get_outputs(self): return [Value("y")]
    def get_session_options(self): return self.options
    def run(self, outputs, feeds):
        time.sleep({SLEEPS_S})
        return [feeds["x"]]
def get_available_providers(): return ["CPUExecutionProvider"]
"""


class Watch:
    """This process's CPU time from the moment when every device measures to the moment when the first has measured."""

    def __init__(self, devices: int) -> None:
        self._waiting, self._lock, self._process = devices, threading.Lock(), psutil.Process()
        self._begun: tuple[float, float] | None = None
        self.cores = 0.0

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.phase == "measure" and event.detail.startswith("launch 1"):
                self._waiting -= 1
                if not self._waiting:
                    self._begun = self._now()
            elif event.phase in ("evaluate", "done", "failed") and self._begun and not self.cores:
                wall, cpu = self._now()
                self.cores = (cpu - self._begun[1]) / (wall - self._begun[0])

    def _now(self) -> tuple[float, float]:
        times = self._process.cpu_times()
        return time.monotonic(), times.user + times.system


def model(folder: Path) -> Path:
    """An ONNX file that gives what it takes."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 10]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "identity.onnx")
    return folder / "identity.onnx"


def python(folder: Path) -> str:
    """A Python that finds the sleeping runtime."""
    (folder / "onnxruntime.py").write_text(RUNTIME)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


def run(server: Server, folder: Path, names: Sequence[str], interpreter: str) -> tuple[float, float]:
    """Seconds that a benchmark on these devices takes, and cores that this process used while all of them measured."""
    devices = [DeviceSpec(name=name, url=server.url, root=str(folder / "devices" / name), python=interpreter) for name in names]
    watch = Watch(len(devices))
    artifacts = load(folder / "identity.onnx")
    request = Request(
        artifacts=artifacts, devices=devices, settings=SETTINGS, out=folder / "runs", ask=input, listen=watch
    )  # fmt: skip
    start = time.monotonic()
    for found in Benchmark(request).run():
        bad = [result.reason for result in found.results if result.status != "ok"]
        if found.error or bad:
            sys.exit(f"{found.device}: {found.reason or bad[0]}")
    return time.monotonic() - start, watch.cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("devices", type=int, nargs="?", default=20)
    count = parser.parse_args().devices
    with tempfile.TemporaryDirectory() as name, sshd(Path(name, "sshd"), "MaxStartups 200", "MaxSessions 200") as server:
        folder = Path(name)
        os.environ["EDGEOPT_SSH_CONFIG"] = str(server.client_config(folder / "ssh_config"))
        model(folder)
        interpreter = python(folder)
        run(server, folder, ["warm"], interpreter)
        alone, _ = run(server, folder, ["alone"], interpreter)
        together, cores = run(server, folder, [f"device-{number}" for number in range(count)], interpreter)
    verdicts = ["met" if met else "MISSED" for met in (together / alone <= MOST_TIME, cores <= MOST_CPU)]
    print(f"one device alone        {alone:6.1f} s")
    print(f"{count} devices at once    {together:6.1f} s   {together / alone:.2f} of that   goal {MOST_TIME}: {verdicts[0]}")
    print(f"CPU of the harness meanwhile     {cores:.3f} of a core   goal {MOST_CPU}: {verdicts[1]}")


if __name__ == "__main__":
    main()
