"""TensorRT by its tool trtexec, where there is no Python package: Jetson boards have the tool from the start.

Written against the tool's README and source (NVIDIA/TensorRT, samples/trtexec and samples/common/sampleReporting.cpp); not
yet run on a GPU. It measures by itself and tells at its end, so that a killed run keeps nothing. A sample is its
``latencyMs``: copy to the GPU, compute, copy back. It writes outputs as rounded text, so that none are compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from . import tensors
from .failures import Failure
from .job import Job
from .lines import Lines

_PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
_LOADED = re.compile(r"[Ee]ngine (?:loaded|deserialized) in ([0-9.eE+-]+) sec")
_VERSION = re.compile(r"TensorRT version: ([0-9.]+)")
_PROBLEM = re.compile(r"^.*\[E\].*$", re.MULTILINE)
_WARM_UP_MS = 1000


def find() -> str | None:
    """The tool's path, or None."""
    return shutil.which("trtexec") or next((path for path in _PLACES if os.access(path, os.X_OK)), None)


def go(tool: str, job: Job, lines: Lines) -> None:
    """The job, as far as the tool can do it. Raises Failure."""
    if job.mode == "predict":
        raise Failure("missing_runtime", "trtexec gives no exact outputs: predictions need TensorRT's Python package")
    log = _run([tool, *_arguments(job)])
    version = _VERSION.search(log)
    lines.write("runtime", name="trtexec", versions={"tensorrt": version.group(1) if version else ""}, python=None)
    loaded = _LOADED.search(log)
    lines.write("loaded", import_ns=None, ns=int(float(loaded.group(1)) * 1e9) if loaded else None, threads=None)
    if job.mode == "operators":
        found = operators_from(_exported("profile.json"))
        lines.write("operators", runs=found[0]["runs"] if found else 0, operators=found)
    else:
        _write_samples(samples_from(_exported("times.json"), _WARM_UP_MS), lines)


def _write_samples(found: tuple[list[int], list[int]], lines: Lines) -> None:
    warm_up, samples = found
    if not samples:
        raise Failure("run", "trtexec measured nothing after its warm-up")
    if warm_up:
        lines.write("first", ns=warm_up[0], process_threads=None)
        lines.write("warm", runs=len(warm_up), ns=sum(warm_up), stable=None)
    lines.write("samples", t_ns=0, ns=samples, cpu_ns=None, preempted=None)
    lines.write("phase", name="burst", runs=len(samples), ns=sum(samples), stopped_by="enough")


def _arguments(job: Job) -> list[str]:
    tensors.read(job.inputs)  # says what is wrong with them better than the tool does
    for tensor in job.inputs:
        if tensor.offset or re.search(r"[:,']", tensor.name + tensor.file):
            raise Failure("bad_job", f"trtexec cannot be given input {tensor.name} from {tensor.file}")
    inputs = ",".join(f"{tensor.name}:{tensor.file}" for tensor in job.inputs)
    given = [f"--loadEngine={job.artifact}", f"--loadInputs={inputs}", "--useSpinWait", f"--warmUp={_WARM_UP_MS}"]
    given += [f"--iterations={job.min_runs}", f"--duration={max(1, round(job.min_seconds))}"]
    if job.mode == "operators":
        return [*given, "--dumpProfile", "--separateProfileRun", "--exportProfile=profile.json"]
    return [*given, "--exportTimes=times.json"]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    log = done.stdout.decode("utf-8", "replace")
    sys.stderr.write(log)
    if done.returncode:
        problems = _PROBLEM.findall(log) or log.strip().splitlines()[-3:]
        raise Failure("load" if not _LOADED.search(log) else "run", "\n".join(problems))
    return log


def _exported(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise Failure("run", f"trtexec wrote no usable {path}: {error}") from error


def samples_from(trace: list[dict[str, Any]], warm_up_ms: float) -> tuple[list[int], list[int]]:
    """Latencies in ns from ``--exportTimes``: those of the warm-up, which the file has too, and those after it."""
    warm_up: list[int] = []
    samples: list[int] = []
    for entry in trace:
        place = warm_up if entry["startComputeMs"] < warm_up_ms else samples
        place.append(round(entry["latencyMs"] * 1e6))
    return warm_up, samples


def operators_from(profile: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers from ``--exportProfile``, whose first entry is the number of runs."""
    runs = next((int(entry["count"]) for entry in profile if "count" in entry), 0)
    return [
        {
            "name": entry["name"],
            "kind": entry["name"],
            "provider": "tensorrt",
            "runs": runs,
            "mean_ns": entry["averageMs"] * 1e6,
        }
        for entry in profile
        if "averageMs" in entry
    ]
