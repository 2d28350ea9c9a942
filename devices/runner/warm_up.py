"""When a benchmark is warm: the rule of Android's microbenchmark library (androidx.benchmark, WarmupManager)."""

from __future__ import annotations

from typing import Iterable

FAST, SLOW = 0.1, 0.005
CLOSE = 0.04
MIN_CLOSE_RUNS = 40
MIN_RUNS = 30
MIN_NS = 250000000


class WarmUp:
    """Fed with one duration after another, it says when they no longer fall or rise.

    Two moving averages, one fast and one slow, must lie within 4% of each other in more than 40 consecutive runs, of at least
    30 runs and 250 ms in all. Unlike Android's, it gives up after ``max_ns`` also where fewer than 30 runs fit into that time.
    """

    def __init__(self, max_ns: int) -> None:
        self._max_ns = max_ns
        self._fast = self._slow = 0.0
        self._close_runs = 0
        self.runs = 0
        self.total_ns = 0
        self.stable = False

    def over(self, duration_ns: int) -> bool:
        """Takes the next run's duration. True when the warm-up has ended: ``stable``, or given up."""
        self.runs += 1
        self.total_ns += duration_ns
        if self.runs == 1:
            self._fast = self._slow = float(duration_ns)
        else:
            self._fast += FAST * (duration_ns - self._fast)
            self._slow += SLOW * (duration_ns - self._slow)
            close = self._slow > 0 and abs(self._fast / self._slow - 1) < CLOSE
            self._close_runs = self._close_runs + 1 if close else 0
        self.stable = self._close_runs > MIN_CLOSE_RUNS and self.runs >= MIN_RUNS and self.total_ns >= MIN_NS
        return self.stable or self.total_ns >= self._max_ns


def warm_up_end(durations_ns: Iterable[int], max_ns: int) -> tuple[int, bool] | None:
    """The runs that a recorded warm-up took and whether it was stable then; None where the series ends before."""
    detector = WarmUp(max_ns)
    for duration in durations_ns:
        if detector.over(duration):
            return detector.runs, detector.stable
    return None
