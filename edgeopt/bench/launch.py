"""One process on the device: its job, its inputs, its lines. What needs a session and a runnable artifact, and nothing else."""

import json
import math
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.events import Reader
from edgeopt.bench.inputs import Array, synthetic
from edgeopt.bench.types import BenchSettings, Launch, Operator
from edgeopt.devices.runner_archive import archive
from edgeopt.devices.session import Session, text
from edgeopt.errors import BadAnswer

JOB_SCHEMA = 1
OUTPUTS = "out"
START_S = 120.0
"""For a slow board to start Python and import a runtime, beyond what the runs themselves may take."""
MAX_OUTPUT_BYTES = 1 << 31
_LINES_BYTES = 1 << 28

OnLine = Callable[[str], None]


@dataclass(slots=True)
class Place:
    """A session on a device with all that a launch needs there."""

    session: Session
    settings: BenchSettings
    python: tuple[str, ...]
    """The command that starts Python with the runtimes."""
    on_line: OnLine = lambda line: None
    """Gets every line of every run, to be kept."""
    on_bytes: Callable[[int], None] = lambda count: None
    _runner: str = ""
    _pushed: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def measure(self, runnable: Runnable, threads: int) -> tuple[Launch, list[Array]]:
        """One launch in mode measure, and the outputs of its first inference. Raises what :meth:`Reader.finish` raises."""
        inputs = self._inputs(synthetic(runnable.inputs), runnable)
        reader = self._run(runnable, threads, {"mode": "measure", "inputs": inputs})
        return reader.launch, self._tensors(reader.outputs)

    def operators(self, runnable: Runnable, threads: int) -> tuple[Operator, ...]:
        """Mean times of the operators, from a launch of their own: a profiler slows down what it watches."""
        inputs = self._inputs(synthetic(runnable.inputs), runnable)
        return self._run(runnable, threads, {"mode": "operators", "inputs": inputs}).operators

    def predict(self, runnable: Runnable, samples: Sequence[tuple[Array, ...]]) -> list[list[Array]]:
        """The artifact's own outputs for each of ``samples``, arrays in the artifact's own dtypes."""
        described, content = [], bytearray()
        for sample in samples:
            described.append(_described(sample, runnable, content))
        self.session.write("samples.bin", bytes(content))
        for tensor in (tensor for sample in described for tensor in sample):
            tensor["file"] = "samples.bin"
        reader = self._run(runnable, self.settings.threads[0], {"mode": "predict", "samples": described})
        if len(reader.predictions) != len(samples):
            raise BadAnswer(f"{runnable.name} gave {len(reader.predictions)} predictions for {len(samples)} samples")
        files: dict[str, bytes] = {}
        return [self._tensors(outputs, files) for outputs in reader.predictions]

    def _inputs(self, arrays: tuple[Array, ...], runnable: Runnable) -> list[dict[str, Any]]:
        content = bytearray()
        described = _described(arrays, runnable, content)
        self.session.write("inputs.bin", bytes(content))
        return described

    def _run(self, runnable: Runnable, threads: int, job: dict[str, Any]) -> Reader:
        settings = self.settings
        job |= {
            "schema": JOB_SCHEMA, "format": runnable.subject.format, "artifact": self.path_of(runnable), "outputs": OUTPUTS,
            "threads": threads, "cpus": list(settings.cpus) if settings.cpus else None, "accelerator": settings.accelerator,
            "fail_on_fallback": settings.fail_on_fallback, "min_runs": settings.min_runs, "min_seconds": settings.min_seconds,
            "max_seconds": settings.max_seconds, "sustained_seconds": settings.sustained_seconds,
        }  # fmt: skip
        self._count += 1
        name = f"job-{self._count}.json"
        self.session.write(name, json.dumps(job).encode())
        reader = Reader(f"{runnable.name} on {self.session.device.name}")

        def on_line(line: str) -> None:
            self.on_line(line)
            reader.feed(line)

        done = self.session.run(
            f"launch-{self._count}", (*self.python, self._runner_path(), name), timeout_s=self.patience, on_line=on_line,
            limit=_LINES_BYTES,
        )  # fmt: skip
        reader.finish(done.exit_code, text(done.stderr))
        return reader

    @property
    def patience(self) -> float:
        """Seconds that one launch may take: the user's limit, or what was asked of it where that is longer."""
        asked = self.settings.max_seconds + self.settings.sustained_seconds + START_S
        return max(self.settings.timeout_s, asked) if self.settings.sustained_seconds else self.settings.timeout_s

    def path_of(self, runnable: Runnable) -> str:
        """Where the artifact is on the device, pushed now where it is not there yet."""
        digest = runnable.subject.sha256
        if digest not in self._pushed:
            self._pushed[digest] = self._push(runnable)
        return self._pushed[digest]

    def _push(self, runnable: Runnable) -> str:
        if not runnable.path.is_dir():
            return self.session.push(runnable.path, on_bytes=self.on_bytes)
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder, "package.tar")
            with tarfile.open(packed, "w") as tar:
                tar.add(runnable.path, arcname=f"artifact{runnable.path.suffix}", filter=_anonymous)
            stored = self.session.push(packed, on_bytes=self.on_bytes)
        self.session.run("unpack", ("tar", "-xf", stored), timeout_s=self.settings.timeout_s)
        return f"{self.session.folder}/artifact{runnable.path.suffix}"

    def _runner_path(self) -> str:
        if not self._runner:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "runner.zip")
                path.write_bytes(archive())
                self._runner = self.session.push(path)
        return self._runner

    def _tensors(self, described: list[dict[str, Any]], files: dict[str, bytes] | None = None) -> list[Array]:
        """Output tensors from the files that hold them; ``files`` keeps what was fetched."""
        files = {} if files is None else files
        return [self._tensor(entry, files) for entry in described]

    def _tensor(self, entry: dict[str, Any], files: dict[str, bytes]) -> Array:
        try:
            name, offset, shape = str(entry["file"]), int(entry["offset"]), tuple(int(size) for size in entry["shape"])
            dtype = np.dtype(str(entry["dtype"]))
            if name not in files:
                files[name] = self.session.read(f"{OUTPUTS}/{name}", limit=MAX_OUTPUT_BYTES)
            if offset < 0 or dtype.hasobject or any(size < 0 for size in shape):
                raise ValueError(f"offset {offset}, dtype {dtype}, shape {shape}")
            return np.frombuffer(files[name], dtype, math.prod(shape), offset).reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadAnswer(f"{self.session.device.name} describes an output that cannot be", why=str(error)[:300]) from error


def _described(arrays: tuple[Array, ...], runnable: Runnable, content: bytearray) -> list[dict[str, Any]]:
    """``arrays`` appended to ``content``, and where each of them is."""
    described = []
    for array, spec in zip(arrays, runnable.inputs, strict=True):
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        place = {"file": "inputs.bin", "offset": len(content)}
        described.append({"name": spec.name, "dtype": str(array.dtype), "shape": list(array.shape), **place})
        content += little.tobytes()
    return described


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry
