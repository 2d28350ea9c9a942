"""One process of the runner on the device: its job, its inputs, its lines. Needs a session, an artifact, and nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeopt.bench.artifacts import Runnable
from edgeopt.bench.computed import Computed
from edgeopt.bench.events import Reader
from edgeopt.bench.inputs import Array, synthetic
from edgeopt.bench.place import Elements, LaunchOutcome, OnLine, Shelf, patience
from edgeopt.bench.types import DELEGATE, BenchSettings, Operator
from edgeopt.core import TensorSpec
from edgeopt.devices.session.runner_archive import archive
from edgeopt.devices.session.session import Session
from edgeopt.devices.state.environment import Environment, read_environment
from edgeopt.devices.transport import OnBytes, text
from edgeopt.errors import BadAnswer, EdgeoptError
from edgeopt.model.evaluation import DTYPES
from edgeopt.support.scratch import scratch

JOB_SCHEMA = 1
OUTPUTS = "out"
MAX_OUTPUT_BYTES = 1 << 31
LINES_BYTES, PREDICTION_BYTES = 1 << 26, 1 << 10
"""What a run may print in all, and besides for each output of each sample."""


@dataclass(slots=True)
class PythonPlace:
    """A session on a device with all that the runner needs there. See :class:`edgeopt.bench.place.Place`."""

    session: Session
    settings: BenchSettings
    python: tuple[str, ...]
    """The command that starts Python with the runtimes."""
    on_line: OnLine = lambda line: None
    """Gets every line of every run, to be kept."""
    on_bytes: OnBytes = lambda count: None
    delegate: str = ""
    """The LiteRT delegate on the device for the accelerator of that name, and what it takes."""
    delegate_options: Mapping[str, str] = field(default_factory=dict)
    computed: Computed = field(default_factory=Computed)
    _runner: str = ""
    _shelf: Shelf | None = None
    _count: int = 0

    gives_outputs = True

    @property
    def name(self) -> str:
        return self.session.device.name

    def environment(self) -> Environment:
        return read_environment(self.session.device.transport, self.session.device.root)

    def path_of(self, runnable: Runnable) -> str:
        if self._shelf is None:
            self._shelf = Shelf(self.session, self.settings.timeout_s, self.on_bytes)
        return self._shelf.path_of(runnable)

    def measure(self, runnable: Runnable, threads: int) -> LaunchOutcome:
        reader = self._reader(runnable)
        try:
            with self.session.in_use():
                inputs = self._write([synthetic(runnable.inputs)], runnable)[0]
                self._run(reader, runnable, threads, {"mode": "measure", "inputs": inputs})
                limits = _limits(runnable, 1, self.computed.elements(runnable.subject.sha256))
                return LaunchOutcome(reader.launch, self._tensors(reader.outputs, runnable, limits, {}))
        except EdgeoptError as error:
            return LaunchOutcome(reader.launch, failure=error)

    def operators(self, runnable: Runnable, threads: int) -> tuple[Operator, ...]:
        reader = self._reader(runnable)
        with self.session.in_use():
            inputs = self._write([synthetic(runnable.inputs)], runnable)[0]
            self._run(reader, runnable, threads, {"mode": "operators", "inputs": inputs})
        return reader.operators

    def predict(self, runnable: Runnable, samples: Sequence[tuple[Array, ...]], elements: Elements = None) -> list[list[Array]]:
        with self.session.in_use():
            return self._predicted(runnable, samples, elements)

    def _predicted(self, runnable: Runnable, samples: Sequence[tuple[Array, ...]], elements: Elements) -> list[list[Array]]:
        reader = self._reader(runnable)
        job = {"mode": "predict", "samples": self._write(samples, runnable)}
        self._run(reader, runnable, self.settings.threads[0], job)
        if len(reader.predictions) != len(samples) or not all(reader.predictions):
            raise BadAnswer(f"{runnable.name} gave {len(reader.predictions)} predictions for {len(samples)} samples")
        files: dict[str, bytes] = {}
        limits = _limits(runnable, len(samples), elements)
        return [self._tensors(outputs, runnable, limits, files) for outputs in reader.predictions]

    def _reader(self, runnable: Runnable) -> Reader:
        return Reader(f"{runnable.name} on {self.name}", self.name)

    def _write(self, samples: Sequence[tuple[Array, ...]], runnable: Runnable) -> list[list[dict[str, Any]]]:
        """Puts ``samples`` on the device, a file for each input, and says where each tensor is."""
        described: list[list[dict[str, Any]]] = [[] for _ in samples]
        for number, spec in enumerate(runnable.inputs):
            name, content = f"input-{number}.bin", bytearray()
            for sample, tensors in zip(samples, described, strict=True):
                array = sample[number]
                place = {"file": name, "offset": len(content)}
                tensors.append({"name": spec.name, "dtype": str(array.dtype), "shape": list(array.shape), **place})
                content += np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            self.session.write(name, bytes(content))
        return described

    def _run(self, reader: Reader, runnable: Runnable, threads: int, job: dict[str, Any]) -> None:
        settings = self.settings
        job |= {
            "schema": JOB_SCHEMA, "format": runnable.subject.format, "artifact": self.path_of(runnable), "outputs": OUTPUTS,
            "threads": threads, "cpus": list(settings.cpus) if settings.cpus else None, "accelerator": settings.accelerator,
            "fail_on_fallback": settings.fail_on_fallback, "min_runs": settings.min_runs, "min_seconds": settings.min_seconds,
            "max_seconds": settings.max_seconds, "sustained_seconds": settings.sustained_seconds,
        }  # fmt: skip
        if settings.accelerator == DELEGATE and self.delegate:
            job["delegate"] = {"path": self.delegate, "options": dict(self.delegate_options)}
        self._count += 1
        name = f"job-{self._count}.json"
        self.session.write(name, json.dumps(job).encode())

        def on_line(line: str) -> None:
            self.on_line(line)
            reader.feed(line)

        done = self.session.run(
            f"launch-{self._count}", (*self.python, self._runner_path(), name), timeout_s=patience(settings), on_line=on_line,
            limit=LINES_BYTES + PREDICTION_BYTES * len(job.get("samples", ())) * len(runnable.outputs),
        )  # fmt: skip
        reader.finish(done.exit_code, text(done.stderr))

    def _runner_path(self) -> str:
        if not self._runner:
            with scratch() as folder:
                path = folder / "runner.zip"
                path.write_bytes(archive())
                self._runner = self.session.push(path)
        return self._runner

    def _tensors(
        self, described: list[dict[str, Any]], runnable: Runnable, limits: list[int], files: dict[str, bytes]
    ) -> list[Array]:
        """Output tensors from the files that hold them, of at most ``limits`` elements; ``files`` keeps what was fetched.

        None where none are described.
        """
        if described and len(described) != len(runnable.outputs):
            raise self._cannot_be(f"{len(described)} outputs, the artifact has {len(runnable.outputs)}")
        try:
            found = zip(described, runnable.outputs, limits, strict=False)
            return [self._tensor(entry, spec, limit, files) for entry, spec, limit in found]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._cannot_be(str(error)[:300]) from error

    def _tensor(self, entry: dict[str, Any], spec: TensorSpec, limit: int, files: dict[str, bytes]) -> Array:
        name, offset, shape = str(entry["file"]), int(entry["offset"]), tuple(int(size) for size in entry["shape"])
        dtype = str(entry["dtype"])
        if offset < 0 or any(size < 0 for size in shape) or dtype != np.dtype(DTYPES.get(spec.dtype, spec.dtype)):
            raise ValueError(f"{spec.name} as {dtype[:40]} of shape {list(shape)} at byte {offset}: it is {spec.dtype}")
        little = np.dtype(dtype).newbyteorder("<")
        if name not in files:
            files[name] = self.session.read(f"{OUTPUTS}/{name}", limit=min(limit * little.itemsize, MAX_OUTPUT_BYTES))
        found = np.frombuffer(files[name], little, math.prod(shape), offset)
        if "sha256" in entry and hashlib.sha256(found.data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{spec.name} has another SHA-256 here than there")
        return found.reshape(shape).astype(dtype, copy=False)

    def _cannot_be(self, why: str) -> BadAnswer:
        fix = "try the same artifact on local, then compare lines.jsonl"
        return BadAnswer(f"{self.name} describes outputs that cannot be", why=why, fix=fix)


def _limits(runnable: Runnable, samples: int, elements: Elements) -> list[int]:
    """Elements that each output may have over ``samples``: what its shape says, else what this computer's run gave."""
    # A bare file may not say even the rank.
    known = [bool(spec.shape) and all(size >= 0 for size in spec.shape) for spec in runnable.outputs]
    given = elements or (MAX_OUTPUT_BYTES,) * len(known)
    pairs = zip(runnable.outputs, known, given, strict=True)
    return [samples * math.prod(spec.shape) if fixed else most for spec, fixed, most in pairs]
