#!/usr/bin/env python3
"""Measures the benchmark harness against its goals. Run it on an otherwise idle machine.

    .venv/bin/python scripts/bench_harness.py overhead build/mobilenet_v2     # a bundle with ONNX and TFLite artifacts

``overhead``: the median that the runner reports over that of a bare loop around the same runtime call, in processes of the same
settings (one thread, one CPU), which take turns: A B, B A, A B, ... What is judged is the median of the pairs' ratios.
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

from edgeopt.bundle import Bundle
from edgeopt.core import Artifact
from edgeopt.devices.runner_archive import archive

ROUNDS = 10
SECONDS = 2.0
WARM_UP_S = 1.0
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
            pairs = list(_pairs(bundle, artifact, Path(folder)))
        ratios = [runner / bare for runner, bare in pairs]
        name = f"{result.target} {artifact.format}"
        yield figure(name=f"{name}: bare loop, median", value=statistics.median(bare for _, bare in pairs) / 1e6, unit="ms")
        yield figure(name=f"{name}: runner, median", value=statistics.median(runner for runner, _ in pairs) / 1e6, unit="ms")
        yield figure(name=f"{name}: pairs' ratios, smallest", value=min(ratios), unit="x")
        yield figure(name=f"{name}: pairs' ratios, largest", value=max(ratios), unit="x")
        away = 100 * abs(statistics.median(ratios) - 1)
        yield figure(name=f"{name}: runner from bare loop, median of pairs", value=away, unit="%", goal=1)


def _pairs(bundle: Path, artifact: Artifact, folder: Path) -> Iterator[tuple[float, float]]:
    """Medians of the runner and of the bare loop, in ns; the first of a pair is now the one, now the other."""
    _prepare(bundle, artifact, folder)
    for number in range(ROUNDS):
        if number % 2:
            bare = _bare(folder)
            yield _runner(folder), bare
        else:
            runner = _runner(folder)
            yield runner, _bare(folder)


def _prepare(bundle: Path, artifact: Artifact, folder: Path) -> None:
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
