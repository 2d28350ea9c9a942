"""The device's state while it measures: CPU frequencies, temperatures, and the speed of a fixed piece of work."""

from __future__ import annotations

import glob
import os
import re
import time
from typing import Any

from .lines import Lines

EVERY_NS = 1000000000
_WORK = 20000


class Environment:
    """Reads, between timed runs and at most once a second, whatever of it this device lets be read."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        pattern = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
        found = ((re.search(r"cpu(\d+)/", path), path) for path in sorted(glob.glob(pattern)))
        self._frequencies = [(match.group(1), path) for match, path in found if match]
        self._zones = _zones()
        self._last_ns = -EVERY_NS

    def note(self, t_ns: int, phase: str, always: bool = False) -> None:
        """Writes an ``environment`` event where the last one is a second old (or ``always``)."""
        now = time.monotonic_ns()
        if not always and now - self._last_ns < EVERY_NS:
            return
        self._last_ns = now
        self._lines.write("environment", t_ns=t_ns, phase=phase, workload_ns=workload_ns(), **self._readings())

    def _readings(self) -> dict[str, Any]:
        frequencies = {cpu: _number(path) for cpu, path in self._frequencies}
        temperatures = {name: _celsius(_number(path)) for name, path in self._zones}
        return {
            "frequencies_khz": {cpu: value for cpu, value in frequencies.items() if value is not None},
            "temperatures_c": {name: value for name, value in temperatures.items() if value is not None},
        }


def workload_ns() -> int:
    """The fastest of three runs of the same arithmetic, about a millisecond each: a CPU that has slowed down shows here too."""
    best = 0
    for _ in range(3):
        start = time.perf_counter_ns()
        total = 0
        for number in range(_WORK):
            total += number & 7
        taken = time.perf_counter_ns() - start
        best = taken if best == 0 else min(best, taken)
    return best


def _zones() -> list[tuple[str, str]]:
    found = []
    for folder in sorted(glob.glob("/sys/class/thermal/thermal_zone[0-9]*")):
        kind = _text(os.path.join(folder, "type")) or "unknown"
        zone = os.path.basename(folder)[len("thermal_zone") :]
        found.append((f"{zone} {kind[:64]}", os.path.join(folder, "temp")))
    return found


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return None


def _number(path: str) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _celsius(value: int | None) -> float | None:
    """Linux gives thousandths of a degree; a few drivers give whole degrees."""
    if value is None:
        return None
    return value / 1000 if abs(value) >= 1000 else float(value)
