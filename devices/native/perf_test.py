"""ONNX Runtime's ``onnxruntime_perf_test``: its command line, and its output as the runner's events.

Read from its sources (onnxruntime/test/perftest) and from outputs that users published. Its result file has every sample, so
that these measurements are as good as the Python runner's; its standard output has what came before.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from edgeopt.devices.native.job import NativeJob, NativeSession, command_line, guarded, why_it_ended
from edgeopt.devices.native.output import NUMBER, Event, Nonsense, check_order, clean_lines, error, nanoseconds, number
from edgeopt.devices.runner.runtimes.interface import placed
from edgeopt.devices.runner.runtimes.onnx_runtime import from_profile, placement_in
from edgeopt.devices.runner.warm_up import WarmUp
from edgeopt.devices.transport import Finished
from edgeopt.errors import BadAnswer, DeviceError, DeviceTimeout, LinkLost, RunFailed

MAX_SAMPLES = 1_000_000
CHUNK_NS = 500_000_000
MAX_CHUNK = 10_000
RESULT, PROFILE = "result.csv", "profile.json"
_MAX_RESULT_BYTES = 64 * 1024**2
_MAX_PROFILE_BYTES = 64 * 1024**2
_S, _MS = 1e9, 1e6
_WARM_UP_S = 2.0
"""What most models need to be warm, by the runner's rule; one that needs longer is measured again."""
_PROFILED_RUNS = 50
_ALMOST = 0.9
"""Of the time asked for: the tool counts whole seconds, and its own work between runs."""
_PROVIDERS = ("cpu", "xnnpack", "nnapi", "qnn", "cuda", "tensorrt", "coreml", "acl", "openvino", "migraphx", "webgpu")
_RESULT_LINE = re.compile(
    rf"^(Session creation time cost|First inference time cost|Average inference time cost(?: total)?|Total inference requests"
    rf"|Peak working set size|(?:Min|Max|P50|P90|P95|P99|P999) Latency)(?::| is) ?({NUMBER})"
)
_COMPLAINT = re.compile(r"\b(?:[Ee]xception|[Ee]rror|[Ff]ail(?:ed|ure)?|Usage|must|no test data)\b")
_FALLBACK = "fallback to CPU EP has been explicitly disabled"


def measure(session: NativeSession, job: NativeJob) -> Iterator[Event]:
    """Runs the tool for the time asked for; another time, longer, where that was not enough runs after the warm-up."""
    _check(job)
    if job.mode == "operators":
        yield from _profiled(session, job)
        return
    seconds = min(job.min_seconds + min(job.warm_up_max_seconds, _WARM_UP_S), job.max_seconds)
    try:
        done, samples = _once(session, job, ("-m", "duration", "-t", str(math.ceil(seconds))))
        if samples and not _enough(samples, job):
            done, samples = _once(session, job, ("-m", "times", "-r", str(_runs(samples, job))))
    except Nonsense as nonsense:
        yield error("bad_output", f"the tool's result file makes no sense: {nonsense}")
        return
    yield from events(done, samples, job)


def command(job: NativeJob, extent: Sequence[str]) -> tuple[str, ...]:
    """The command line; ``extent`` is ``-m duration -t SECONDS`` or ``-m times -r RUNS``. Raises RunFailed: see ``measure``."""
    _check(job)
    provider = "qnn" if job.accelerator == "npu" else job.accelerator
    options = ["-e", provider]
    if job.accelerator == "npu":
        options += ["-i", "backend_type|htp"]
    if _strict(job):
        options += ["-C", "session.disable_cpu_ep_fallback|1"]
    if job.mode == "operators":
        options += ["-p", "profile"]
    # Inputs of zeros or of whatever memory holds are faster or slower than data: -S fills them with random numbers.
    options += [*extent, "-x", str(job.threads), "-y", "1", "-S", "1", "-s", "-I"]
    return command_line(job, [*options, job.artifact, RESULT])


def events(done: Finished, samples: Sequence[int], job: NativeJob) -> list[Event]:
    """The tool's output and its samples (ns) as events; the last one is ``error`` where it gave no result."""
    return guarded(lambda: _events(clean_lines(done.stdout, done.stderr), done, samples, job))


def samples_in(result: bytes) -> list[int]:
    """Nanoseconds of each run, from the result file: ``model,SECONDS,memory,cpu,run``; newer versions have a time more.

    Raises Nonsense for a time that cannot be. Other lines, the summary in some versions, are passed over.
    """
    found = []
    for line in result.decode("utf-8", "replace").splitlines():
        fields = line.rsplit(",", 4)
        if len(fields) == 5 and re.fullmatch("[0-9]{1,12}", fields[4].strip()):
            # Before a time there is the model's name, with whatever commas, or the submission's time.
            found.append(nanoseconds(fields[1].strip(), _S))
            if len(found) == MAX_SAMPLES:
                break
    return found


def _check(job: NativeJob) -> None:
    if job.accelerator not in (*_PROVIDERS, "npu") or job.delegate:
        raise RunFailed(
            f"onnxruntime_perf_test has no accelerator {job.accelerator!r}",
            why=f"it knows {', '.join(_PROVIDERS)}, and no LiteRT delegates",
            fix="choose another target for this device",
        )


def _strict(job: NativeJob) -> bool:
    return job.fail_on_fallback and job.accelerator != "cpu"


def _once(session: NativeSession, job: NativeJob, extent: Sequence[str]) -> tuple[Finished, list[int]]:
    # The tool adds to a file that is there.
    session.run("clear", ("rm", "-f", RESULT), timeout_s=job.timeout_s)
    done = session.run("benchmark", command(job, extent), timeout_s=job.timeout_s)
    if done.exit_code != 0:
        return done, []
    return done, samples_in(_read(session, RESULT, _MAX_RESULT_BYTES) or b"")


def _read(session: NativeSession, name: str, limit: int) -> bytes | None:
    """A file that the tool was to write; None where it did not."""
    try:
        return session.read(name, limit=limit)
    except (LinkLost, DeviceTimeout, BadAnswer):
        raise
    except DeviceError:
        return None


def _warm_up(samples: Sequence[int], job: NativeJob) -> WarmUp:
    detector = WarmUp(int(job.warm_up_max_seconds * 1e9))
    for sample in samples:
        if job.warm_up_max_seconds == 0 or detector.over(sample):
            break
    return detector


def _enough(samples: Sequence[int], job: NativeJob) -> bool:
    warm = _warm_up(samples, job)
    steady = samples[warm.runs :]
    ended = warm.stable or warm.total_ns >= job.warm_up_max_seconds * 1e9
    return ended and len(steady) >= job.min_runs and sum(steady) >= _ALMOST * job.min_seconds * 1e9


def _runs(samples: Sequence[int], job: NativeJob) -> int:
    """How many runs make warm-up and measurement whole, within ``max_seconds``."""
    mean_ns = max(sum(samples) / len(samples), 1.0)
    steady = max(job.min_runs, math.ceil(job.min_seconds * 1e9 / mean_ns))
    warm = math.ceil(job.warm_up_max_seconds * 1e9 / mean_ns) + 1
    return min(steady + warm, max(int(job.max_seconds * 1e9 / mean_ns), 1), MAX_SAMPLES)


def _events(lines: Sequence[str], done: Finished, samples: Sequence[int], job: NativeJob) -> list[Event]:
    values: dict[str, str] = {}
    for line in lines:
        if match := _RESULT_LINE.match(line):
            values.setdefault(match[1], match[2])
    cpus = list(job.cpus) if job.cpus else None
    found: list[Event] = [{"event": "runtime", "name": "onnxruntime_perf_test", "versions": {}, "cpus": cpus}]
    if "Session creation time cost" in values:
        created = nanoseconds(values["Session creation time cost"], _S)
        found.append({"event": "loaded", "ns": created, "threads": job.threads})
    if any(_FALLBACK in line for line in lines):
        return [*found, error("fallback", next(line for line in lines if _FALLBACK in line))]
    if done.exit_code != 0 or "Total inference requests" not in values:
        complaints = [line for line in lines if _COMPLAINT.search(line)][:10]
        return [*found, why_it_ended(job, done, complaints, loaded=len(found) > 1)]
    if "First inference time cost" in values:  # whole milliseconds
        first = nanoseconds(values["First inference time cost"], _MS)
        found.append({"event": "first", "ns": first, "resolution_ns": int(_MS)})
    found += _sampled(samples, job) if samples else [{"event": "summary", **_summary(values)}]
    peak = number(values.get("Peak working set size", "0"))
    if peak > 0:
        found.append({"event": "memory", "peak": int(peak)})
    alone = job.accelerator == "cpu" or _strict(job)
    return [*found, {"event": "placement", **placed(job.accelerator, None, 0 if alone else None)}]


def _sampled(samples: Sequence[int], job: NativeJob) -> list[Event]:
    """The warm-up, told from the rest by the runner's rule, and the samples in chunks as the runner writes them."""
    warm = _warm_up(samples, job)
    steady = samples[warm.runs :]
    if not steady:  # never warm within max_seconds: then all of them count, and the event says so
        warm, steady = WarmUp(0), samples
    found: list[Event] = []
    if job.warm_up_max_seconds > 0:
        found.append({"event": "warm", "runs": warm.runs, "ns": warm.total_ns, "stable": warm.stable})
    total_ns = 0
    for chunk in _chunks(steady):
        found.append({"event": "samples", "t_ns": total_ns, "ns": chunk})
        total_ns += sum(chunk)
    stopped = "enough" if len(steady) >= job.min_runs and total_ns >= _ALMOST * job.min_seconds * 1e9 else "max_seconds"
    return [*found, {"event": "phase", "name": "burst", "runs": len(steady), "ns": total_ns, "stopped_by": stopped}]


def _chunks(samples: Sequence[int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    chunk_ns = 0
    for sample in samples:
        chunk.append(sample)
        chunk_ns += sample
        if chunk_ns >= CHUNK_NS or len(chunk) == MAX_CHUNK:
            yield chunk
            chunk, chunk_ns = [], 0
    if chunk:
        yield chunk


def _summary(values: dict[str, str]) -> dict[str, Any]:
    """What the tool says of its samples where they cannot be read: warm-up included."""
    count = int(number(values["Total inference requests"], low=1, high=1e12))
    average = values.get("Average inference time cost total", values.get("Average inference time cost"))
    if average is None:
        raise Nonsense("it gives no average")
    names = {"Min": "min_ns", "P50": "median_ns", "P90": "p90_ns", "P95": "p95_ns", "P99": "p99_ns", "Max": "max_ns"}
    times = {name: nanoseconds(values[f"{label} Latency"], _S) for label, name in names.items() if f"{label} Latency" in values}
    check_order(times, *names.values())
    return {"count": count, "avg_ns": nanoseconds(average, _MS), "std_ns": None, **times}


def _profiled(session: NativeSession, job: NativeJob) -> Iterator[Event]:
    """Times of each operator, and which provider ran it, from ONNX Runtime's own profile."""
    runs = min(job.min_runs, _PROFILED_RUNS)
    session.run("clear", ("sh", "-c", "rm -f result.csv profile*.json"), timeout_s=job.timeout_s)
    done = session.run("benchmark", command(job, ("-m", "times", "-r", str(runs))), timeout_s=job.timeout_s)
    found = events(done, [], job)
    yield from (event for event in found if event["event"] not in ("summary", "placement"))
    if found[-1]["event"] == "error":
        return
    # The tool puts the date into the file's name.
    session.run("rename", ("sh", "-c", f"mv profile_*.json {PROFILE}"), timeout_s=job.timeout_s)
    yield from operators_in(_read(session, PROFILE, _MAX_PROFILE_BYTES) or b"[]", runs, job)


def operators_in(profile: bytes, runs: int, job: NativeJob) -> list[Event]:
    """The events ``operators`` and ``placement`` from a profile in JSON, or an ``error``. Any bytes give some."""
    try:
        operators = from_profile(json.loads(profile), runs)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
        return [error("bad_output", "ONNX Runtime's profile makes no sense")]
    if not operators:
        return [error("run", "ONNX Runtime's profile has no operators")]
    return [
        {"event": "operators", "runs": runs, "operators": operators},
        {"event": "placement", **placement_in(operators, job.accelerator)},
    ]
