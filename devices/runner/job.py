"""The job: what to run, with what, for how long. It is checked, so that a mistake is named and not measured."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from .failures import Failure

SCHEMA = 1
MODES = ("measure", "predict", "operators")
FORMATS = ("onnx", "tflite", "coreml", "pt2", "tensorrt")
SIZES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
"""Bytes of one element, for every dtype that a tensor may have."""


@dataclass(frozen=True)
class TensorFile:
    """One input tensor: raw little-endian bytes, in ``file`` from byte ``offset`` on."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def nbytes(self) -> int:
        count = SIZES[self.dtype]
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Delegate:
    """A LiteRT delegate as a shared library on the device, with its own options."""

    path: str
    options: dict[str, str]


@dataclass(frozen=True)
class Job:
    """``inputs`` for modes measure and operators, ``samples`` for mode predict. Times are seconds."""

    mode: str
    format: str
    artifact: str
    inputs: tuple[TensorFile, ...]
    samples: tuple[tuple[TensorFile, ...], ...]
    outputs: str | None
    threads: int
    cpus: tuple[int, ...] | None
    accelerator: str
    fail_on_fallback: bool
    delegate: Delegate | None
    min_runs: int
    min_seconds: float
    max_seconds: float
    sustained_seconds: float
    warm_up_max_seconds: float


def read_job(path: str) -> Job:
    """The job in the JSON file at ``path``. Raises Failure of kind bad_job that says what is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise Failure("bad_job", f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise Failure("bad_job", f"{path} holds no JSON object")
    return _checked(_Fields(data))


class _Fields:
    """Takes fields out of an object one by one, each of its type; whatever is left in the end is unknown."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = dict(data)

    def take(self, name: str, kinds: tuple[type, ...], default: Any = None) -> Any:
        value = self._data.pop(name, default)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise Failure("bad_job", f"{name} is {_short(value)}: {expected} expected")
        return value

    def number(self, name: str, default: float) -> float:
        value = float(self.take(name, (int, float), default))
        if not 0 <= value < 1e9:
            raise Failure("bad_job", f"{name} is {value!r}: a number from 0 on expected")
        return value

    def whole(self, name: str, default: int, lowest: int) -> int:
        value = int(self.take(name, (int,), default))
        if value < lowest:
            raise Failure("bad_job", f"{name} is {value}: at least {lowest} expected")
        return value

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        value = str(self.take(name, (str,)))
        if value not in known:
            listed = ", ".join(known)
            raise Failure("bad_job", f"{name} is {_short(value)}: one of {listed} expected")
        return value

    def done(self) -> None:
        if self._data:
            raise Failure("bad_job", f"unknown: {sorted(self._data)}")


def _checked(fields: _Fields) -> Job:
    if fields.take("schema", (int,)) != SCHEMA:
        raise Failure("bad_job", f"the job's schema is not {SCHEMA}: job and runner are of different versions")
    job = Job(
        mode=fields.one_of("mode", MODES),
        format=fields.one_of("format", FORMATS),
        artifact=fields.take("artifact", (str,)),
        inputs=_tensors(fields.take("inputs", (list,), [])),
        samples=tuple(_tensors(sample) for sample in fields.take("samples", (list,), [])),
        outputs=fields.take("outputs", (str, type(None))),
        threads=fields.whole("threads", 1, 1),
        cpus=_cpus(fields.take("cpus", (list, type(None)))),
        accelerator=fields.take("accelerator", (str,), "cpu"),
        fail_on_fallback=fields.take("fail_on_fallback", (bool,), False),
        delegate=_delegate(fields.take("delegate", (dict, type(None)))),
        min_runs=fields.whole("min_runs", 50, 1),
        min_seconds=fields.number("min_seconds", 1.0),
        max_seconds=fields.number("max_seconds", 150.0),
        sustained_seconds=fields.number("sustained_seconds", 0.0),
        warm_up_max_seconds=fields.number("warm_up_max_seconds", 8.0),
    )
    fields.done()
    if not os.path.exists(job.artifact):
        raise Failure("bad_job", f"there is no artifact {job.artifact}")
    if job.mode == "predict" and job.outputs is None:
        raise Failure("bad_job", "mode predict needs a folder for its outputs")
    return job


def _short(value: Any) -> str:
    return repr(value)[:80]


def _cpus(data: list[Any] | None) -> tuple[int, ...] | None:
    if data is None:
        return None
    if not data or not all(isinstance(cpu, int) and cpu >= 0 for cpu in data):
        raise Failure("bad_job", f"cpus is {_short(data)}: numbers of CPUs expected")
    return tuple(data)


def _tensors(data: Any) -> tuple[TensorFile, ...]:
    if not isinstance(data, list):
        raise Failure("bad_job", f"a sample is {_short(data)}: a list of tensors expected")
    found: list[TensorFile] = []
    for item in data:
        if not isinstance(item, dict):
            raise Failure("bad_job", f"a tensor is {_short(item)}: an object expected")
        fields = _Fields(item)
        shape = fields.take("shape", (list,))
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise Failure("bad_job", f"a tensor's shape is {_short(shape)}: whole numbers from 0 on expected")
        found.append(
            TensorFile(
                name=fields.take("name", (str,)),
                file=fields.take("file", (str,)),
                dtype=fields.one_of("dtype", tuple(SIZES)),
                shape=tuple(shape),
                offset=fields.whole("offset", 0, 0),
            )
        )
        fields.done()
    return tuple(found)


def _delegate(data: dict[str, Any] | None) -> Delegate | None:
    if data is None:
        return None
    fields = _Fields(data)
    options = fields.take("options", (dict,), {})
    delegate = Delegate(fields.take("path", (str,)), {str(key): str(value) for key, value in options.items()})
    fields.done()
    return delegate
