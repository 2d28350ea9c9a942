"""Benchmarks of made-up devices that have every kind of result in them: each view is shown the same."""

import random
from typing import Any

from edgeopt.bench.types import Agreement, BenchResult, BenchSettings, DeviceRun, Launch, Mark, Measurement, Subject, Window
from edgeopt.core import Format
from edgeopt.devices.state.facts import Cluster, DeviceFacts
from edgeopt.support.stats import Comparison, compare, summarize

HOSTILE = "\x1b[31mred\x1b[0m [bold]b[/bold] a|b `c` <script>x</script>\n=cmd()\t@team \u202eevil"
"""Terminal escapes, rich's markup, Markdown, HTML, a line break, a formula, a mention, and a change of direction."""
NO_CALIBRATION = "the artifact was exported without calibration data"
GOVERNOR = "the governor of CPUs 0-3 is ondemand: clocks follow the load (performance keeps them)"


def times(ms: float, count: int = 300) -> tuple[int, ...]:
    """So many durations in ns around ``ms``, the same every time."""
    noise = random.Random(f"{ms} {count}")
    return tuple(int(ms * 1e6 * noise.gauss(1, 0.01)) for _ in range(count))


def launch(ms: float, count: int = 300, **more: Any) -> Launch:
    fields = {"samples_ns": times(ms, count), "first_ns": int(ms * 3e6), "load_ns": 21_400_000, "peak_bytes": 61_300_000}
    return Launch(**(fields | more))


def measurement(ms: float, count: int = 300, processes: int = 3, marks: tuple[Mark, ...] = (), **more: Any) -> Measurement:
    """Three launches of ``count`` samples each, with everything measured; ``more`` replaces or adds fields."""
    made = tuple(launch(ms + number * ms / 1000, count) for number in range(processes))
    latency = summarize([sample for one in made for sample in one.samples_ns])
    fields = {
        "launches": made, "latency": latency, "launch_spread": 0.002, "throughput_per_s": latency.throughput,
        "agreement": Agreement(bit_exact=True, sqnr_db=200.0, max_abs_error=0.0, samples=1), "marks": marks,
    }  # fmt: skip
    return Measurement(**(fields | more))


def result(
    target: str = "arm-xnnpack", format: Format = "tflite", measured: Measurement | None = None, status: str = "ok", **more: Any
) -> BenchResult:
    path = f"build/m/{target}/model.{format}"
    subject = {"path": path, "target": target, "format": format, "sha256": "0" * 64, "bytes": 3_800_000}
    subject |= {name: more.pop(name) for name in ("path", "calibrated") if name in more}
    fields: dict[str, Any] = {"threads": 1, "accelerator": "cpu", "status": status, "measurement": measured}
    return BenchResult(subject=Subject(**subject), **(fields | more))


def facts(**more: Any) -> DeviceFacts:
    fields: dict[str, Any] = {
        "kind": "linux", "system": "Debian GNU/Linux 12 (bookworm)", "model": "Raspberry Pi 5 Model B Rev 1.0",
        "machine": "aarch64", "cpu": "4x Cortex-A76", "cores": 4, "memory_bytes": 8_100_000_000,
        "clusters": (Cluster(cpus=(0, 1, 2, 3), core="Cortex-A76", max_khz=2_400_000),), "python": "/usr/bin/python3",
    }  # fmt: skip
    return DeviceFacts(**(fields | more))


def run(device: str, *results: BenchResult, twin: BenchResult | None = None, **more: Any) -> DeviceRun:
    """One device's run; every other measured result is compared with ``twin``."""
    comparisons = {
        one.key: compare(samples(twin), samples(one)) for one in results if twin and one is not twin and samples(one)
    }
    fields: dict[str, Any] = {
        "url": f"ssh://pi@{device}", "started": "2026-03-01T10:00:00+00:00", "settings": BenchSettings(),
        "edgeopt_version": "0.1.0", "facts": facts(), "comparisons": comparisons,
    }  # fmt: skip
    return DeviceRun(device=device, results=results, **(fields | more))


def samples(one: BenchResult) -> list[int]:
    return [sample for each in (one.measurement.launches if one.measurement else ()) for sample in each.samples_ns]


def pi() -> DeviceRun:
    """A good artifact, one as fast as its twin, a slower one, doubtful ones, a failure and a skip."""
    twin = result("portable-fp32", "tflite", measurement(24.1, accuracy={"top1": 0.9}, notes=(GOVERNOR,)))
    near = Agreement(bit_exact=False, sqnr_db=41.3, max_abs_error=0.02, samples=1)
    return run(
        "pi5",
        twin,
        result(measured=measurement(6.71, accuracy={"top1": 0.85}, notes=(GOVERNOR,))),
        result("android-litert-gpu", measured=measurement(24.2, agreement=near, notes=(GOVERNOR,))),
        result("android-nnapi", measured=measurement(31.5, marks=("noisy", "throttled"), notes=("it was hot",))),
        result("nvidia-sparse24", "onnx", measurement(8.2, 40, 1, ("uncalibrated", "partial"), notes=(NO_CALIBRATION,)),
            "failed", calibrated=False, error="RunFailed", reason="nvidia-sparse24/onnx on pi5 was killed\n  cause: SIGKILL"),
        result("apple-ane", "coreml", status="skipped", reason="the runtime for apple-ane/coreml is not installed there"),
        twin=twin, warnings=("pi5: clocks of CPU 0 cannot be locked: that needs root there",),
    )  # fmt: skip


def phone() -> DeviceRun:
    """Figures of native tools: one gives a median, one only an average."""
    figures = {"count": 100.0, "avg_ns": 5.2e6, "min_ns": 5.0e6, "max_ns": 9.0e6}
    tool = {"samples_ns": (), "peak_bytes": None, "peak_delta_bytes": 12_300_000}
    with_median = tuple(launch(5.1, 0, **tool, summary=figures | {"median_ns": 5.1e6}) for _ in range(3))
    with_average = (launch(5.2, 0, **tool, summary=figures),)
    return run(
        "pixel8",
        result(measured=Measurement(launches=with_median), threads=4),
        result("android-nnapi", measured=Measurement(launches=with_average), accelerator="nnapi"),
        facts=facts(kind="android", system="Android 14 (API 34)", model="Google Pixel 8"),
    )


def lost() -> DeviceRun:
    """A device that could not be reached: all its results have its reason."""
    reason = "there is no connection to ssh://pi@attic\n  cause: timed out\n  next step: switch it on"
    failed = [result(name, status="failed", error="Unreachable", reason=reason) for name in ("portable-fp32", "arm-xnnpack")]
    return run("attic", *failed, facts=None, error="Unreachable", reason=reason)


def everything() -> tuple[DeviceRun, ...]:
    return pi(), phone(), lost()


def sustained() -> DeviceRun:
    windows = (Window(t_ns=0, runs=100, mean_ns=6.7e6), Window(t_ns=10**9, runs=80, mean_ns=9.4e6))
    measured = measurement(6.7, launches=(launch(6.7, sustained=windows),), sustained_ms=9.4, sustained_ratio=1.4)
    return run("pi5", result(measured=measured))


def hostile() -> DeviceRun:
    """Text from outside in every place that has one."""
    measured = measurement(6.7, accuracy={HOSTILE: 0.5}, notes=(HOSTILE,))
    return run(
        HOSTILE,
        result(HOSTILE, measured=measured, accelerator=HOSTILE, path=HOSTILE),
        result("", status="failed", error=HOSTILE, reason=HOSTILE, path=f"build/{HOSTILE}"),
        result("b", status="skipped", reason=HOSTILE),
        url=HOSTILE, error=HOSTILE, reason=HOSTILE + "!", warnings=(HOSTILE,), started=HOSTILE,
        facts=facts(model=HOSTILE, cpu=HOSTILE, system=HOSTILE),
        comparisons={"b": Comparison(ratio=1.0, p_value=1.0, verdict="same")},
    )  # fmt: skip
