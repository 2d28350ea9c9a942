"""The runner from its command line to its last line."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import time
from importlib.util import find_spec

from . import trtexec
from .failures import Failure, failure_from
from .job import Job, read_job
from .lines import Lines
from .measure import Measurement, cpus_in_force
from .memory import Memory
from .predict import operators, predict
from .runtimes.found import runtime_for
from .runtimes.interface import Runtime


def main(arguments: list[str]) -> int:
    """Runs the job in the file ``arguments[1]``. 0: complete; 1: an ``error`` line says why not; 64: a wrong command line."""
    if len(arguments) != 2:
        sys.stderr.write("usage: runner.zip job.json\n")
        return 64
    faulthandler.enable()
    lines = Lines.instead_of_stdout()
    try:
        _run(read_job(arguments[1]), lines)
    except Exception as error:  # whatever it is, the other side must hear of it
        failure = failure_from(error, "run")
        lines.error(failure.kind, str(failure))
        return 1
    lines.write("end")
    return 0


def _run(job: Job, lines: Lines) -> None:
    memory = Memory()
    memory.mark("start")
    _pin(job)
    tool = trtexec.find() if job.format == "tensorrt" and not find_spec("tensorrt") else None
    if tool:
        trtexec.go(tool, job, lines)
        return
    start = time.perf_counter_ns()
    runtime = runtime_for(job)
    import_ns = time.perf_counter_ns() - start
    memory.mark("imported")
    _describe(runtime, lines)
    if job.mode == "measure":
        Measurement(job, runtime, lines, memory).go(import_ns)
    elif job.mode == "predict":
        predict(job, runtime, lines, import_ns)
    else:
        operators(job, runtime, lines, import_ns)


def _pin(job: Job) -> None:
    """Before any thread exists, so that all of them inherit it."""
    if job.cpus is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Failure("bad_job", f"{platform.system()} has no way to choose the CPUs of a process")
    try:
        os.sched_setaffinity(0, job.cpus)
    except OSError as error:
        raise Failure("bad_job", f"CPUs {list(job.cpus)} cannot be chosen here: {error}") from error


def _describe(runtime: Runtime, lines: Lines) -> None:
    lines.write(
        "runtime",
        name=runtime.name,
        versions=runtime.versions(),
        python=platform.python_version(),
        machine=platform.machine(),
        system=platform.system(),
        release=platform.release(),
        cpus=cpus_in_force(),
        cpu_count=os.cpu_count(),
        load_average=_load_average(),
    )


def _load_average() -> list[float] | None:
    try:
        return list(os.getloadavg())
    except OSError:
        return None
