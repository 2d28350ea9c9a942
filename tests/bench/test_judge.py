"""What makes a measurement doubtful, and what it says all the same."""

import random
from typing import Any

import pytest

from edgeopt.bench import judge
from edgeopt.bench.events import MissingRuntime
from edgeopt.bench.rounds import Configuration
from edgeopt.bench.types import Agreement, BenchResult, BenchSettings, Launch, Measurement, Window
from edgeopt.core import Format, from_json, to_json
from edgeopt.devices.state.environment import CpuState, Environment
from edgeopt.errors import FellBack, RunFailed
from tests.bench.parts import runnable

SETTINGS = BenchSettings(launches=2)
AGREED = Agreement(bit_exact=True, sqnr_db=200.0, max_abs_error=0.0, samples=1)


def times(ms: float = 5.0, count: int = 200, seed: int = 0, spread: float = 0.01) -> tuple[int, ...]:
    noise = random.Random(seed)
    return tuple(int(ms * 1e6 * noise.gauss(1, spread)) for _ in range(count))


def launches(*found: Launch, **more: Any) -> Configuration:
    fields: dict[str, Any] = {"runnable": runnable("arm-ort"), "threads": 1, "launches": list(found)} | more
    return Configuration(**fields)


def steady(**more: Any) -> Configuration:
    return launches(Launch(samples_ns=times(seed=1)), Launch(samples_ns=times(seed=2)), **more)


def measured(configuration: Configuration, settings: BenchSettings = SETTINGS) -> Measurement:
    result = judge.result(configuration, settings, agreement=AGREED)
    assert from_json(BenchResult, to_json(result)) == result
    assert result.measurement is not None
    return result.measurement


def test_a_steady_run_has_no_marks() -> None:
    found = measured(steady())
    assert (found.marks, found.notes) == ((), ())
    assert found.latency is not None
    assert found.latency.count == 400
    assert found.throughput_per_s == pytest.approx(200, rel=0.01)
    assert found.launch_spread is not None
    assert found.launch_spread < 0.01


def test_a_time_without_a_comparison_of_outputs_says_so() -> None:
    alone = judge.result(steady(), SETTINGS).measurement
    assert alone is not None
    assert alone.notes == ("measured, not proven: its outputs there were compared with nothing",)
    failed = judge.result(steady(failure=RunFailed("it crashed")), SETTINGS).measurement
    assert failed is not None
    assert failed.notes == (), "it has a reason of its own"


@pytest.mark.parametrize(
    ("configuration", "mark", "said"),
    [
        (steady(throttled="thermal status 3", waited_s=60.0), "throttled", "after 60 s of waiting: thermal status 3"),
        (launches(*[Launch(samples_ns=times(spread=0.3))] * 2), "noisy", "standard deviation"),
        (launches(Launch(samples_ns=times(5)), Launch(samples_ns=times(6))), "noisy", "2 launches lie 18% apart"),
        (launches(*[Launch(samples_ns=times(), warm=False)] * 2), "cold", "not stable"),
        (steady(runnable=runnable("arm-ort", calibrated=False)), "uncalibrated", "without calibration data"),
        (launches(*[Launch(samples_ns=times(), growth_bytes=5e6, peak_bytes=10**8)] * 2), "leak", "grew by 5.0 MB over"),
        (launches(*[Launch(samples_ns=times(), same_outputs=False)] * 2), "noisy", "other outputs at the end"),
        (launches(*[Launch(samples_ns=times(), not_finite=3)] * 2), "noisy", "3 outputs are NaN"),
        (launches(Launch(samples_ns=times())), "partial", "only 1 of 2 launches were measured"),
        (steady(cut=True), "partial", "only 1 of 2 launches were measured, and a part of one more"),
        (launches(*[Launch(summary={"avg_ns": 100.0, "std_ns": 20.0})] * 2), "noisy", "20% of the mean"),
        (launches(Launch(summary={"median_ns": 100.0}), Launch(summary={"median_ns": 150.0})), "noisy", "40% apart"),
    ],
)  # fmt: skip
def test_a_doubt_is_a_mark_and_one_sentence(configuration: Configuration, mark: str, said: str) -> None:
    found = measured(configuration)
    assert found.marks == (mark,)
    assert sum(said in note for note in found.notes) == 1, found.notes


def test_growth_that_is_an_allocator_settling_is_no_leak() -> None:
    small = Launch(samples_ns=times(), growth_bytes=5e5, peak_bytes=10**6)
    little = Launch(samples_ns=times(), growth_bytes=2e6, peak_bytes=10**9)
    assert measured(launches(small, little)).marks == ()


def test_fallback_counts_on_an_accelerator_only() -> None:
    placement = {"fallback": 3, "operators": {"Resize": 2, "TopK": 1}}
    configuration = launches(*[Launch(samples_ns=times(), placement=placement)] * 2)
    assert measured(configuration).marks == ()
    found = measured(configuration, BenchSettings(launches=2, accelerator="nnapi"))
    assert found.marks == ("fallback",)
    assert found.notes == ("operators ran on the CPU instead of nnapi: 2 Resize, 1 TopK",)


@pytest.mark.parametrize(
    "placement", [{"fallback": "x\x1b[2J"}, {"fallback": [1], "operators": {}}, {"fallback": 1, "operators": 5}]
)
def test_placement_that_makes_no_sense_is_still_a_fallback(placement: dict[str, Any]) -> None:
    settings = BenchSettings(launches=1, accelerator="gpu")
    assert measured(launches(Launch(samples_ns=times(), placement=placement)), settings).marks == ("fallback",)


def test_too_few_samples_to_tell_a_launchs_median_say_nothing_of_the_spread() -> None:
    found = measured(launches(Launch(samples_ns=times(count=200)), Launch(samples_ns=(5_000_000,) * 3)))
    assert (found.launch_spread, found.marks) == (None, ())


def test_the_sustained_figure_is_of_the_last_third() -> None:
    windows = tuple(Window(t_ns=index, runs=10, mean_ns=5e6 if index < 6 else 10e6) for index in range(9))
    found = measured(launches(*[Launch(samples_ns=times(5), sustained=windows)] * 2))
    assert found.sustained_ms == pytest.approx(10.0)
    assert found.sustained_ratio == pytest.approx(2.0, rel=0.01)


def test_the_devices_state_is_a_note_and_no_mark() -> None:
    powersave = Environment(cpus=(CpuState(cpu=0, governor="powersave"),))
    found = measured(steady(before=powersave, after=powersave))
    assert found.marks == ()
    assert any("powersave" in note for note in found.notes)


def test_runs_that_resemble_each_other_are_noted() -> None:
    noise = random.Random(0)
    value, samples = 5e6, []
    for _ in range(200):
        value += (5e6 - value) * 0.1 + noise.gauss(0, 2e4)
        samples.append(int(value))
    found = measured(launches(*[Launch(samples_ns=tuple(samples))] * 2))
    assert any("resemble each other" in note for note in found.notes)
    assert "noisy" not in found.marks


def test_a_failure_keeps_what_was_measured_before() -> None:
    failure = RunFailed("it crashed", why="signal 11", fix="look")
    result = judge.result(launches(Launch(samples_ns=times()), failure=failure), SETTINGS)
    assert (result.status, result.error, result.reason) == ("failed", "RunFailed", failure.message())
    assert result.measurement is not None
    assert result.measurement.marks == ("partial",)
    nothing = judge.result(launches(failure=FellBack("no")), SETTINGS)
    assert (nothing.status, nothing.error, nothing.measurement) == ("failed", "FellBack", None)


def test_a_missing_runtime_is_a_skip() -> None:
    result = judge.result(launches(failure=MissingRuntime("not installed", fix="setup")), SETTINGS)
    assert (result.status, result.error) == ("skipped", "")
    assert "not installed" in result.reason


def result_of(target: str, ms: float, form: Format = "onnx", threads: int = 1) -> BenchResult:
    found = Launch(samples_ns=times(ms)) if ms else Launch(summary={"avg_ns": 5.0})
    return judge.result(Configuration(runnable(target, form), threads, [found]), SETTINGS)


def test_each_artifact_is_compared_with_its_twin_of_format_and_threads() -> None:
    results = [
        result_of("fp32", 10), result_of("int8", 5), result_of("same", 10.1), result_of("slow", 20),
        result_of("fp32", 8, threads=4), result_of("int8", 5, threads=4), result_of("int8", 5, "tflite"), result_of("tool", 0),
    ]  # fmt: skip
    found = judge.comparisons(results, "fp32")
    assert {key: one.verdict for key, one in found.items()} == {
        "int8/onnx x1": "faster", "same/onnx x1": "same", "slow/onnx x1": "slower", "int8/onnx x4": "faster",
    }  # fmt: skip
    assert found["int8/onnx x4"].ratio == pytest.approx(5 / 8, rel=0.01)
