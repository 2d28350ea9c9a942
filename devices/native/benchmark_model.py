"""LiteRT's ``benchmark_model``: its command line, and its output as the runner's events.

Read from its sources (tflite/tools/benchmark, tflite/profiling) and from outputs that users published. It prints a summary of
its samples, in microseconds, first of the warm-up and then of the run; which numbers stand there depends on the version.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from edgeopt.devices.native.job import NativeJob, NativeSession, command_line, guarded, why_it_ended
from edgeopt.devices.native.output import NUMBER, Event, Nonsense, check_order, clean_lines, error, nanoseconds, number
from edgeopt.devices.runner.runtimes.interface import placed
from edgeopt.devices.transport import Finished
from edgeopt.errors import RunFailed

MAX_OPERATORS = 20_000
_US, _MS, _MIB = 1e3, 1e6, 1024**2
_WARM_UP_S = 2.0
"""The tool cannot tell when it is warm; its own default is half a second."""
_PROFILED_RUNS = 50
_ACCELERATORS = {
    "cpu": ("--use_xnnpack=true",),  # the default, too; named, the tool tells how much XNNPACK took over
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_gpu=true",),
    "nnapi": ("--use_nnapi=true",),
}
_ON_CPU = ("cpu", "xnnpack")
_COUNT = re.compile(r"^count=([0-9]{1,12})((?: +\w+=\S+)*) *$")
_APPLIED = re.compile(
    r"Explicitly applied (\S.{0,60}?) delegate, and the model graph will be (completely|partially) executed by the delegate"
    r"(?: w/ ([0-9]{1,6}) delegate kernels)?"
)
_NOT_APPLIED = re.compile(r"Though (\S.{0,60}?) delegate is explicitly applied, the model graph will not be executed")
_REFUSED = "Disallowed CPU fallback detected"
_DELEGATE_NODE = re.compile(r"TfLite\w*Delegate\w*|DELEGATE|Delegate/.*")
_COMPLAINT = re.compile(r"^(?:ERROR: ?.*|.*\b(?:[Ff]ailed|[Cc]ould not|[Cc]annot|[Ee]rror)\b.*)")


def measure(session: NativeSession, job: NativeJob) -> Iterator[Event]:
    """Runs the tool; another time for its peak memory, whose polling would disturb the times."""
    line = command(job)
    done = session.run("benchmark", line, timeout_s=job.timeout_s)
    found = events(done, job)
    yield from found
    if not job.memory or job.mode != "measure" or found[-1]["event"] == "error":
        return
    again = session.run("memory", memory_command(job), timeout_s=job.timeout_s)
    yield from guarded(lambda: _memory(clean_lines(again.stdout, again.stderr)))


def command(job: NativeJob) -> tuple[str, ...]:
    """The command line for modes measure and operators. Raises RunFailed for an accelerator that the tool does not know."""
    runs, seconds = (job.min_runs, job.min_seconds) if job.mode == "measure" else (min(job.min_runs, _PROFILED_RUNS), 0.0)
    arguments = [
        *_common(job),
        f"--num_runs={runs}",
        f"--min_secs={seconds:g}",
        f"--max_secs={job.max_seconds:g}",
        "--warmup_runs=1",
        f"--warmup_min_secs={min(job.warm_up_max_seconds, _WARM_UP_S):g}",
    ]
    if job.mode == "operators":
        arguments.append("--enable_op_profiling=true")
    return command_line(job, arguments)


def memory_command(job: NativeJob) -> tuple[str, ...]:
    """The command line of the short run that polls memory."""
    arguments = (*_common(job), "--num_runs=5", "--min_secs=0", "--warmup_min_secs=0", "--report_peak_memory_footprint=true")
    return command_line(job, arguments)


def _common(job: NativeJob) -> list[str]:
    flags: tuple[str, ...]
    if job.delegate:
        options = ";".join(f"{key}:{value}" for key, value in (job.delegate_options or {}).items())
        flags = (f"--external_delegate_path={job.delegate}", *([f"--external_delegate_options={options}"] if options else []))
    elif job.accelerator in _ACCELERATORS:
        flags = _ACCELERATORS[job.accelerator]
    else:
        raise RunFailed(
            f"benchmark_model has no accelerator {job.accelerator!r} of its own",
            why=f"it knows {', '.join(_ACCELERATORS)}, and delegates given as a shared library",
            fix="name the library as delegate of the device in devices.toml, then use --accelerator delegate",
        )
    strict = ["--require_full_delegation=true"] if job.fail_on_fallback and job.accelerator not in _ON_CPU else []
    return [f"--graph={job.artifact}", f"--num_threads={job.threads}", *flags, *strict]


def events(done: Finished, job: NativeJob) -> list[Event]:
    """The tool's output as events; the last one is ``error`` where it gave no result. Any bytes give some."""
    return guarded(lambda: _events(clean_lines(done.stdout, done.stderr), done, job))


def _events(lines: Sequence[str], done: Finished, job: NativeJob) -> list[Event]:
    cpus = list(job.cpus) if job.cpus else None
    found: list[Event] = [{"event": "runtime", "name": "benchmark_model", "versions": {}, "cpus": cpus}]
    loaded = _loaded(lines, job)
    found += loaded
    if any(_REFUSED in line for line in lines):
        return [*found, error("fallback", "operators are left to the CPU (benchmark_model: Disallowed CPU fallback detected)")]
    counts = [match for line in lines if (match := _COUNT.match(line))]
    if done.exit_code != 0 or len(counts) < 2:
        complaints = [line for line in lines if _COMPLAINT.match(line)][:10]
        return [*found, why_it_ended(job, done, complaints, loaded=bool(loaded))]
    if job.delegate and not any(_APPLIED.search(line) or _NOT_APPLIED.search(line) for line in lines):
        # Where the tool cannot load it, it goes on with the CPU.
        said = "; ".join(line for line in lines if _COMPLAINT.match(line)) or "benchmark_model does not say that it applied it"
        return [*found, error("delegate", f"{job.delegate}: {said}"[:600])]
    warm, run = _summary(counts[0]), _summary(counts[1])
    if run["count"] == 0:
        raise Nonsense("it counts no run")
    found += _first(lines, warm)
    if warm["count"]:
        found.append({"event": "warm", "runs": warm["count"], "ns": warm["count"] * warm["avg_ns"], "stable": None})
    found.append({"event": "summary", **run})
    if job.mode == "operators":
        return found + _operators(lines, job)
    return [*found, _placement(lines, job)]


def _loaded(lines: Sequence[str], job: NativeJob) -> list[Event]:
    threads = job.threads
    for line in lines:
        if match := re.match(r"#threads used for CPU inference: \[([0-9]{1,4})\]", line):
            threads = int(match[1])
        if match := re.match(rf"Initialized session in ({NUMBER})ms", line):
            return [{"event": "loaded", "ns": nanoseconds(match[1], _MS), "threads": threads}]
    return []


def _first(lines: Sequence[str], warm: dict[str, Any]) -> list[Event]:
    for line in lines:
        if match := re.search(rf"Inference timings in us: .*First inference: ({NUMBER}),", line):
            return [{"event": "first", "ns": nanoseconds(match[1], _US)}]
    return [{"event": "first", "ns": warm["first_ns"]}] if warm["count"] else []


def _summary(match: re.Match[str]) -> dict[str, Any]:
    """A ``count=`` line; one with a single run has only ``curr``, and one without percentiles none of them."""
    values = {}
    for pair in match[2].split():
        name, _, value = pair.partition("=")
        if not re.fullmatch(NUMBER, value):
            raise Nonsense(f"{pair[:60]!r} is no number")
        values[name] = nanoseconds(value, _US)
    count = int(match[1])
    if count == 0:
        return {"count": 0}
    if "curr" not in values:
        raise Nonsense("a count without its times")
    if count > 1 and not {"first", "min", "max", "avg"} <= set(values):
        raise Nonsense("a count of several runs without their minimum, maximum and mean")
    summary = {f"{name}_ns": values.get(name, values["curr"]) for name in ("first", "min", "max", "avg")}
    percentiles = {"p5_ns": values.get("p5"), "median_ns": values.get("median"), "p95_ns": values.get("p95")}
    if count == 1:
        percentiles["median_ns"] = values["curr"]
    check_order(summary | percentiles, "min_ns", "p5_ns", "median_ns", "p95_ns", "max_ns")
    # The mean has six digits only.
    if not summary["min_ns"] * 0.9999 <= summary["avg_ns"] <= summary["max_ns"] * 1.0001:
        raise Nonsense(f"a mean of {summary['avg_ns']} ns outside its minimum and maximum")
    return {"count": count, **summary, "std_ns": values.get("std"), **percentiles}


def _placement(lines: Sequence[str], job: NativeJob) -> Event:
    """What the tool says of its delegates: it counts partitions, not operators."""
    accelerator = "delegate" if job.delegate else job.accelerator
    for line in lines:
        if match := _APPLIED.search(line):
            whole = match[2] == "completely"
            partitions = 1 if whole else int(match[3] or 0)
            fallback = 0 if whole else None
            return _placed(placed(accelerator, None, fallback, partitions=partitions, delegate=match[1], whole=whole))
        if match := _NOT_APPLIED.search(line):
            return _placed(placed(accelerator, 0, None, partitions=0, delegate=match[1], whole=False))
    return _placed(placed(accelerator, None, None))


def _operators(lines: Sequence[str], job: NativeJob) -> list[Event]:
    """Operators in run order with their mean times; those that no delegate took over are the fallback."""
    rows = _table(lines)
    if not rows:
        return [error("run", "benchmark_model gave no times of operators, although they were asked for")]
    operators = []
    for row in rows:
        called = number(row.get("times called", "1"), low=0, high=1e6)
        operators.append(
            {
                "name": row.get("name", ""),
                "kind": row["node type"],
                "provider": "delegate" if _DELEGATE_NODE.fullmatch(row["node type"]) else "cpu",
                "runs": int(called),
                "mean_ns": nanoseconds(row.get("avg ms", ""), _MS),
            }
        )
    fell = Counter(operator["kind"] for operator in operators if operator["provider"] == "cpu")
    partitions = len(operators) - sum(fell.values())
    accelerator = "delegate" if job.delegate else job.accelerator
    return [
        {"event": "operators", "runs": None, "operators": operators},
        _placed(placed(accelerator, None, sum(fell.values()), fell, partitions=partitions)),
    ]


def _table(lines: Sequence[str]) -> list[dict[str, str]]:
    """Rows by column of the first table in run order of the regular runs: columns differ between versions; names tell them."""
    starts = (index for index, line in enumerate(lines) if "Operator-wise Profiling Info for Regular" in line)
    start = next(starts, len(lines))
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    inside = False
    for line in lines[start:]:
        if "= Run Order =" in line and not columns:
            inside = True
        elif inside and not columns and "[node type]" in line:
            columns = [name.strip().strip("[]").lower() for name in line.split("\t") if name.strip()]
        elif columns:
            cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
            if len(cells) < 3:
                break
            rows.append(dict(zip(columns, cells, strict=False)))
            if len(rows) == MAX_OPERATORS:
                break
    return [row for row in rows if "node type" in row]


def _memory(lines: Sequence[str]) -> list[Event]:
    for line in lines:
        if match := re.search(rf"peak memory footprint \(MB\) via periodic monitoring: ({NUMBER})", line):
            return [{"event": "memory", "peak": round(number(match[1], low=0.001, high=1e7) * _MIB)}]
    return []  # older versions, and systems where it cannot tell


def _placed(fields: dict[str, Any]) -> Event:
    return {"event": "placement", **fields}
