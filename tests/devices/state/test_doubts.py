"""What makes a run doubtful: each reason is told with its numbers, and a calm device gives none."""

from dataclasses import replace

import pytest

from edgeopt.devices.state.doubts import differences
from edgeopt.devices.state.environment import Battery, CpuState, Environment

CALM = Environment(
    cpus=tuple(
        CpuState(cpu=n, governor="performance", current_khz=2400000, highest_khz=2400000, top_khz=2400000) for n in range(4)
    ),
    cores=4,
    temperatures={"cpu-thermal": 50.0},
    thermal_status=0,
    throttle_counts={"cpu0/core": 3},
    load=0.1,
    memory_bytes=8_000_000_000,
    memory_available_bytes=6_000_000_000,
    battery=Battery(level=80, status="not charging"),
    uptime_s=100,
)


def clocked(**changes: object) -> Environment:
    return replace(CALM, cpus=tuple(replace(state, **changes) for state in CALM.cpus))  # type: ignore[arg-type]  # of CpuState


def test_a_calm_device_raises_no_doubt() -> None:
    assert differences(CALM, replace(CALM, uptime_s=200)) == ()
    assert differences(Environment(), Environment()) == ()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (clocked(governor="schedutil"), clocked(governor="schedutil"), "the governor of CPUs 0-3 is schedutil"),
        (CALM, clocked(governor="powersave"), "the governors changed during the run: powersave on CPUs 0-3 after it"),
        (CALM, clocked(highest_khz=1500000, current_khz=1500000), "CPUs 0-3 could only use 1.50 GHz of 2.40 GHz after the run"),
        (clocked(current_khz=600000), CALM, "CPUs 0-3 ran at 0.60 GHz instead of 2.40 GHz before the run"),
        (CALM, replace(CALM, thermal_status=2), "the thermal status was 2 (moderate) after the run"),
        (replace(CALM, speed_limit_percent=70), CALM, "the processor was limited to 70% of its speed before the run"),
        (CALM, replace(CALM, throttle_counts={"cpu0/core": 5, "cpu1/core": 9}), "the processor throttled itself 2 times"),
        (CALM, replace(CALM, temperatures={"cpu-thermal": 84.0}), "cpu-thermal is at 84 °C after the run, 50 °C before it"),
        (CALM, replace(CALM, raspberry_throttled=0x1), "the power supply gave too little voltage after the run"),
        (CALM, replace(CALM, raspberry_throttled=0x40000), "the processor was throttled at some time during the run"),
        (replace(CALM, load=1.8), CALM, "something else was running: the load was 1.80 on 4 CPUs before the run"),
        (replace(CALM, memory_available_bytes=500_000_000), CALM, "less than 10% of 8000 MB of memory was free before the run"),
        (replace(CALM, battery=Battery(level=50, status="charging")), CALM, "the battery is charging"),
        (replace(CALM, battery=Battery(level=9, status="discharging")), CALM, "the battery is at 9%"),
        (replace(CALM, turbo=True), CALM, "turbo"),
        (CALM, replace(CALM, uptime_s=5), "the device restarted during the run"),
    ],
)
def test_what_makes_a_run_doubtful_is_said_with_its_numbers(before: Environment, after: Environment, sentence: str) -> None:
    (said,) = differences(before, after)
    assert sentence in said


def test_what_lasts_is_said_once() -> None:
    hot = replace(CALM, thermal_status=1)
    assert differences(hot, hot) == ("the thermal status was 1 (light) before and after the run",)


def test_old_counters_and_hot_batteries_raise_no_doubt() -> None:
    before = replace(CALM, raspberry_throttled=0x50000, temperatures={"usb": 90.0})
    assert differences(before, before) == ()
