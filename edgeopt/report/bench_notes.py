"""What a benchmark's table cannot hold: failures, skips, doubts and warnings, each sentence once with all that it concerns."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from edgeopt.report.bench_columns import (
    AGREEMENT,
    AVERAGE,
    PEAK,
    SUSTAINED,
    by_tool,
    peak_bytes,
    peak_delta_bytes,
    percentiles,
    rows,
    target,
    typical_ns,
)
from edgeopt.report.text import one_line
from edgeopt.support.stats import CONFIDENCE

if TYPE_CHECKING:
    from edgeopt.bench.types import BenchResult, DeviceRun
    from edgeopt.report.bench_columns import Column

Notes = dict[str, list[str]]
"""Sentences, each with the labels of all that it concerns."""


def sections(runs: "Sequence[DeviceRun]") -> tuple[tuple[str, str, Notes], ...]:
    """Heading, style and notes of what is said below the table, in its order."""
    return (
        ("Failed", "bold red", failures(runs)),
        ("Skipped", "bold", skipped(runs)),
        ("Notes", "bold", _grouped(runs, lambda result: result.measurement.notes if result.measurement else ())),
        ("Slower than float", "bold yellow", slower(runs)),
        ("Warnings", "bold yellow", warnings(runs)),
    )


def failures(runs: "Sequence[DeviceRun]") -> Notes:
    """Why devices and results failed."""
    notes = _grouped(runs, lambda result: [_reason(result)] if result.status == "failed" else [])
    for run in runs:
        if run.error and not any(result.reason == run.reason for result in run.results):
            notes.setdefault(run.reason or run.error, []).append(one_line(run.device))
    return notes


def skipped(runs: "Sequence[DeviceRun]") -> Notes:
    """Why results were skipped."""
    notes = _grouped(runs, lambda result: [_reason(result)] if result.status == "skipped" else [])
    for run in runs:
        if not run.results and not run.error:
            notes.setdefault("there is no artifact for it", []).append(one_line(run.device))
    return notes


def slower(runs: "Sequence[DeviceRun]") -> Notes:
    """What to do where an artifact is slower than its fp32 twin on the device itself."""
    notes: Notes = {}
    for run in runs:
        for one in run.results:
            comparison = run.comparisons.get(one.key)
            if comparison is not None and comparison.verdict == "slower":
                name, device = target(one), one_line(run.device)
                steps = f"edgeopt bench MODEL --layers TABLE.json --target {name} --device {device}"
                again = f"edgeopt export MODEL --target {name} --latency-table TABLE.json"
                sentence = f"slower there than its fp32 twin: measure its layers ({steps}) and export again with them ({again})"
                notes.setdefault(sentence, []).append(_label(run, [one]))
    return notes


def warnings(runs: "Iterable[DeviceRun]") -> Notes:
    """What devices' runs warn of."""
    notes: Notes = {}
    for run in runs:
        for warning in dict.fromkeys(run.warnings):
            notes.setdefault(warning, []).append(one_line(run.device))
    return notes


def legend(runs: "Sequence[DeviceRun]", shown: "Sequence[Column]") -> list[str]:
    """What the figures in the columns ``shown`` mean, as far as the table has them."""
    names = {column.name for column in shown}
    all_rows = rows(runs)
    found = [f"±: the further end of the median's {CONFIDENCE:.0%} confidence interval, over the samples of all launches"]
    if AGREEMENT in names:
        found.append("as here: outputs against this computer's, exact (bit by bit) or SQNR")
    if SUSTAINED in names:
        found.append("long: time per run at the end of the sustained phase")
    missing = {one.p: one.needed for one in percentiles(runs) if not one.enough}
    needs = ", ".join(f"{_named(p)} needs {count}" for p, count in sorted(missing.items()) if f"{_named(p)} ms" in names)
    if needs:
        found.append(f"not enough samples: {needs}")
    if any(value is not None and average for value, average in map(typical_ns, all_rows)):
        found.append(f"{AVERAGE}: an average, there is no median")
    if any(map(by_tool, all_rows)):
        found.append("native tools without samples give no interval and no percentiles")
    if PEAK in names and any(peak_bytes(row) is None and peak_delta_bytes(row) is not None for row in all_rows):
        found.append("peak with +: growth since the start of the tool")
    return found


def _named(p: float) -> str:
    return "median" if p == 0.5 else f"p{p * 100:.3g}"


def _reason(result: "BenchResult") -> str:
    return result.reason or result.error or "no reason was given"


def _grouped(runs: "Iterable[DeviceRun]", said: "Callable[[BenchResult], Iterable[str]]") -> Notes:
    """Each sentence with a label per device: its name alone where all its results say so, else with those that do."""
    notes: Notes = {}
    for run in runs:
        own: dict[str, list[BenchResult]] = {}
        for result in run.results:
            for sentence in dict.fromkeys(said(result)):
                own.setdefault(sentence, []).append(result)
        for sentence, results in own.items():
            notes.setdefault(sentence, []).append(_label(run, results))
    return notes


def _label(run: "DeviceRun", results: "list[BenchResult]") -> str:
    device = one_line(run.device)
    if len(results) == len(run.results) and (len(results) > 1 or run.error):
        return device
    return f"{device} ({', '.join(_short(result) for result in results)})"


def _short(result: "BenchResult") -> str:
    accelerator = "" if result.accelerator == "cpu" else f" {one_line(result.accelerator)}"
    return f"{target(result)}/{one_line(result.subject.format)} x{result.threads}{accelerator}"
