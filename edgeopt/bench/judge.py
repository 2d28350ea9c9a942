"""From launches to a measurement: figures with their confidence, and what makes them doubtful."""

from collections.abc import Iterator

from edgeopt.bench.rounds import Configuration
from edgeopt.bench.types import Agreement, BenchResult, BenchSettings, Launch, Mark, Measurement, Operator
from edgeopt.devices.state.doubts import differences
from edgeopt.support.stats import AUTOCORRELATED, UNSTABLE_STDEV, Comparison, Summary, compare, spread, summarize

MANY_LAUNCHES_APART = 0.10
DIFFERENT_SQNR_DB = 20.0
"""What an 8-bit artifact must reach against its own program (targets/schema.py): kernels that only round otherwise do."""
LEAK_BYTES, LEAK_SHARE = 1 << 20, 0.02
"""Growth below both of these, in bytes and as a part of the peak, is an allocator settling."""


def result(
    configuration: Configuration,
    settings: BenchSettings,
    *,
    agreement: Agreement | None = None,
    accuracy: dict[str, float] | None = None,
    operators: tuple[Operator, ...] = (),
) -> BenchResult:
    """What became of ``configuration``; what it measured before a failure is kept."""
    failure = configuration.failure
    measured = bool(configuration.launches)
    skipped = failure is not None and type(failure).__name__ == "MissingRuntime"
    return BenchResult(
        subject=configuration.runnable.subject,
        threads=configuration.threads,
        accelerator=settings.accelerator,
        status="ok" if failure is None else "skipped" if skipped else "failed",
        reason=failure.message() if failure else "",
        error=type(failure).__name__ if failure and not skipped else "",
        measurement=_measurement(configuration, settings, agreement, accuracy or {}, operators) if measured else None,
    )


def comparisons(results: list[BenchResult], twin: str) -> dict[str, Comparison]:
    """Every measured artifact against its fp32 twin of the same format and threads, by ``target/format xTHREADS``."""
    twins = {(r.subject.format, r.threads): samples(r) for r in results if r.subject.target == twin}
    found = {}
    for one in results:
        own, other = samples(one), twins.get((one.subject.format, one.threads), [])
        if one.subject.target != twin and own and other:
            found[one.key] = compare(other, own)
    return found


def samples(one: BenchResult) -> list[int]:
    """All samples of a result, in ns."""
    launches = one.measurement.launches if one.measurement else ()
    return [sample for launch in launches for sample in launch.samples_ns]


def _measurement(
    configuration: Configuration, settings: BenchSettings, agreement: Agreement | None, accuracy: dict[str, float],
    operators: tuple[Operator, ...],
) -> Measurement:  # fmt: skip
    launches = tuple(configuration.launches)
    times = [sample for launch in launches for sample in launch.samples_ns]
    latency = summarize(times) if times else None
    medians = [typical for launch in launches if (typical := _typical_ns(launch)) is not None]
    apart = spread(medians) if len(medians) > 1 else None
    sustained = _sustained_ns(launches)
    middle = latency.median.value if latency else None
    doubts = (*_doubts(configuration, settings, latency, apart), *_differs(agreement))
    notes = [note for _, note in doubts] + list(_notes(configuration, latency))
    if agreement is None and configuration.failure is None:
        notes.append("measured, not proven: its outputs there were compared with nothing")
    return Measurement(
        launches=launches, latency=latency, launch_spread=apart,
        throughput_per_s=latency.throughput if latency else None,
        sustained_ms=sustained / 1e6 if sustained else None,
        sustained_ratio=sustained / middle if sustained and middle else None,
        before=configuration.before, after=configuration.after, waited_s=configuration.waited_s,
        discarded=configuration.discarded, agreement=agreement, accuracy=accuracy, operators=operators,
        marks=tuple(dict.fromkeys(mark for mark, _ in doubts)), notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _typical_ns(launch: Launch) -> float | None:
    """The median of a launch; a native tool may give only the mean. None where there are too few samples to tell."""
    if launch.samples_ns:
        return summarize(launch.samples_ns).median.value
    return launch.summary.get("median_ns", launch.summary.get("avg_ns"))


def _sustained_ns(launches: tuple[Launch, ...]) -> float | None:
    """Mean time of a run in the last third of the sustained phase, over all launches."""
    windows = [window for launch in launches for window in launch.sustained[-max(1, len(launch.sustained) // 3) :]]
    runs = sum(window.runs for window in windows)
    return sum(window.mean_ns * window.runs for window in windows) / runs if runs else None


def _doubts(
    configuration: Configuration, settings: BenchSettings, latency: Summary | None, apart: float | None
) -> Iterator[tuple[Mark, str]]:
    """Each mark with the sentence that explains it."""
    launches = configuration.launches
    if configuration.throttled:
        yield "throttled", f"throttled, also after {configuration.waited_s:.0f} s of waiting: {configuration.throttled}"
    if latency is not None:
        for reason in latency.unstable:
            yield "noisy", reason
    if apart is not None and apart >= MANY_LAUNCHES_APART:
        yield "noisy", f"the medians of {len(launches)} launches lie {apart:.0%} apart"
    for reason in dict.fromkeys(reason for launch in launches for reason in _unsteady(launch)):
        yield "noisy", reason
    if any(launch.warm is False for launch in launches):
        yield "cold", "the times were not stable when warming up was given up"
    if not configuration.runnable.subject.calibrated:
        yield "uncalibrated", "the artifact was exported without calibration data"
    if settings.accelerator != "cpu" and any(launch.placement.get("fallback") for launch in launches):
        yield "fallback", f"operators ran on the CPU instead of {settings.accelerator}: {_fallen(launches)}"
    for launch in launches:
        growth, peak = launch.growth_bytes or 0.0, launch.peak_bytes or 0
        if growth > LEAK_BYTES and growth > LEAK_SHARE * peak:
            yield "leak", f"memory grew by {growth / 1e6:.1f} MB over {len(launch.samples_ns)} runs"
        if launch.same_outputs is False:
            yield "noisy", "the same input gave other outputs at the end than at the start"
        if launch.not_finite:
            yield "noisy", f"{launch.not_finite} outputs are NaN or infinite"
    if configuration.whole < settings.launches:
        part = ", and a part of one more" if configuration.cut else ""
        yield "partial", f"only {configuration.whole} of {settings.launches} launches were measured{part}"


def _unsteady(launch: Launch) -> Iterator[str]:
    """Why a native tool's figures are doubtful: its samples are not known, only how far they spread."""
    stdev, mean = launch.summary.get("std_ns"), launch.summary.get("avg_ns")
    if stdev and mean and stdev >= UNSTABLE_STDEV * mean:
        yield f"the standard deviation is {stdev / mean:.0%} of the mean"


def _differs(found: Agreement | None) -> Iterator[tuple[Mark, str]]:
    if found is not None and found.sqnr_db is not None and found.sqnr_db < DIFFERENT_SQNR_DB:
        yield "differs", f"its outputs are {found.sqnr_db:.1f} dB from those of the same artifact on this computer"


def _notes(configuration: Configuration, latency: Summary | None) -> Iterator[str]:
    """What is worth knowing and makes no mark."""
    dependence = latency.autocorrelation if latency else None
    if dependence is not None and dependence >= AUTOCORRELATED:
        yield f"neighbouring runs resemble each other (autocorrelation {dependence:.2f}): the intervals are too narrow"
    if configuration.before and configuration.after:
        yield from differences(configuration.before, configuration.after)


def _fallen(launches: list[Launch]) -> str:
    placement = next(launch.placement for launch in launches if launch.placement.get("fallback"))
    kinds = placement.get("operators")
    listed = ", ".join(f"{count} {kind}" for kind, count in list(kinds.items())[:6]) if isinstance(kinds, dict) else ""
    return listed or f"{placement['fallback']}"
