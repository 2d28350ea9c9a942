"""Jobs for the runner: tiny models made here, and the runner started as a device would start it."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeopt.converters.tflite import file as tflite_file
from edgeopt.devices.session.runner_archive import archive

Array = NDArray[Any]
SHAPE = (4, 8)
_DELEGATE_SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef struct D { void *data; int (*prepare)(void *, struct D *); void *from, *to, *free; int64_t flags; void *opaque; } D;
static int prepare(void *context, D *self) { return 0; }
D *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
    if (count && !strcmp(keys[0], "refuse")) { report(values[0]); return NULL; }
    D *made = calloc(1, sizeof(D));
    made->prepare = prepare;
    return made;
}
void tflite_plugin_destroy_delegate(D *made) { free(made); }
"""


@dataclass(frozen=True)
class Done:
    exit_code: int
    events: list[dict[str, Any]]
    stderr: str

    def all(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def one(self, name: str) -> dict[str, Any]:
        (found,) = self.all(name)
        return found

    @property
    def error(self) -> dict[str, Any]:
        assert self.exit_code == 1 and self.events[-1]["event"] == "error", (self.exit_code, self.events, self.stderr)
        return self.events[-1]


def command(folder: Path, python: str = sys.executable) -> list[str]:
    """How a device starts the runner, with the job in ``folder``."""
    (folder / "runner.zip").write_bytes(archive())
    return [python, "runner.zip", "job.json"]


def start(folder: Path, job: dict[str, Any], python: str = sys.executable) -> "subprocess.Popen[bytes]":
    (folder / "job.json").write_text(json.dumps(job))
    return subprocess.Popen(command(folder, python), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(folder: Path, job: dict[str, Any], python: str = sys.executable) -> Done:
    """The job run to its end. Every line of its standard output is an event."""
    with start(folder, job, python) as process:
        out, err = process.communicate(timeout=60)
    return Done(process.returncode, [json.loads(line) for line in out.splitlines()], err.decode())


def tensor(folder: Path, name: str, array: Array) -> dict[str, Any]:
    """``array`` as a file in ``folder``, and as a job names it."""
    (folder / f"{name}.bin").write_bytes(array.tobytes())
    return {"name": name, "file": f"{name}.bin", "dtype": str(array.dtype), "shape": list(array.shape)}


def job(artifact: Path, format: str, inputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A short measurement."""
    quick = {"min_runs": 20, "min_seconds": 0.05, "max_seconds": 10, "warm_up_max_seconds": 0.1}
    facts = {"schema": 1, "mode": "measure", "format": format, "artifact": str(artifact), "inputs": inputs}
    return {**quick, **facts, **more}


def onnx_model(path: Path, operator: str = "Relu", inputs: tuple[str, ...] = ("x",), dtype: int = TensorProto.FLOAT) -> Path:
    """One operator from ``inputs`` of SHAPE to ``y``."""
    values = [helper.make_tensor_value_info(name, dtype, SHAPE) for name in inputs]
    result = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([helper.make_node(operator, list(inputs), ["y"])], "tiny", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def sample(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def tflite_model(path: Path, *operators: str) -> Path:
    """A chain of float operators without options, from ``x`` of SHAPE to ``y``."""
    codes = [getattr(schema.BuiltinOperator, name) for name in operators]
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    model.operatorCodes = [_operator_code(code) for code in codes]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(name) for name in ("x", *(f"t{number}" for number in range(1, len(codes))), "y")]
    graph.inputs, graph.outputs = [0], [len(codes)]
    graph.operators = [_operator(number) for number in range(len(codes))]
    model.subgraphs = [graph]
    tflite_file.write(model, path)
    return path


def _operator_code(code: int) -> Any:
    found = schema.OperatorCodeT()
    found.builtinCode = found.deprecatedBuiltinCode = code
    return found


def _tensor(name: str) -> Any:
    found = schema.TensorT()
    found.name, found.shape, found.type, found.buffer = name, list(SHAPE), schema.TensorType.FLOAT32, 0
    return found


def _operator(number: int) -> Any:
    found = schema.OperatorT()
    found.opcodeIndex, found.inputs, found.outputs = number, [number], [number + 1]
    return found


def output(folder: Path, done: Done, number: int = 0) -> Array:
    """An output of a measurement as its files have it, checked against what the event says of it."""
    fact = done.one("outputs")["files"][number]
    data = (folder / "out" / fact["file"]).read_bytes()
    assert (sha256(data).hexdigest(), len(data)) == (fact["sha256"], fact["bytes"])
    return np.frombuffer(data, fact["dtype"]).reshape(fact["shape"])


def relu(folder: Path, **more: Any) -> dict[str, Any]:
    """A job of ONNX Runtime with one operator."""
    return job(onnx_model(folder / "model.onnx"), "onnx", [tensor(folder, "x", sample())], **more)


def delegate_library(folder: Path) -> str:
    """The path of a LiteRT delegate that takes no node at all; told to ``refuse``, it cannot be made, for that reason."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for a delegate")
    (folder / "nothing.c").write_text(_DELEGATE_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "nothing.so", "nothing.c"], cwd=folder, check=True)
    return str(folder / "nothing.so")
