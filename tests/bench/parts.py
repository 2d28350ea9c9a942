"""Parts that the tests of the benchmark share: tiny artifacts, a device in a folder, and a place that only pretends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeopt.bench.artifacts import Runnable, load
from edgeopt.bench.inputs import Array
from edgeopt.bench.place import Elements, LaunchOutcome
from edgeopt.bench.run import Benchmark, Request
from edgeopt.bench.types import BenchSettings, DeviceRun, Launch, Operator, Subject
from edgeopt.core import Format, TensorSpec
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.state.environment import Environment
from tests.devices.runner.jobs import onnx_model, tflite_model

QUICK = BenchSettings(launches=2, min_runs=20, min_seconds=0.05, max_seconds=2.0, timeout_s=60.0, wait_s=60.0)
X = TensorSpec(name="x", shape=(1, 2), dtype="float32")


def refuse(question: str) -> str:
    raise AssertionError(question)


def onnx_file(folder: Path, name: str = "relu.onnx") -> Runnable:
    (found,) = load(onnx_model(folder / name))
    return found


def tflite_file(folder: Path, name: str = "tanh.tflite") -> Runnable:
    (found,) = load(tflite_model(folder / name, "TANH"))
    return found


def runnable(
    target: str = "", form: Format = "onnx", sha256: str = "0" * 64, calibrated: bool = True, output: TensorSpec = X
) -> Runnable:
    """An artifact without a file."""
    path = f"{target or 'bare'}.{form}"
    subject = Subject(path=path, target=target, format=form, sha256=sha256, bytes=10, calibrated=calibrated)
    return Runnable(subject, Path(path), (X,), (output,))


def here(folder: Path, name: str = "here", **more: object) -> DeviceSpec:
    """This computer as a device whose files are in ``folder``."""
    return DeviceSpec(name=name, url="local", root=str(folder / "edgeopt-device"), **more)  # type: ignore[arg-type]  # its other fields


def bench(folder: Path, artifacts: Sequence[Runnable], *devices: DeviceSpec, **more: object) -> tuple[DeviceRun, ...]:
    fields = {"settings": QUICK, "out": folder / "runs", "ask": refuse} | more
    return Benchmark(Request(artifacts=artifacts, devices=devices, **fields)).run()  # type: ignore[arg-type]  # as named


@dataclass
class Pretend:
    """A place without a device: each launch is what ``launch`` gives for its number and its artifact."""

    launch: Callable[[int, Runnable], Launch | Exception] = lambda number, artifact: Launch(samples_ns=(1_000_000,) * 50)
    settings: BenchSettings = field(default_factory=lambda: QUICK)
    environments: list[Environment] = field(default_factory=list)
    answer: Callable[[tuple[Array, ...]], tuple[Array, ...]] = lambda sample: sample
    name: str = "pretend"
    gives_outputs: bool = True
    measured: list[str] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)
    elements: list[Elements] = field(default_factory=list)

    def environment(self) -> Environment:
        return self.environments.pop(0) if self.environments else Environment()

    def path_of(self, artifact: Runnable) -> str:
        return f"/there/{artifact.path}"

    def measure(self, artifact: Runnable, threads: int) -> LaunchOutcome:
        self.measured.append(f"{artifact.name} x{threads}")
        found = self.launch(len(self.measured) - 1, artifact)
        if isinstance(found, Exception):
            raise found
        return LaunchOutcome(found, [np.zeros((1, 2), np.float32)])

    def operators(self, artifact: Runnable, threads: int) -> tuple[Operator, ...]:
        return ()

    def predict(self, artifact: Runnable, samples: Sequence[tuple[Array, ...]], elements: Elements = None) -> list[list[Array]]:
        self.elements.append(elements)
        self.predicted.append(len(samples))
        return [list(self.answer(sample)) for sample in samples]
