"""One measurement with a native benchmark tool: what to measure, how the tool is started, and why it ended without a result."""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgeopt.devices.native.output import Event, Nonsense, error
from edgeopt.devices.transport import MAX_OUTPUT_BYTES, Finished
from edgeopt.devices.variables import with_variables

NativeFormat = Literal["tflite", "onnx"]
TOOLS: Mapping[NativeFormat, str] = {"tflite": "benchmark_model", "onnx": "onnxruntime_perf_test"}
WHERE = {
    "benchmark_model": (
        "LiteRT's nightly prebuilt benchmark_model for the device's system and processor (android_aarch64, linux_aarch64), "
        "see ai.google.dev/edge/litert/models/measurement"
    ),
    "onnxruntime_perf_test": (
        "a build of ONNX Runtime for the device (its build.py --android --build_shared_lib gives onnxruntime_perf_test beside "
        "libonnxruntime.so; see onnxruntime.ai/docs/build)"
    ),
}
"""Where each tool comes from; nothing is downloaded here."""
Mode = Literal["measure", "operators"]
_NOT_FOUND, _NOT_EXECUTABLE, _KILLED = 127, 126, 137
_FULL = "No space left on device"
"""These tools set no locale: the C library's own words."""


class NativeSession(Protocol):
    """What is needed of :class:`edgeopt.devices.session.session.Session`."""

    def run(self, name: str, command: Sequence[str], *, timeout_s: float, limit: int = MAX_OUTPUT_BYTES) -> Finished: ...

    def read(self, name: str, *, limit: int = MAX_OUTPUT_BYTES) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeJob:
    """What to measure, in the words of the Python runner's job. Paths are on the device; times are seconds."""

    format: NativeFormat
    tool: str
    artifact: str
    mode: Mode = "measure"
    threads: int = 1
    cpus: tuple[int, ...] | None = None
    accelerator: str = "cpu"
    delegate: str = ""
    """Shared library of a LiteRT delegate."""
    delegate_options: Mapping[str, str] | None = None
    fail_on_fallback: bool = False
    min_runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 150.0
    warm_up_max_seconds: float = 8.0
    memory: bool = True
    """Whether to start the tool once more for its peak memory, where measuring that disturbs the times."""
    timeout_s: float = 600.0
    """For each start of the tool."""


def command_line(job: NativeJob, arguments: Sequence[str]) -> tuple[str, ...]:
    """The tool with its arguments: bound to the job's CPUs, and with its own folder as the first place for its libraries."""
    pinned = ("taskset", f"{sum(1 << cpu for cpu in set(job.cpus)):x}") if job.cpus else ()
    return (*pinned, *with_variables({"LD_LIBRARY_PATH": posixpath.dirname(job.tool)}, (job.tool, *arguments)))


def guarded(events: Callable[[], list[Event]]) -> list[Event]:
    """``events()``, or the error that says which of the tool's numbers cannot be."""
    try:
        return events()
    except Nonsense as nonsense:
        return [error("bad_output", f"the tool's output makes no sense: {nonsense}")]


def why_it_ended(job: NativeJob, done: Finished, complaints: Sequence[str], *, loaded: bool) -> Event:
    """The error event for a tool that ended without its result; ``complaints`` are the lines where it says why."""
    said = "; ".join(complaints) or f"exit code {done.exit_code}, and no word about why"
    text = done.stderr.decode("utf-8", "replace")
    if "CANNOT LINK EXECUTABLE" in text or "error while loading shared libraries" in text:
        return error("missing_runtime", f"{job.tool} lacks a shared library: {text.strip()[:500]}")
    if full := [words for words in (said, text.strip()[-500:]) if _FULL in words]:
        return error("disk_full", f"{job.tool}: {full[0]}")
    if done.exit_code in (_NOT_FOUND, _NOT_EXECUTABLE):
        return error("missing_runtime", f"{job.tool} cannot be started there, perhaps it is for another processor: {said}")
    if done.exit_code == _KILLED:
        return error("memory", f"{job.tool} was killed, most likely for memory: {said}")
    if 128 < done.exit_code < 160:
        return error("run" if loaded else "load", f"{job.tool} crashed with signal {done.exit_code - 128}: {said}")
    return error("run" if loaded else "load", said)
