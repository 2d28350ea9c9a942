#!/usr/bin/env python3
"""How much accuracy INT8 keeps: edgeopt's artifacts beside what other quantizers make of the same float files, as a table.

    .venv/bin/python scripts/bench_quality.py --network efficientnet_lite0 mnist --images 200
    .venv/bin/python scripts/bench_quality.py --network all --nncf path/to/an/environment/bin/python

Judged is each artifact as it is written: ONNX Runtime with its optimisations off, and LiteRT. Timed is it as
``edgeopt export`` times: on one thread, in turns with its fp32 twin. The others quantize edgeopt's own fp32 twins, calibrated
on the same samples. Data and weights: ``scripts/datasets comparison``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from quality import networks  # noqa: E402  this checkout's
from quality.networks import NETWORKS, Array, Network, Sample  # noqa: E402

from edgeopt import registry  # noqa: E402
from edgeopt.core import to_data  # noqa: E402
from edgeopt.pipeline.requests import TimeRequest  # noqa: E402
from edgeopt.pipeline.tasks import time_against_twin  # noqa: E402
from edgeopt.verify.reference_outputs import ReferenceOutputs  # noqa: E402

Predict = Callable[[Sample], Array]
TARGETS = ("x86-fbgemm", "x86-fbgemm-avx2", "arm-xnnpack")
PEERS = {
    "ONNX Runtime, MinMax": ("onnx", "MinMax"),
    "ONNX Runtime, Percentile": ("onnx", "Percentile"),
    "ONNX Runtime, Entropy": ("onnx", "Entropy"),
    "ONNX Runtime, MinMax, reduce_range": ("onnx", "reduce_range"),
    "NNCF": ("onnx", "nncf"),
    "ai-edge-quantizer, static_wi8_ai8": ("tflite", "ai-edge-quantizer"),
}
LONGEST = 300
"""Seconds for one peer."""


@dataclass(frozen=True)
class Made:
    """What making something cost: seconds, and the peak of its largest process in MB; ``failed`` is its last line."""

    seconds: float
    peak_mb: float
    failed: str = ""


# Linux counts what a process had before exec as its own peak: the command is started by a small process, not by this one.
LAUNCHER = f"""
import json, resource, subprocess, sys
try:
    code = subprocess.run(sys.argv[2:], timeout={LONGEST}).returncode
except subprocess.TimeoutExpired:
    code = "more than {LONGEST} s"
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]), file=open(sys.argv[1], "w"))
"""


def run(command: list[str], log: Path, **own: str) -> Made:
    start, told = time.monotonic(), log.with_suffix(".json")
    with log.open("w") as file:
        launcher = [sys.executable, "-c", LAUNCHER, str(told), *command]
        subprocess.run(launcher, env=os.environ | own, stdout=file, stderr=subprocess.STDOUT, check=True)
    code, peak_kb = json.loads(told.read_text())
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines and code in (1, 2) else f"ended with {code}"
    return Made(time.monotonic() - start, peak_kb / 1000, last if code else "")


def onnx_as_written(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda sample: np.asarray(session.run(None, dict(zip(names, sample, strict=True)))[0])


def predictor(path: Path, fmt: str) -> Predict:
    """What computes ``path`` as it is written."""
    if fmt == "onnx":
        return onnx_as_written(path)
    loaded = registry.converter(fmt).load(path, threads=2)
    return lambda sample: np.asarray(loaded(*sample)[0], np.float32)


def outputs(path: Path, fmt: str, samples: list[Sample]) -> Array:
    predict = predictor(path, fmt)
    return np.concatenate([predict(sample) for sample in samples]).astype(np.float64)


@dataclass(frozen=True)
class Judge:
    """Compares artifacts on ``samples`` with the float twin's ``wanted``, and prints a row for each."""

    network: Network
    samples: list[Sample]
    labels: list[int]
    wanted: Array
    twins: dict[str, Path]
    references: Path

    def row(self, name: str, path: Path, fmt: str, made: Made | None) -> None:
        try:
            found = outputs(path, fmt, self.samples)
            latency = f"{self.latency(path, fmt):.2f}" if made else "1"
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            print(f"| {name} | does not run: {reason} | | | | | | |", flush=True)
            return
        noise = float(np.square(self.wanted - found).sum())
        sqnr = f"{10 * np.log10(float(np.square(self.wanted).sum()) / noise):.1f}" if noise else ""
        top1 = f"{100 * np.mean(found.argmax(1) == self.labels):.1f}" if self.labels else ""
        agreement = ""
        if self.network.classes:
            agreement = f"{100 * np.mean(self.network.classes(found) == self.network.classes(self.wanted)):.1f}"
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        size = sum(each.stat().st_size for each in files) / 1e6
        cost = f"{made.seconds:.0f} | {made.peak_mb:.0f}" if made else " | "
        print(f"| {name} | {top1} | {agreement} | {sqnr} | {size:.2f} | {latency} | {cost} |", flush=True)

    def latency(self, path: Path, fmt: str) -> float:
        asked = TimeRequest(format=fmt, out=path, twin=self.twins[fmt], references=self.references, threads=1)
        found: dict[str, Any] = time_against_twin(to_data(asked))
        return float(found["median_ms"] / found["twin_ms"])


def exported(name: str, folder: Path, quality: str) -> tuple[Made, list[tuple[str, str, Path]]]:
    """What a bundle cost, and its artifacts, twins too: (target, format, path). None where the export failed."""
    bundle = folder / quality
    reference = f"{ROOT}/scripts/quality/networks.py:{model_of(name)}"
    command = [sys.executable, "-m", "edgeopt.cli", "export", reference, "--float-io", "--quality", quality, "--no-cache"]
    command += [*(word for target in TARGETS for word in ("--target", target)), "--out", str(bundle)]
    made = run(command, folder / "log", PYTHONPATH=str(ROOT))
    if not (bundle / "manifest.json").exists():
        return made, []
    results = json.loads((bundle / "manifest.json").read_text())["results"]
    for target in (r["target"] for r in results if not r["artifact"]):
        print(f"| edgeopt {quality}, {target} | no artifact: no layer in integers, or failed | | | | | | |", flush=True)
    return made, [(r["target"], r["format"], bundle / r["artifact"]["path"]) for r in results if r["artifact"]]


def compare(name: str, folder: Path, count: int, qualities: list[str], nncf: str | None) -> None:
    network = NETWORKS[name]
    batches: Any = network.model().calibration  # here first: what has to be trained is no part of what making costs
    samples, labels = network.held_out(count)
    agreeing = f"; agreement: {network.agreeing}" if network.agreeing else ""
    print(f"\n{name}: calibrated on {networks.CALIBRATED}, judged on {len(samples)}{agreeing}\n")
    print(
        "| made by | top-1 % | agreement % | SQNR dB | MB | latency | s | peak MB |\n" + "|---" * 8 + "|",
        flush=True,
    )
    judge: Judge | None = None
    for quality in qualities:
        made, artifacts = exported(name, folder, quality)
        if not artifacts:
            print(f"| edgeopt {quality} | fails: {made.failed} | | | | | | |", flush=True)
            return
        if judge is None:
            twins = {fmt: path for target, fmt, path in artifacts if target == "portable-fp32"}
            references = folder / "references.npz"
            wanted = outputs(twins["onnx"], "onnx", samples)
            ReferenceOutputs(samples=samples[:1], outputs=[(wanted[:1],)]).write(references)
            judge = Judge(network, samples, labels, wanted, twins, references)
            judge.row("float", twins["onnx"], "onnx", None)
        each = Made(made.seconds / len(TARGETS), made.peak_mb)
        for target, fmt, path in artifacts:
            if target in TARGETS:
                judge.row(f"edgeopt {quality}, {target}", path, fmt, each)
    assert judge is not None
    peers(judge, batches, folder, nncf)


def model_of(name: str) -> str:
    """The function of networks.py that makes it; those of the matrix stand there under their own name."""
    function = NETWORKS[name].model.__name__
    return name if function == "model" else function


def peers(judge: Judge, batches: Any, folder: Path, nncf: str | None) -> None:
    calibration = folder / "calibration.npz"
    np.savez(calibration, **{f"{i}/{j}": part.numpy() for i, batch in enumerate(batches) for j, part in enumerate(batch)})
    for name, (fmt, peer) in PEERS.items():
        if peer == "nncf" and nncf is None:
            continue
        python = nncf if peer == "nncf" and nncf else sys.executable
        kind = "nncf-transformer" if peer == "nncf" and judge.network.transformer else peer
        out = folder / f"{peer}.{fmt}"
        if fmt not in judge.twins:
            print(f"| {name} | has no twin to quantize | | | | | | |", flush=True)
            continue
        own = [python, str(ROOT / "scripts/quality/peers.py"), kind, str(judge.twins[fmt]), str(out), str(calibration)]
        made = run(own, folder / "log")
        if made.failed or not out.exists():
            print(f"| {name} | fails: {made.failed[:160]} | | | | | {made.seconds:.0f} | {made.peak_mb:.0f} |", flush=True)
        else:
            judge.row(name, out, fmt, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*NETWORKS, "all"]
    parser.add_argument("--network", nargs="+", default=names[:1], choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--images", type=int, default=200, help="how many samples to judge on")
    parser.add_argument("--quality", nargs="+", default=["balanced"], help="of edgeopt's artifacts")
    parser.add_argument("--nncf", metavar="PYTHON", help="of an environment with nncf, onnx and onnxruntime; else no row")
    asked = parser.parse_args()
    for name in NETWORKS if "all" in asked.network else asked.network:
        with tempfile.TemporaryDirectory() as temporary:
            compare(name, Path(temporary), asked.images, asked.quality, asked.nncf)


if __name__ == "__main__":
    main()
