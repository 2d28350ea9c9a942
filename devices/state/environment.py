"""How a device is just now (clocks, heat, load, memory, battery), and what of it makes a run's numbers doubtful."""

import re
from collections.abc import Iterable
from dataclasses import field

from edgeopt.core import data_class
from edgeopt.devices.state.facts import KIB, MAX_BYTES, MAX_CPUS, MAX_KHZ, allowed, count
from edgeopt.devices.state.limits import CpuQuota, smallest_quota
from edgeopt.devices.state.probe import Lines, Runs, ask, lines

COLDEST_C, HOTTEST_C = -40.0, 150.0
MAX_ZONES = 64
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's names for its thermal status (android.os.PowerManager.THERMAL_STATUS_*)."""
_NO_TEMPERATURE = (6, 7, 8)
"""Of Android's Temperature types: battery current limits, in volts, milliamperes and per cent."""
_BATTERY_STATUS = {"1": "unknown", "2": "charging", "3": "discharging", "4": "not charging", "5": "full"}
"""android.os.BatteryManager.BATTERY_STATUS_*."""


@data_class
class CpuState:
    """One CPU's clock in kHz. ``highest_khz`` is what it may use now, ``top_khz`` what it can."""

    cpu: int
    governor: str = ""
    current_khz: int | None = None
    lowest_khz: int | None = None
    highest_khz: int | None = None
    top_khz: int | None = None


@data_class
class Battery:
    """``level`` in per cent; ``status`` in lower case: charging, discharging, full, not charging, unknown."""

    level: float | None = None
    status: str = ""
    celsius: float | None = None


@data_class
class Environment:
    """A device at one moment. Empty or None: it does not say."""

    cpus: tuple[CpuState, ...] = ()
    cores: int | None = None
    """CPUs that are switched on."""
    quota: CpuQuota | None = None
    """The least of the quotas that hold for what a login starts there."""
    allowed: str = ""
    """The CPUs that it may use, such as ``0-3``."""
    temperatures: dict[str, float] = field(default_factory=dict)
    """Degrees Celsius by the name of the zone."""
    thermal_status: int | None = None
    """Android's: 0 (none) to 6 (shutdown), as in THERMAL_STATUS."""
    throttle_counts: dict[str, int] = field(default_factory=dict)
    """Times that the processor slowed itself down since it started, by CPU (Linux on Intel)."""
    raspberry_throttled: int | None = None
    """Raspberry Pi's ``vcgencmd get_throttled``: a bit field."""
    speed_limit_percent: int | None = None
    """What macOS allows of the CPU's speed while it is too hot."""
    turbo: bool | None = None
    """Whether clocks above the nominal one are allowed (x86)."""
    load: float | None = None
    """Runnable processes, averaged over the last minute."""
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    battery: Battery | None = None
    uptime_s: float | None = None
    unreadable: tuple[str, ...] = ()


def read_environment(device: Runs, root: str) -> Environment:
    """Asks the device; ``root`` is edgeopt's folder there. Raises BadAnswer where it has no POSIX shell."""
    return parse_environment(ask(device, "environment", root))


def parse_environment(output: bytes) -> Environment:
    """What ``facts.sh environment`` printed. Any bytes give a result; values that cannot be are left out and named."""
    found = lines(output)
    total = found.whole("MemTotal", 1, int(MAX_BYTES / KIB))
    available = found.whole("MemAvailable", 0, int(MAX_BYTES / KIB))
    status, android = thermalservice(found.all("thermalservice"), found)
    sysctl = dict(line.split(": ", 1) for line in found.all("sysctl") if ": " in line)
    mac_load = re.match(r"\{ ([0-9.]{1,10}) ", sysctl.get("vm.loadavg", ""))
    return Environment(
        cpus=_cpus(found),
        cores=count(found.one("online")) or count("1-" + sysctl.get("hw.ncpu", "")),
        quota=smallest_quota(found),
        allowed=allowed(found),
        temperatures=_zones(found) | android,
        thermal_status=status,
        throttle_counts=_throttle_counts(found),
        raspberry_throttled=_raspberry(found),
        speed_limit_percent=_speed_limit(found),
        turbo=_turbo(found),
        load=found.plausible("load", mac_load[1], 0, 1e5) if mac_load else found.number("load", 0, 1e5),
        memory_bytes=None if total is None else total * KIB,
        memory_available_bytes=None if available is None else available * KIB,
        battery=_battery(found),
        uptime_s=found.number("uptime", 0, 1e10),
        unreadable=tuple(found.unreadable),
    )


def thermalservice(output: Iterable[str], found: Lines) -> tuple[int | None, dict[str, float]]:
    """Android's thermal status, and the temperatures in °C by name, of the lines of ``dumpsys thermalservice``.

    Only what the hardware says now counts, not the cached block before it. A sensor at exactly 0 is one that is not there.
    """
    status, now = None, False
    temperatures: dict[str, float] = {}
    for line in output:
        if match := re.match(r"\s*Thermal Status: (\d)\s*$", line, flags=re.ASCII):
            status = int(match[1]) if int(match[1]) < len(THERMAL_STATUS) else None
        elif line.strip().endswith(":"):
            now = "Current temperatures from HAL" in line
        elif match := re.search(r"Temperature\{mValue=([^,]{1,30}), mType=(-?\d{1,4}), mName=([^,}]{1,60})", line):
            if not now or float(match[2]) in _NO_TEMPERATURE or re.fullmatch(r"-?0+(\.0+)?", match[1]):
                continue
            celsius = found.plausible(match[3], match[1], COLDEST_C, HOTTEST_C)
            if celsius is not None and len(temperatures) < MAX_ZONES:
                temperatures[match[3]] = celsius
    return status, temperatures


def _cpus(found: Lines) -> tuple[CpuState, ...]:
    states: dict[int, CpuState] = {}
    for row in found.all("cpu"):
        words = row.split()
        if len(words) != 6 or not re.fullmatch(r"[0-9]{1,4}", words[0]) or int(words[0]) >= MAX_CPUS:
            found.doubt("cpu", row)
            continue
        clocks = [None if word in ("-", "<unknown>") else found.plausible("clock", word, 1, MAX_KHZ) for word in words[2:]]
        current, lowest, highest, top = (None if clock is None else int(clock) for clock in clocks)
        states[int(words[0])] = CpuState(
            cpu=int(words[0]),
            governor="" if words[1] == "-" else words[1][:40],
            current_khz=current,
            lowest_khz=lowest,
            highest_khz=highest,
            top_khz=top,
        )
    return tuple(states[number] for number in sorted(states))


def _zones(found: Lines) -> dict[str, float]:
    """Linux' thermal zones: in thousandths of a degree, or, of some drivers, in degrees. Equal names are told apart."""
    zones: dict[str, float] = {}
    for row in found.all("temperature")[:MAX_ZONES]:
        degrees, zone, name = (*row.split(maxsplit=2), "", "", "")[:3]
        celsius = found.plausible(f"{zone} {name}".strip(), degrees, COLDEST_C * 1000, HOTTEST_C * 1000)
        if celsius is None or celsius == 0:  # 0 is what a sensor says that is not there
            continue
        if abs(celsius) >= 1000:
            celsius /= 1000
        if COLDEST_C <= celsius <= HOTTEST_C:
            zones[name if name and name not in zones else f"{name} ({zone})".strip()] = celsius
        else:
            found.doubt(f"{zone} {name}".strip(), degrees)
    return zones


def _throttle_counts(found: Lines) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in found.all("throttled")[: 2 * MAX_CPUS]:
        match = re.fullmatch(r"(cpu[0-9]{1,4}/(?:core|package)) ([0-9]{1,15})", row)
        if match:
            counts[match[1]] = int(match[2])
        else:
            found.doubt("throttled", row)
    return counts


def _raspberry(found: Lines) -> int | None:
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", found.one("raspberry"))
    return int(match[1], 16) if match else None


def _speed_limit(found: Lines) -> int | None:
    matches = (re.fullmatch(r"CPU_Speed_Limit\s*=\s*([0-9]{1,3})", line) for line in found.all("pmset"))
    return next((int(match[1]) for match in matches if match), None)


def _turbo(found: Lines) -> bool | None:
    if found.one("no_turbo") in ("0", "1"):
        return found.one("no_turbo") == "0"
    return found.one("boost") == "1" if found.one("boost") in ("0", "1") else None


def _battery(found: Lines) -> Battery | None:
    told = dict(line.split(": ", 1) for line in found.all("battery") if ": " in line)
    if "level" in told:  # Android's own, whose scale is 100 on every device
        if told.get("present") == "false":
            return None
        status = _BATTERY_STATUS.get(told.get("status", ""), "unknown")
        return _battery_of(found, told["level"], status, told.get("temperature", ""))
    for line in found.all("pmset"):
        if match := re.search(r"\s([0-9]{1,3})%; ([a-z ]{1,30})[;0-9]", line):
            return _battery_of(found, match[1], "full" if match[2] == "charged" else match[2], "")
    if not found.all("battery_level") and not found.all("battery_status"):
        return None
    return _battery_of(found, found.one("battery_level"), found.one("battery_status").lower(), found.one("battery_tenths"))


def _battery_of(found: Lines, level: str, status: str, tenths: str) -> Battery:
    celsius = found.plausible("battery temperature", tenths, COLDEST_C * 10, HOTTEST_C * 10) if tenths else None
    return Battery(
        level=found.plausible("battery level", level, 0, 100) if level else None,
        status=status[:40],
        celsius=None if celsius is None else celsius / 10,
    )
