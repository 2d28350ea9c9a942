"""When a benchmark is warm: the rule of Android's library androidx.benchmark (WarmupManager), for slow runs too.

Two moving averages, a fast and a slow one, must stay close to each other. Android's slow average weighs the first run for
hundreds of runs, and asks for 40 runs even if each takes a second. Here both averages begin as means over the runs so far,
and runs that are close for two seconds are enough.
"""

from __future__ import annotations

from typing import Iterable

FAST, SLOW = 0.1, 0.005
CLOSE = 0.04
CLOSE_RUNS = 40
CLOSE_NS, FEWEST_RUNS = 2000000000, 5
"""Slow runs: close for this long, in this many runs."""
MIN_NS = 250000000


class WarmUp:
    """Fed with one duration after another, it says when they no longer fall or rise.

    The averages lie within 4% of each other in more than 40 consecutive runs, or in 5 at least that take two seconds
    together; the whole takes 250 ms or more. It gives up after ``max_ns``.
    """

    def __init__(self, max_ns: int) -> None:
        self._max_ns = max_ns
        self._fast = self._slow = 0.0
        self._close_runs = self._close_ns = 0
        self.runs = 0
        self.total_ns = 0
        self.stable = False

    def over(self, duration_ns: int) -> bool:
        """Takes the next run's duration. True when the warm-up has ended: ``stable``, or given up."""
        self.runs += 1
        self.total_ns += duration_ns
        # Until their own weight is reached: the mean of all runs, and one in which the n-th run weighs about n^3.
        self._slow += max(SLOW, 1 / self.runs) * (duration_ns - self._slow)
        self._fast += max(FAST, 4 / (self.runs + 3)) * (duration_ns - self._fast)
        if self._slow > 0 and abs(self._fast / self._slow - 1) < CLOSE:
            self._close_runs += 1
            self._close_ns += duration_ns
        else:
            self._close_runs = self._close_ns = 0
        long = self._close_ns >= CLOSE_NS and self._close_runs >= FEWEST_RUNS
        self.stable = self.total_ns >= MIN_NS and (self._close_runs > CLOSE_RUNS or long)
        return self.stable or self.total_ns >= self._max_ns


def warm_up_end(durations_ns: Iterable[int], max_ns: int) -> tuple[int, bool] | None:
    """The runs that a recorded warm-up took and whether it was stable then; None where the series ends before."""
    detector = WarmUp(max_ns)
    for duration in durations_ns:
        if detector.over(duration):
            return detector.runs, detector.stable
    return None
