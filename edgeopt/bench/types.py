"""What a benchmark brings back: plain data that round-trips through JSON. Times are nanoseconds, sizes bytes."""

from dataclasses import field
from statistics import median
from typing import Any, Literal

from edgeopt.core import Format, data_class
from edgeopt.devices.state.environment import Environment
from edgeopt.devices.state.facts import DeviceFacts
from edgeopt.support.stats import Comparison, Summary

SCHEMA_VERSION = 1
DELEGATE = "delegate"
"""The accelerator that is a LiteRT delegate of the device's own, named in devices.toml."""
Mark = Literal["noisy", "throttled", "uncalibrated", "cold", "fallback", "partial", "leak", "differs"]
"""What makes a measurement less than it seems; each has a sentence in ``Measurement.notes``."""


@data_class
class BenchSettings:
    """How to measure. ``threads`` has one configuration per number; ``cpus`` None leaves the choice to the system."""

    threads: tuple[int, ...] = (1,)
    cpus: tuple[int, ...] | None = None
    accelerator: str = "cpu"
    launches: int = 3
    """Processes per configuration: samples of one process are not independent of each other."""
    min_runs: int = 100
    min_seconds: float = 2.0
    max_seconds: float = 60.0
    sustained_seconds: float = 0.0
    timeout_s: float = 600.0
    wait_s: float = 900.0
    """How long to wait for somebody else's benchmark on the same device."""
    lock_clocks: bool = False
    fail_on_fallback: bool = False
    operators: bool = False


@data_class
class Subject:
    """One artifact to run. ``target`` is empty for a bare file."""

    path: str
    target: str
    format: Format
    sha256: str
    bytes: int
    scheme: str = ""
    calibrated: bool = True


@data_class
class Window:
    """A stretch of the sustained phase: when it began, how many runs it held, and their mean time."""

    t_ns: int
    runs: int
    mean_ns: float


@data_class
class Launch:
    """What one process measured. None: the runtime, or the device, does not say."""

    samples_ns: tuple[int, ...] = ()
    import_ns: int | None = None
    load_ns: int | None = None
    first_ns: int | None = None
    warm_up_runs: int | None = None
    warm_up_ns: int | None = None
    warm: bool | None = None
    sustained: tuple[Window, ...] = ()
    peak_bytes: int | None = None
    growth_bytes: float | None = None
    """Growth of resident memory over the timed runs, from the slope through its series."""
    peak_delta_bytes: int | None = None
    """What a native tool says of memory: growth since its start."""
    runtime: dict[str, Any] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    environment: tuple[dict[str, Any], ...] = ()
    """Clocks and temperatures between the runs, as the runner read them."""
    summary: dict[str, float] = field(default_factory=dict)
    """Instead of samples, where a native tool gives only figures over all runs."""
    same_outputs: bool | None = None
    """Whether the last run gave the same bits as the first."""
    not_finite: int | None = None


@data_class
class Agreement:
    """The device's outputs against those of the same artifact on this computer, as its target computes it.

    ``sqnr_db``: of the worst output, or channel where channels differ in scale.
    """

    bit_exact: bool
    sqnr_db: float | None
    max_abs_error: float | None
    samples: int


@data_class
class Operator:
    """Mean time of one operator over ``runs`` runs, in a run of its own with the profiler on."""

    kind: str
    name: str
    provider: str
    mean_ns: float
    runs: int


@data_class
class Measurement:
    """All that was measured of one artifact in one configuration."""

    launches: tuple[Launch, ...]
    latency: Summary | None = None
    """Over the samples of all launches; None where a native tool gives none."""
    launch_spread: float | None = None
    """(slowest - fastest) / middle of the launches' medians."""
    throughput_per_s: float | None = None
    sustained_ms: float | None = None
    sustained_ratio: float | None = None
    """Time per run in the last third of the sustained phase over the burst median: above 1 the device has slowed down."""
    before: Environment | None = None
    after: Environment | None = None
    waited_s: float = 0.0
    discarded: int = 0
    """Launches that were repeated because the device was throttled."""
    agreement: Agreement | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    operators: tuple[Operator, ...] = ()
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()


@data_class
class BenchResult:
    """One artifact, one configuration, one device: measured, or why not."""

    subject: Subject
    threads: int
    accelerator: str
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""
    error: str = ""
    """Name of the class in errors.py, where ``status`` is failed."""
    measurement: Measurement | None = None

    @property
    def key(self) -> str:
        """Its name among the results of its device, in ``DeviceRun.comparisons``."""
        return f"{self.subject.target or self.subject.path}/{self.subject.format} x{self.threads}"

    @property
    def typical_ms(self) -> float | None:
        """The median over all launches' samples; of a native tool's medians, or averages, where it gives no samples."""
        launches = self.measurement.launches if self.measurement is not None else ()
        times: list[float] = [sample for launch in launches for sample in launch.samples_ns]
        summaries = [launch.summary for launch in launches]
        times = times or [one.get("median_ns", one["avg_ns"]) for one in summaries if "avg_ns" in one]
        return median(times) / 1e6 if times else None


@data_class
class DeviceRun:
    """Everything of one benchmark on one device: ``runs/<time>-<device>/result.json``."""

    device: str
    url: str
    started: str
    settings: BenchSettings
    edgeopt_version: str
    finished: str = ""
    facts: DeviceFacts | None = None
    results: tuple[BenchResult, ...] = ()
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    error: str = ""
    reason: str = ""
    """Why the device could not be used at all."""
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
