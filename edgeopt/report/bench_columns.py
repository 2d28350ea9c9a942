"""The cells of a benchmark's table: one row per result, over all devices. Shared by the console's table and Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from statistics import median
from typing import TYPE_CHECKING

from edgeopt.report.figures import NONE, margin, megabytes, ms, rate
from edgeopt.report.text import cut, one_line

if TYPE_CHECKING:
    from edgeopt.bench.types import BenchResult, DeviceRun, Launch, Measurement
    from edgeopt.support.stats import Percentile

LOUD = "bold yellow"
AVERAGE = "avg"
THREADS, PEAK, SUSTAINED, AGREEMENT = "threads", "peak MB", "sustained ms", "outputs as here"
"""Names of columns."""
SLOWED = 1.10
"""Sustained over burst time: from here on the figure is shown loudly (the harness' own limit for throttling)."""
_WORDS = {"ok": ("ok", "green"), "failed": ("FAILED", "bold red"), "skipped": ("skipped", "dim")}
_METRIC_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """Plain text of one line; ``marks`` are further words, shown loudly."""

    text: str = NONE
    style: str = ""
    marks: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """All of it."""
        return " ".join((self.text, *self.marks))


@dataclass(frozen=True, slots=True)
class Column:
    """``drop``: which column goes first where there is no room, the lowest; None stays. ``name`` is its header in one line."""

    name: str
    header: str
    cells: tuple[Cell, ...]
    drop: int | None = None
    right: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One result of ``run``; None for a device of which nothing was measured."""

    run: "DeviceRun"
    result: "BenchResult | None" = None

    @property
    def measured(self) -> "Measurement | None":
        return self.result.measurement if self.result else None

    @property
    def launches(self) -> "tuple[Launch, ...]":
        return self.measured.launches if self.measured else ()


@dataclass(frozen=True, slots=True)
class _Kind:
    header: str
    cell: Callable[[Row], Cell]
    drop: int | None = None
    right: bool = True
    optional: bool = False
    """Left out where no row has anything to say."""
    name: str = field(default="")


def rows(runs: "Iterable[DeviceRun]") -> list[Row]:
    """One for each result; a device that could not be used at all has one."""
    found: list[Row] = []
    for run in runs:
        lost = run.error and not any(result.measurement for result in run.results)
        found += [Row(run)] if lost or not run.results else [Row(run, result) for result in run.results]
    return found


def columns(runs: "Sequence[DeviceRun]") -> list[Column]:
    """Every column that has something to say, in the order in which they are shown."""
    shown = rows(runs)
    names = (metric for row in shown if row.measured for metric in row.measured.accuracy)
    metric = next(names, None)
    kinds = [*_FIRST, *([_accuracy(metric)] if metric is not None else []), *_LAST]
    found = []
    for kind in kinds:
        cells = tuple(kind.cell(row) for row in shown)
        if not kind.optional or any(cell.text != NONE for cell in cells):
            name = kind.name or kind.header.replace("\n", " ")
            telling = name == THREADS and len(set(cells)) > 1  # without it, rows could not be told apart
            found.append(Column(name, kind.header, cells, None if telling else kind.drop, kind.right))
    return found


def target(result: "BenchResult") -> str:
    """The target of a bundle's artifact, or the file's name of a bare one."""
    return one_line(result.subject.target or PurePath(result.subject.path).name) or NONE


def processor(result: "BenchResult") -> str:
    """Threads, and the accelerator where it is not the CPU."""
    return f"{result.threads}" if result.accelerator == "cpu" else f"{result.threads} {cut(one_line(result.accelerator), 12)}"


def percentiles(runs: "Iterable[DeviceRun]") -> "list[Percentile]":
    """The median, p90 and p99 of every result that has samples."""
    measured = [row.measured.latency for row in rows(runs) if row.measured and row.measured.latency]
    return [one for latency in measured for one in (latency.median, latency.p90, latency.p99)]


def by_tool(row: Row) -> bool:
    """Whether a native tool gave figures over all runs, instead of samples."""
    return row.measured is not None and row.measured.latency is None and any(launch.summary for launch in row.launches)


def typical_ns(row: Row) -> tuple[float | None, bool]:
    """The median time, over all launches; else the average, which the second says."""
    latency = row.measured.latency if row.measured else None
    if latency is not None:
        return (latency.mean, True) if latency.median.value is None else (latency.median.value, False)
    middle = _over_launches(row, lambda launch: launch.summary.get("median_ns"))
    return (middle, False) if middle is not None else (_over_launches(row, lambda launch: launch.summary.get("avg_ns")), True)


def first_ns(row: Row) -> float | None:
    """The middle of the launches' first inferences."""
    return _over_launches(row, lambda launch: launch.first_ns)


def load_ns(row: Row) -> float | None:
    """The middle of the launches' times to load the artifact."""
    return _over_launches(row, lambda launch: launch.load_ns)


def peak_bytes(row: Row) -> int | None:
    """The highest resident memory of all launches."""
    return max((launch.peak_bytes for launch in row.launches if launch.peak_bytes is not None), default=None)


def peak_delta_bytes(row: Row) -> int | None:
    """The highest growth since its start that a native tool gave."""
    return max((launch.peak_delta_bytes for launch in row.launches if launch.peak_delta_bytes is not None), default=None)


def per_second(row: Row) -> float | None:
    """Inferences a second, one after another."""
    if row.measured and row.measured.throughput_per_s is not None:
        return row.measured.throughput_per_s
    average = _over_launches(row, lambda launch: launch.summary.get("avg_ns"))
    return 1e9 / average if average else None


def _over_launches(row: Row, value: "Callable[[Launch], float | None]") -> float | None:
    values = [found for launch in row.launches if (found := value(launch)) is not None]
    return median(values) if values else None


def _median(row: Row) -> Cell:
    return Cell(ms(typical_ns(row)[0]))


def _interval(row: Row) -> Cell:
    value, average = typical_ns(row)
    if value is not None and average:
        return Cell(AVERAGE)
    middle = row.measured.latency.median if row.measured and row.measured.latency else None
    if middle is None or middle.value is None or middle.low is None or middle.high is None:
        return Cell()
    return Cell(margin(middle.value, middle.low, middle.high))


def _p90(row: Row) -> Cell:
    return Cell(ms(row.measured.latency.p90.value if row.measured and row.measured.latency else None))


def _p99(row: Row) -> Cell:
    return Cell(ms(row.measured.latency.p99.value if row.measured and row.measured.latency else None))


def _peak(row: Row) -> Cell:
    peak, delta = peak_bytes(row), peak_delta_bytes(row)
    return Cell(f"+{megabytes(delta)}" if peak is None and delta is not None else megabytes(peak))


def _ratio(row: Row) -> Cell:
    comparison = row.run.comparisons.get(row.result.key) if row.result else None
    if comparison is None:
        return Cell()
    if comparison.verdict == "same":
        return Cell("same")
    return Cell(f"{comparison.ratio:.2f}", LOUD if comparison.verdict == "slower" else "")


def _sustained(row: Row) -> Cell:
    time, ratio = (row.measured.sustained_ms, row.measured.sustained_ratio) if row.measured else (None, None)
    return Cell() if time is None else Cell(ms(time * 1e6), LOUD if ratio is not None and ratio > SLOWED else "")


def _agreement(row: Row) -> Cell:
    agreement = row.measured.agreement if row.measured else None
    if agreement is None:
        return Cell()
    if agreement.bit_exact:
        return Cell("exact")
    return Cell() if agreement.sqnr_db is None else Cell(f"{agreement.sqnr_db:.0f} dB")


def _verdict(row: Row) -> Cell:
    if row.result is None:
        return Cell(*_WORDS["failed" if row.run.error else "skipped"])
    marks = row.measured.marks if row.measured else ()
    uncalibrated = () if row.result.subject.calibrated else ("uncalibrated",)
    return Cell(*_WORDS[row.result.status], tuple(dict.fromkeys(mark.upper() for mark in (*marks, *uncalibrated))))


def _accuracy(metric: str) -> _Kind:
    def cell(row: Row) -> Cell:
        value = row.measured.accuracy.get(metric) if row.measured else None
        return Cell() if value is None else Cell(f"{value:.3f}")

    name = cut(one_line(metric), _METRIC_WIDTH) or NONE
    return _Kind(name, cell, drop=9, name=f"accuracy ({name})")


_FIRST = (
    _Kind("device", lambda row: Cell(one_line(row.run.device) or NONE), right=False),
    _Kind("target", lambda row: Cell(target(row.result) if row.result else NONE), right=False),
    _Kind("format", lambda row: Cell(one_line(row.result.subject.format) if row.result else NONE), drop=12, right=False),
    _Kind("thr", lambda row: Cell(processor(row.result) if row.result else NONE), drop=6, name=THREADS),
    _Kind("median\nms", _median),
    _Kind("±\nms", _interval),
    _Kind("p90\nms", _p90, drop=2),
    _Kind("p99\nms", _p99, drop=7),
    _Kind("first\nms", lambda row: Cell(ms(first_ns(row))), drop=3),
    _Kind("load\nms", lambda row: Cell(ms(load_ns(row))), drop=1),
    _Kind("peak\nMB", _peak, drop=4),
    _Kind("runs\n/s", lambda row: Cell(rate(per_second(row))), drop=0, name="runs/s"),
    _Kind("of\nfp32", _ratio, drop=11, optional=True),
    _Kind("long\nms", _sustained, drop=8, optional=True, name=SUSTAINED),
)
_LAST = (
    _Kind("as\nhere", _agreement, drop=5, optional=True, name=AGREEMENT),
    _Kind("verdict", _verdict, right=False),
)
