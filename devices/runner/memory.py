"""Memory of this process: what it holds now, the most it ever held, and whether it grows from run to run."""

from __future__ import annotations

import os
import sys
from typing import Any

MAX_SERIES = 200


def resident() -> int | None:
    """Resident bytes now (Linux), or None."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def peak() -> int | None:
    """The most resident bytes so far: VmHWM, which forgets what the process was before exec; where there is none, ru_maxrss."""
    found = status_number("VmHWM")
    if found is not None:
        return found * 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def status_number(name: str) -> int | None:
    """The number that /proc/self/status has under ``name``, or None."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


class Memory:
    """Resident memory at named moments, and over the timed runs."""

    def __init__(self) -> None:
        self._marks: dict[str, int | None] = {}
        self._series: list[tuple[int, int]] = []

    def mark(self, moment: str) -> None:
        self._marks[moment] = resident()

    def after(self, runs: int) -> None:
        """Notes what is resident after ``runs`` timed runs; of a long series every second point is dropped."""
        now = resident()
        if now is not None:
            self._series.append((runs, now))
        if len(self._series) > 2 * MAX_SERIES:
            del self._series[1::2]

    def fields(self) -> dict[str, Any]:
        """What the ``memory`` event says, all in bytes. Growth is the slope of the least-squares line through the series."""
        slope = least_squares_slope(self._series)
        runs = self._series[-1][0] - self._series[0][0] if self._series else 0
        thinned = self._series[:: 1 + len(self._series) // MAX_SERIES]
        return dict(
            self._marks,
            peak=peak(),
            growth_per_run=slope,
            growth=None if slope is None else slope * runs,
            series=[list(point) for point in thinned],
        )


def least_squares_slope(points: list[tuple[int, int]]) -> float | None:
    """Of y over x; None where fewer than three points, or all at one x, allow none."""
    if len(points) < 3:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
