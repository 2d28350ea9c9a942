"""What makes a run's numbers doubtful: a device's environment before the run and after it, compared."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from edgeopt.devices.state.environment import THERMAL_STATUS, CpuState, Environment
from edgeopt.devices.state.facts import limited

K = TypeVar("K")
NEAR_TOP = 0.95
"""A clock below this part of what it could be is a slower one."""
HOT_C = 80.0
"""Where small boards begin to slow down: the Raspberry Pi's soft limit is 60 to 80 °C, its hard one 85 °C."""
BUSY_PER_CORE, BUSY = 0.25, 0.5
LITTLE_MEMORY = 0.10
LOW_BATTERY = 20.0
"""Per cent: where Android offers to save power."""
_PROCESSOR_ZONES = ("cpu", "soc", "core", "x86_pkg", "package", "acpitz", "big", "little", "mid", "gpu", "npu", "tpu")
_RASPBERRY = {
    0: "the power supply gave too little voltage",
    1: "the clock was capped",
    2: "the processor was throttled",
    3: "the soft temperature limit was reached",
}
"""Bits of ``vcgencmd get_throttled`` (Raspberry Pi documentation); 16 higher: it has happened since the start."""


def differences(before: Environment, after: Environment) -> tuple[str, ...]:
    """What makes a run between two moments doubtful: a plain sentence with its numbers for each; none where all is well."""
    sentences = [sentence for check in _CHECKS for sentence in check(before, after)]
    for state in _STATES:
        earlier, later = list(state(before)), list(state(after))
        for sentence in dict.fromkeys(earlier + later):
            both = sentence in earlier and sentence in later
            sentences.append(
                f"{sentence} {'before and after' if both else 'before' if sentence in earlier else 'after'} the run"
            )
    return tuple(sentences)


def _restarted(before: Environment, after: Environment) -> Iterator[str]:
    if before.uptime_s is not None and after.uptime_s is not None and after.uptime_s < before.uptime_s:
        yield f"the device restarted during the run: up for {before.uptime_s:.0f} s before, for {after.uptime_s:.0f} s after"


def _governors(before: Environment, after: Environment) -> Iterator[str]:
    named = _by(before.cpus, lambda state: state.governor)
    for governor, cpus in named.items():
        if governor and governor != "performance":
            yield f"the governor of {cpus} is {governor}: clocks follow the load (performance keeps them)"
    later = _by(after.cpus, lambda state: state.governor)
    if named and later and named != later:
        shown = ", ".join(f"{governor or 'unknown'} on {cpus}" for governor, cpus in later.items())
        yield f"the governors changed during the run: {shown} after it"


def _capped(environment: Environment) -> Iterator[str]:
    for (highest, top), cpus in _by(environment.cpus, lambda state: (state.highest_khz, state.top_khz)).items():
        if highest is not None and top is not None and highest < NEAR_TOP * top:
            yield f"{cpus} could only use {_ghz(highest)} of {_ghz(top)}"


def _slowed(environment: Environment) -> Iterator[str]:
    """Only where the governor holds the clock: elsewhere an idle CPU is slow by rights."""
    held = [state for state in environment.cpus if state.governor == "performance"]
    for (current, highest), cpus in _by(held, lambda state: (state.current_khz, state.highest_khz)).items():
        if current is not None and highest is not None and current < NEAR_TOP * highest:
            yield f"{cpus} ran at {_ghz(current)} instead of {_ghz(highest)}"


def _turbo(before: Environment, after: Environment) -> Iterator[str]:
    if before.turbo:
        yield "the processor may clock itself above its nominal frequency (turbo): times depend on heat and on other cores"


def _thermal(environment: Environment) -> Iterator[str]:
    if environment.thermal_status:
        named = THERMAL_STATUS[min(environment.thermal_status, len(THERMAL_STATUS) - 1)]
        yield f"the thermal status was {environment.thermal_status} ({named})"
    if environment.speed_limit_percent is not None and environment.speed_limit_percent < 100:
        yield f"the processor was limited to {environment.speed_limit_percent}% of its speed"


def _throttled(before: Environment, after: Environment) -> Iterator[str]:
    grown = {name: count - before.throttle_counts.get(name, count) for name, count in after.throttle_counts.items()}
    times = max(grown.values(), default=0)
    if times > 0:
        yield f"the processor throttled itself {times} times during the run"


def _raspberry(environment: Environment) -> Iterator[str]:
    for bit, sentence in _RASPBERRY.items():
        if (environment.raspberry_throttled or 0) >> bit & 1:
            yield sentence


def _raspberry_meanwhile(before: Environment, after: Environment) -> Iterator[str]:
    happened = (after.raspberry_throttled or 0) & ~(before.raspberry_throttled or 0)
    for bit, sentence in _RASPBERRY.items():
        if happened >> (bit + 16) & 1:
            yield f"{sentence} at some time during the run"


def _heat(before: Environment, after: Environment) -> Iterator[str]:
    zones = {name: celsius for name, celsius in after.temperatures.items() if name.lower().startswith(_PROCESSOR_ZONES)}
    if zones and max(zones.values()) >= HOT_C:
        hottest = max(zones, key=lambda name: zones[name])
        then = f", {before.temperatures[hottest]:.0f} °C before it" if hottest in before.temperatures else ""
        yield f"{hottest} is at {zones[hottest]:.0f} °C after the run{then}: many devices slow down from {HOT_C:.0f} °C on"


def _load(before: Environment, after: Environment) -> Iterator[str]:
    cores = before.cores or len(before.cpus) or 1
    if before.load is not None and before.load > max(BUSY, BUSY_PER_CORE * cores):
        yield f"something else was running: the load was {before.load:.2f} on {cores} CPUs before the run"


def _limited(before: Environment, after: Environment) -> Iterator[str]:
    found = [limited(one.cores or len(one.cpus), one.quota, one.allowed) for one in (before, after)]
    for limit in dict.fromkeys((*found[0], *found[1])):
        yield f"times are those of {limit}"


def _memory(environment: Environment) -> Iterator[str]:
    free, total = environment.memory_available_bytes, environment.memory_bytes
    if free is not None and total and free < LITTLE_MEMORY * total:
        yield f"less than {LITTLE_MEMORY:.0%} of {total / 1e6:.0f} MB of memory was free"


def _battery(before: Environment, after: Environment) -> Iterator[str]:
    battery = before.battery or after.battery
    if battery is None:
        return
    if battery.status == "charging":
        yield "the battery is charging, which heats the device"
    if battery.level is not None and battery.level < LOW_BATTERY and battery.status not in ("charging", "full"):
        yield f"the battery is at {battery.level:.0f}%: the device may save power"


_Check = Callable[[Environment, Environment], Iterator[str]]
_CHECKS: tuple[_Check, ...] = (
    _restarted,
    _governors,
    _turbo,
    _throttled,
    _raspberry_meanwhile,
    _heat,
    _load,
    _limited,
    _battery,
)
_STATES: tuple[Callable[[Environment], Iterator[str]], ...] = (_capped, _slowed, _thermal, _raspberry, _memory)


def _by(states: Iterable[CpuState], key: Callable[[CpuState], K]) -> dict[K, str]:
    """CPUs with the same ``key``, as ``CPUs 0-3``, in the order of their first ones."""
    groups: dict[K, list[int]] = {}
    for state in states:
        groups.setdefault(key(state), []).append(state.cpu)
    return {value: _named(cpus) for value, cpus in groups.items()}


def _named(cpus: list[int]) -> str:
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    shown = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"CPU {shown}" if len(cpus) == 1 else f"CPUs {shown}"


def _ghz(khz: int) -> str:
    return f"{khz / 1e6:.2f} GHz"
