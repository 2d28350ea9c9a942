#!/usr/bin/env python3
"""Measures the benchmark harness against its goals. Run it on an otherwise idle machine.

    .venv/bin/python scripts/bench_harness.py overhead build/mobilenet_v2     # a bundle with ONNX and TFLite artifacts

``overhead``: the median that the runner reports over that of a bare loop around the same runtime call, in processes of the same
settings (one thread, one CPU), which take turns. Every round has the runner and two bare loops, in changing order: what is
judged is the median over the rounds of the runner's ratio to the mean of both, and the ratio of the two bare loops is the
control beside it: what two equal processes differ by.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure

from edgeopt.bundle.bundle import Bundle
from edgeopt.core import Artifact
from edgeopt.devices.session.runner_archive import archive

ROUNDS = 15
SECONDS = 1.5
WARM_UP_S = 0.5
CPU = 0

BARE = """
import gc, json, os, statistics, sys, time
facts = json.load(open("bare.json"))
os.sched_setaffinity(0, [facts["cpu"]])
import numpy
arrays = {entry["name"]: numpy.fromfile(entry["file"], entry["dtype"]).reshape(entry["shape"]) for entry in facts["inputs"]}
if facts["format"] == "onnx":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(facts["artifact"], options, providers=["CPUExecutionProvider"])
    def call(): session.run(None, arrays)
else:
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=facts["artifact"], num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays.values()):
        interpreter.set_tensor(detail["index"], array)
    call = interpreter.invoke
end = time.perf_counter() + facts["warm_up"]
while time.perf_counter() < end:
    call()
gc.disable()
samples = []
end = time.perf_counter() + facts["seconds"]
while time.perf_counter() < end:
    start = time.perf_counter_ns()
    call()
    samples.append(time.perf_counter_ns() - start)
print(statistics.median(samples))
"""

figure = partial(Figure, digits=3)


def overhead(bundle: Path) -> Iterator[Figure]:
    """Every ONNX and TFLite artifact of the bundle."""
    for result in Bundle.load(bundle).manifest.results:
        artifact = result.artifact
        if artifact is None or artifact.format not in ("onnx", "tflite"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            _prepare(bundle, artifact, Path(folder))
            rounds = [_round(Path(folder), number) for number in range(ROUNDS)]
        name = f"{result.target} {artifact.format}"
        for what, values in zip(("bare loop", "the same again", "runner"), zip(*rounds, strict=True), strict=True):
            yield figure(name=f"{name}: {what}, median", value=statistics.median(values) / 1e6, unit="ms")
        yield from _compared(f"{name}: bare loop from itself", [second / first for first, second, _ in rounds], None)
        yield from _compared(
            f"{name}: runner from bare loop", [2 * ours / (first + second) for first, second, ours in rounds], 1
        )


def _compared(name: str, ratios: list[float], goal: float | None) -> Iterator[Figure]:
    yield figure(name=f"{name}, smallest and", value=100 * (min(ratios) - 1), unit="%")
    yield figure(name=f"{name}, largest of {len(ratios)} rounds", value=100 * (max(ratios) - 1), unit="%")
    yield figure(name=f"{name}, median", value=100 * abs(statistics.median(ratios) - 1), unit="%", goal=goal)


def _round(folder: Path, number: int) -> tuple[float, float, float]:
    """Medians of two bare loops and of the runner, in ns; in every third round another one is the first."""
    runs = [_bare, _bare, _runner]
    order = [(number + step) % 3 for step in range(3)]
    found = {which: runs[which](folder) for which in order}
    return found[0], found[1], found[2]


def _prepare(bundle: Path, artifact: Artifact, folder: Path) -> None:
    """Writes what both read: inputs, job, archive."""
    source = np.random.default_rng(0)
    inputs: list[dict[str, Any]] = []
    for number, spec in enumerate(artifact.inputs):
        array = source.normal(size=spec.shape)
        array = (array * 50).clip(-128, 127) if "int" in spec.dtype else array
        array.astype(spec.dtype).tofile(folder / f"{number}.bin")
        inputs.append({"name": spec.name, "file": f"{number}.bin", "dtype": spec.dtype, "shape": spec.shape})
    common = {"format": artifact.format, "artifact": str((bundle / artifact.path).resolve()), "inputs": inputs}
    job = {"schema": 1, "mode": "measure", "min_seconds": SECONDS, "warm_up_max_seconds": WARM_UP_S, "cpus": [CPU]}
    (folder / "job.json").write_text(json.dumps(common | job))
    (folder / "bare.json").write_text(json.dumps(common | {"cpu": CPU, "warm_up": WARM_UP_S, "seconds": SECONDS}))
    (folder / "runner.zip").write_bytes(archive())


def _runner(folder: Path) -> float:
    events = [json.loads(line) for line in _output(folder, "runner.zip", "job.json").splitlines()]
    return float(statistics.median(ns for event in events if event["event"] == "samples" for ns in event["ns"]))


def _bare(folder: Path) -> float:
    return float(_output(folder, "-c", BARE))


def _output(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


PARTS: dict[str, Callable[[Path], Iterator[Figure]]] = {"overhead": overhead}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("bundle", type=Path, help="a folder that edgeopt export wrote")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load before the start {os.getloadavg()[0]:.1f}")
    for figure in PARTS[arguments.part](arguments.bundle):
        print(figure, flush=True)


if __name__ == "__main__":
    main()
