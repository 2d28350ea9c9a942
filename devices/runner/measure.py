"""Mode ``measure``: load, first inference, warm-up, timed runs, sustained runs, memory, outputs, placement, in this order."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from typing import Any

from . import tensors
from .environment import Environment
from .failures import failure_from
from .job import Job
from .lines import Lines
from .memory import Memory, status_number
from .runtimes.interface import Call, Runtime
from .warm_up import WarmUp

CHUNK_NS = 500000000
MAX_SAMPLES = 1000000
"""Of the burst phase: with more, the phase ends early and says so."""
MAX_SUSTAINED = 500000
WINDOW_NS = 1000000000
SETTLE_FROM = 10
"""After a pause caches are cold: one run goes untimed, where a chunk has enough runs for that to cost little."""


def load(runtime: Runtime, lines: Lines, import_ns: int) -> None:
    """Loads the artifact and writes ``loaded``."""
    start = time.perf_counter_ns()
    try:
        runtime.load()
    except Exception as error:
        raise failure_from(error, "load") from error
    lines.write("loaded", import_ns=import_ns, ns=time.perf_counter_ns() - start, threads=runtime.threads())


def timed_once(call: Call) -> tuple[int, Any]:
    """Duration and result of one call."""
    start = time.perf_counter_ns()
    result = call()
    return time.perf_counter_ns() - start, result


def timed(call: Call, span_ns: int, limit: int) -> list[int]:
    """Durations of calls one after another, for ``span_ns`` or ``limit`` calls, at least one.

    Nothing but the call stands between the two clock readings; what it returns is dropped at once, as a bare loop would.
    """
    clock = time.perf_counter_ns
    samples: list[int] = []
    append = samples.append
    end = clock() + span_ns
    for _ in range(limit):
        start = clock()
        call()
        now = clock()
        append(now - start)
        if now >= end:
            break
    return samples


def warm_up(call: Call, max_seconds: float) -> WarmUp:
    """Runs ``call`` until its times are stable, or ``max_seconds`` are over."""
    detector = WarmUp(int(max_seconds * 1e9))
    while not detector.over(timed_once(call)[0]):
        pass
    return detector


class Measurement:
    """One artifact's measurement, phase by phase."""

    def __init__(self, job: Job, runtime: Runtime, lines: Lines, memory: Memory) -> None:
        self._job, self._runtime, self._lines, self._memory = job, runtime, lines, memory
        self._environment = Environment(lines)
        self._runs = 0

    def go(self, import_ns: int) -> None:
        """Everything, as the module says. Raises Failure where it cannot go on."""
        inputs = tensors.read(self._job.inputs)
        self._environment.note(0, "start", always=True)
        load(self._runtime, self._lines, import_ns)
        self._memory.mark("loaded")
        try:
            self._phases(self._runtime.prepare(inputs))
        except Exception as error:
            raise failure_from(error, "run") from error

    def _phases(self, call: Call) -> None:
        first_ns, result = timed_once(call)
        self._lines.write("first", ns=first_ns, process_threads=status_number("Threads"))
        first = self._runtime.collect(result)
        del result
        gc.collect()
        gc.freeze()
        gc.disable()
        if self._job.warm_up_max_seconds > 0:
            warm = warm_up(call, self._job.warm_up_max_seconds)
            self._lines.write("warm", runs=warm.runs, ns=warm.total_ns, stable=warm.stable)
        self._memory.mark("warm")
        self._burst(call)
        if self._job.sustained_seconds > 0:
            self._sustained(call)
        gc.enable()
        self._memory.mark("end")
        self._lines.write("memory", **self._memory.fields())
        self._outputs(first, self._runtime.collect(call()))
        self._lines.write("placement", **self._runtime.placement())

    def _burst(self, call: Call) -> None:
        begin = time.perf_counter_ns()
        runs = 0
        samples: list[int] = []
        stopped_by: str | None = None
        while stopped_by is None:
            t_ns = time.perf_counter_ns() - begin
            samples, load = self._chunk(call, self._span(t_ns), self._limit(t_ns, runs), len(samples))
            runs += len(samples)
            self._lines.write("samples", t_ns=t_ns, ns=samples, **load)
            self._environment.note(t_ns, "burst")
            stopped_by = self._stop(time.perf_counter_ns() - begin, runs)
        self._end_phase("burst", begin, runs, stopped_by)

    def _span(self, t_ns: int) -> int:
        """A chunk ends with the phase's least time, where that is near, and never after its most."""
        least, most = int(self._job.min_seconds * 1e9), int(self._job.max_seconds * 1e9)
        return max(min(CHUNK_NS, most - t_ns, least - t_ns if t_ns < least else CHUNK_NS), 0)

    def _limit(self, t_ns: int, runs: int) -> int:
        """Once the time is enough, only as many runs as are missing."""
        if t_ns < self._job.min_seconds * 1e9:
            return MAX_SAMPLES - runs
        return max(min(self._job.min_runs, MAX_SAMPLES) - runs, 1)

    def _stop(self, t_ns: int, runs: int) -> str | None:
        if runs >= self._job.min_runs and t_ns >= self._job.min_seconds * 1e9:
            return "enough"
        if t_ns >= self._job.max_seconds * 1e9:
            return "max_seconds"
        return "max_samples" if runs >= MAX_SAMPLES else None

    def _chunk(self, call: Call, span_ns: int, limit: int, before: int) -> tuple[list[int], dict[str, int | None]]:
        """Timed runs, and what they took of the CPU; then a look at memory. ``before``: runs of the chunk before."""
        if before >= SETTLE_FROM:
            call()
        cpu_ns, switches = time.process_time_ns(), _forced_switches()
        samples = timed(call, span_ns, limit)
        cpu_ns = time.process_time_ns() - cpu_ns
        later = _forced_switches()
        self._runs += len(samples)
        self._memory.after(self._runs)
        return samples, {"cpu_ns": cpu_ns, "preempted": None if switches is None or later is None else later - switches}

    def _end_phase(self, name: str, begin: int, runs: int, stopped_by: str) -> None:
        passed = time.perf_counter_ns() - begin
        self._environment.note(passed, name, always=True)
        self._lines.write("phase", name=name, runs=runs, ns=passed, stopped_by=stopped_by)

    def _sustained(self, call: Call) -> None:
        """Windows of a second, each thinned so that all of them together stay within MAX_SUSTAINED samples."""
        begin = time.perf_counter_ns()
        runs = 0
        samples: list[int] = []
        end_ns = int(self._job.sustained_seconds * 1e9)
        kept = max(MAX_SUSTAINED * WINDOW_NS // max(end_ns, WINDOW_NS), 20)
        t_ns = 0
        while t_ns < end_ns:
            samples, load = self._chunk(call, min(WINDOW_NS, end_ns - t_ns), MAX_SAMPLES, len(samples))
            runs += len(samples)
            every = -(-len(samples) // kept)
            self._lines.write("sustained", t_ns=t_ns, runs=len(samples), ns_total=sum(samples), ns=samples[::every], **load)
            self._environment.note(t_ns, "sustained")
            t_ns = time.perf_counter_ns() - begin
        self._end_phase("sustained", begin, runs, "enough")

    def _outputs(self, first: list[tensors.Tensor], last: list[tensors.Tensor]) -> None:
        files = []
        if self._job.outputs is not None:
            writer = tensors.Writer(self._job.outputs)
            files = writer.append(first)
            writer.close()
        same = [_digest(tensor) for tensor in first] == [_digest(tensor) for tensor in last]
        not_finite = sum(tensor.not_finite for tensor in first)
        self._lines.write("outputs", files=files, same_at_end=same, not_finite=not_finite)


def _digest(tensor: tensors.Tensor) -> bytes:
    return hashlib.sha256(tensor.data).digest()


def _forced_switches() -> int | None:
    """How often so far the system took the CPU away from this process."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def cpus_in_force() -> list[int] | None:
    """The CPUs that this process may use, where the system tells."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
