"""What the tests of faults share: devices whose runtime sleeps instead of computing, and is told when to go wrong.

    faulty, healthy = bed.device("faulty", url, after="hang"), bed.device("healthy", url)
    with bed.when(bed.measuring("faulty"), cut):
        runs = bed.bench(faulty, healthy)

The runner, the sessions and the connections are the real ones.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import onnx
from onnx import TensorProto, helper

from edgeopt.bench.artifacts import Runnable, load
from edgeopt.bench.run import RESULT_NAME, Benchmark, Request
from edgeopt.bench.types import BenchSettings, DeviceRun
from edgeopt.core import from_json
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.own_folder import MARK

SILENCE_S = 4
"""Instead of half a minute: a device clears itself after so long."""
SETTINGS = BenchSettings(launches=1, min_runs=150, min_seconds=0.2, max_seconds=20.0, timeout_s=60.0, wait_s=60.0)
RUNTIME = """
import os, signal, subprocess, sys, time
__version__ = "sleeping"
AFTER = os.environ.get("AFTER", "")
class SessionOptions:
    def add_session_config_entry(self, *entry): pass
class ExecutionMode:
    ORT_SEQUENTIAL = 0
class Value:
    def __init__(self, name): self.name = name
class InferenceSession:
    since = None
    def __init__(self, path, options, providers): self.options = options
    def get_providers(self): return ["CPUExecutionProvider"]
    def get_inputs(self): return [Value("x")]
    def get_outputs(self): return [Value("y")]
    def get_session_options(self): return self.options
    def go_wrong(self):
        if AFTER == "hang" or AFTER == "hang2" and self.options.intra_op_num_threads == 2: time.sleep(1000)
        if AFTER == "kill": os.kill(os.getpid(), signal.SIGKILL)
        if AFTER == "memory": raise MemoryError("no room for 10 GB")
        if AFTER == "full": fill()
        if AFTER == "read_only": subprocess.run(["mount", "-o", "remount,ro", os.environ["DISK"]], check=True)
    def run(self, outputs, feeds):
        if sys._getframe(1).f_code.co_name == "timed":  # the runner's timed runs, whose first samples it tells after 0.2 s
            self.since = self.since or time.monotonic()
            if time.monotonic() > self.since + 0.25: self.go_wrong()
        time.sleep(0.004)
        return [feeds["x"]]
def fill():
    with open("fill", "ab", 0) as file:
        try:
            while True: file.write(bytes(4096))
        except OSError: pass
def get_available_providers(): return ["CPUExecutionProvider"]
"""


def nobody(question: str) -> str:
    raise AssertionError(f"asked {question!r}")


def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Waits until ``true()`` holds; fails after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def identity(path: Path, values: int = 10, padding: int = 0) -> Runnable:
    """An ONNX file that gives the ``values`` floats that it takes, and is ``padding`` bytes larger than it need be."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, values]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.doc_string = "x" * padding
    onnx.save(made, path)
    (found,) = load(path)
    return found


@dataclass
class Bed:
    """``folder`` holds devices, results and what is needed besides."""

    folder: Path
    settings: BenchSettings = SETTINGS
    _benchmark: Benchmark | None = None
    _names: list[str] = field(default_factory=list)

    def device(self, name: str, url: str, after: str = "") -> DeviceSpec:
        """A device whose runtime goes wrong when its first samples have been told: ``hang``, ``hang2`` (with two threads),
        ``kill``, ``memory``, ``full`` (the disk), ``read_only`` (the disk mounted at $DISK); or not."""
        (self.folder / "onnxruntime.py").write_text(RUNTIME)
        script = f'export PYTHONPATH="{self.folder}" AFTER={after}\nexec "{sys.executable}" "$@"'
        return DeviceSpec(name=name, url=url, root=str(self.root(name)), python=str(self.program(f"python-{name}", script)))

    def canned(self, name: str, url: str, script: str) -> DeviceSpec:
        """A device on which the shell's ``script`` runs instead of Python: it can print what it likes."""
        return DeviceSpec(name=name, url=url, root=str(self.root(name)), python=str(self.program(f"canned-{name}", script)))

    def program(self, name: str, script: str, folder: str = "bin") -> Path:
        """A shell script that can be run."""
        path = self.folder / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def root(self, name: str) -> Path:
        """The private folder of the device ``name``."""
        return self.folder / "devices" / name / "edgeopt-device"

    def bench(self, *devices: DeviceSpec, artifact: Runnable | None = None, **changed: object) -> list[DeviceRun]:
        """One benchmark on all of them; ``changed`` settings. Checks that what is written is what is returned."""
        artifact = artifact or identity(self.folder / "identity.onnx")
        settings = replace(self.settings, **changed)  # type: ignore[arg-type]  # as named by whoever calls
        out = self.folder / "runs"
        self._names = [one.name for one in devices]
        self._benchmark = Benchmark(Request(artifacts=[artifact], devices=devices, settings=settings, out=out, ask=nobody))
        runs = self._benchmark.run()
        for run, folder in zip(runs, self._benchmark.folders, strict=True):
            assert from_json(DeviceRun, (folder / RESULT_NAME).read_text()) == run
        return list(runs)

    def printed(self, name: str) -> str:
        """What runs on the device ``name`` have printed so far in the benchmark that goes on."""
        folders = self._benchmark.folders if self._benchmark else []
        with suppress(OSError):
            for folder in (found for known, found in zip(self._names, folders, strict=False) if known == name):
                return (folder / "lines.jsonl").read_text()
        return ""

    def measuring(self, name: str) -> Callable[[], bool]:
        """Whether first samples of the device ``name`` have come."""
        return lambda: '"event":"samples"' in self.printed(name)

    @contextmanager
    def when(self, condition: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
        """Does ``act`` once ``condition`` holds, beside the block; fails where that never happened."""
        failures: list[BaseException] = []
        over = threading.Event()

        def watch() -> None:
            try:
                while not condition():
                    assert not over.wait(0.003), "it never came to that"
                act()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert not failures, failures

    def healed(self, device: DeviceSpec, *, artifact: Runnable | None = None, **changed: object) -> DeviceRun:
        """The next benchmark on the same device, at once: it works, and nothing is left of the one before either."""
        (run,) = self.bench(device, artifact=artifact, **changed)
        assert_measured(run)
        until(lambda: not self.left(device.name), 2 * SILENCE_S + 2)
        return run

    def assert_cleared(self, *names: str) -> None:
        """Nothing is left on these devices: at once, not when their reapers would see to it. What was killed takes a moment."""
        until(lambda: not any(map(self.left, names)), SILENCE_S / 2)

    def left(self, name: str) -> list[str]:
        """What is on the device besides its own half and its store, processes included."""
        root = self.root(name)
        parts = len(root.parts)
        files = [
            path for path in root.rglob("*") if path.parts[parts] not in ("store", "sessions") or len(path.parts) > parts + 1
        ]
        return [
            *(str(path) for path in files if path.parts[parts] != "store" and not path.name.startswith(("device-", MARK))),
            *processes(str(root)),
        ]


def processes(marker: str) -> list[str]:
    """Command lines, of all processes but this one, that name ``marker`` or belong to an environment that does."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if int(folder.name) != os.getpid() and marker.encode() in command:
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


class Lossy(Protocol):
    """A way to a device on which things go wrong. ``resumes``: whether an interrupted push goes on where it was."""

    url: str
    resumes: bool

    @property
    def carried(self) -> int:
        """Bytes so far."""

    def cut(self) -> None:
        """Ends every connection; new ones are possible."""

    def cut_after(self, count: int) -> None:
        """Does so when ``count`` more bytes have been carried."""

    def silence(self) -> None:
        """From now on nothing is carried, and nobody is told."""

    def mend(self) -> None:
        """All is well again, for new connections."""

    def slow(self, bytes_per_s: float) -> None:
        """From now on no faster."""


def assert_clear(error: str, message: str, *expected: str) -> None:
    """``message`` is that of the error class ``error``: what, why and the next step, with these words."""
    lines = message.splitlines()
    assert lines[0].strip(), f"{error} says nothing"
    assert any(line.startswith("  cause: ") for line in lines), message
    assert any(line.startswith("  next step: ") for line in lines), message
    for words in expected:
        assert words in message, message


def assert_measured(run: DeviceRun) -> None:
    """``run`` is that of a healthy device."""
    assert not run.error, run.reason
    (result,) = run.results
    assert result.status == "ok", result.reason
    assert result.measurement is not None
    assert result.measurement.latency is not None
    assert result.measurement.latency.count >= SETTINGS.min_runs
    assert run.warnings == ()


def samples(run: DeviceRun) -> int:
    """How many samples the only result of ``run`` has."""
    (result,) = run.results
    return sum(len(launch.samples_ns) for launch in result.measurement.launches) if result.measurement else 0
