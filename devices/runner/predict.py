"""Modes ``predict`` (every sample's outputs into files) and ``operators`` (times of each operator, in a run of their own)."""

from __future__ import annotations

from . import tensors
from .failures import Failure, failure_from
from .job import Job
from .lines import Lines
from .measure import load, timed, timed_once, warm_up
from .runtimes.interface import Runtime

MAX_PROFILED_RUNS = 100
"""A profile has an entry for each operator and run: more of them would only fill the device's memory."""


def predict(job: Job, runtime: Runtime, lines: Lines, import_ns: int) -> None:
    """Computes every sample once; outputs go to one file each, in the samples' order. The first sample pays the warm-up."""
    assert job.outputs is not None
    load(runtime, lines, import_ns)
    writer = tensors.Writer(job.outputs)
    try:
        for number, sample in enumerate(job.samples):
            taken, result = timed_once(runtime.prepare(tensors.read(sample)))
            lines.write("prediction", sample=number, ns=taken, outputs=writer.append(runtime.collect(result)))
    except Exception as error:
        raise failure_from(error, "run") from error
    finally:
        writer.close()
    lines.write("placement", **runtime.placement())


def operators(job: Job, runtime: Runtime, lines: Lines, import_ns: int) -> None:
    """Warms up with the profiler already on, where it can only be switched on for a whole session, and counts what follows."""
    load(runtime, lines, import_ns)
    try:
        call = runtime.prepare(tensors.read(job.inputs))
        call()
        warm_up(call, min(job.warm_up_max_seconds, 1.0))
        span_ns = int(min(job.max_seconds, 5.0) * 1e9)
        runs = min(job.min_runs, len(timed(call, span_ns, MAX_PROFILED_RUNS)))
        found = runtime.operators(call, runs)
    except Exception as error:
        raise failure_from(error, "run") from error
    lines.write("operators", runs=runs, operators=found)
    placement = runtime.placement()
    lines.write("placement", **placement)
    if job.fail_on_fallback and placement["fallback"]:
        raise Failure("fallback", f"{placement['fallback']} operators ran on the CPU: {placement['operators']}")
