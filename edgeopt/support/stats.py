"""What raw samples of latency say, and what they do not: percentiles with confidence, instability, drift, comparisons.

Every function is pure and takes durations in nanoseconds, in the order in which they were measured. Percentiles are order
statistics, so that they hold for any distribution; they assume independent samples, which runs of one process are not quite:
:func:`autocorrelation` says how far off, and :func:`spread` between several launches is the honest figure beside them.
"""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from operator import mul
from typing import Any, Literal

from edgeopt.core import data_class
from edgeopt.errors import MissingExtra

CONFIDENCE = 0.99
"""Of every percentile and interval here, as in MLPerf."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
MIN_EFFECT = 0.03
"""Two medians nearer than this are called the same, however significant."""
ALPHA = 0.05
"""Probability with which equal runs are called different."""
UNSTABLE_STDEV = 0.10
"""Of the mean (pyperf)."""
FAR_FROM_MEAN = 0.50
"""Of the mean (pyperf), for more than MANY_FAR of the samples: one of many thousands lies there always."""
MANY_FAR = 0.01
OUTLIER_SCORE = 14.826
"""Ten standard deviations, told by the median absolute deviation (hyperfine)."""
THROTTLED_RATIO = 1.10
AUTOCORRELATED = 0.20
MIN_SERIES = 30
"""Fewer samples tell neither drift nor autocorrelation."""


@data_class
class Percentile:
    """The latency below which a share ``p`` of runs stays; each value in ns, None where ``enough`` is false.

    ``value`` is the order statistic itself; [``low``, ``high``] holds the true percentile with the confidence asked for,
    two-sided; ``conservative`` lies above it with that confidence, one-sided, as MLPerf reports it.
    """

    p: float
    enough: bool
    needed: int
    """Samples that this percentile needs."""
    value: int | None = None
    low: int | None = None
    high: int | None = None
    conservative: int | None = None


@data_class
class Summary:
    """Samples of one launch, or of several taken together; times in ns. ``unstable`` gives reasons, for people."""

    count: int
    median: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    mean: float
    stdev: float
    min: int
    max: int
    outliers: int
    autocorrelation: float | None
    unstable: tuple[str, ...]

    @property
    def throughput(self) -> float:
        """Inferences a second, one after another."""
        return 1e9 / self.mean


@data_class
class Comparison:
    """``ratio``: median of the second over the first; ``same`` unless the difference is significant and large enough."""

    ratio: float
    p_value: float
    verdict: Literal["same", "faster", "slower"]


@cache
def samples_needed(p: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples from which percentile ``p`` (0.5 <= p < 1) can be told with ``confidence``.

    MLPerf loadgen's early stopping: h_min(1) + 1, the smallest n with P(Binom(n, 1 - p) <= 1) <= 1 - confidence.
    """
    if not 0.5 <= p < 1:
        raise ValueError(f"percentiles of latency are told from 0.5 to below 1, not at {p}")
    fewest = range(2, 10**9)
    return fewest[bisect_left(fewest, confidence - 1, key=lambda count: -_cdf(1, count, 1 - p))]


def percentile(samples: Iterable[int], p: float, confidence: float = CONFIDENCE) -> Percentile:
    """Percentile ``p`` of ``samples`` (in any order, also none) with its interval, or the fact that they are not enough."""
    return _percentile(sorted(samples), p, confidence)


def median_known(samples: Sequence[int], confidence: float = CONFIDENCE) -> bool:
    """Whether the interval of the median of ``samples`` is narrower than what two medians must differ by to be told apart.

    As :func:`percentile`, without scipy, which not everybody has who exports.
    """
    below = _ranks_outside(len(samples), confidence)
    if not below:
        return False
    ordered = sorted(samples)
    return ordered[-below] - ordered[below - 1] <= MIN_EFFECT * statistics.median(ordered)


@cache
def _ranks_outside(count: int, confidence: float) -> int:
    """The most samples of ``count`` on each side that the median's interval may leave out, and one: 0 where none holds it."""
    most, under = (1 - confidence) / 2 * 2**count, 0
    for rank in range(count):
        under += math.comb(count, rank)
        if under > most:
            return rank
    return 0


def _percentile(ordered: Sequence[int], p: float, confidence: float) -> Percentile:
    """Of n sorted samples: [x(l), x(u)] is the narrowest interval with equal tails and P(l <= Binom(n, p) < u) >= confidence.

    The conservative value is x(n - t + 1), t being the largest with P(Binom(n, 1 - p) <= t) <= 1 - confidence.
    """
    count, needed = len(ordered), samples_needed(p, confidence)
    if count < needed:
        return Percentile(p=p, enough=False, needed=needed)
    tail = (1 - confidence) / 2
    ranks = range(count)
    below = bisect_right(ranks, tail, key=lambda rank: _cdf(rank, count, p))
    above = bisect_left(ranks, 1 - tail, key=lambda rank: _cdf(rank, count, p))
    left_out = bisect_right(ranks, 1 - confidence, key=lambda rank: _cdf(rank, count, 1 - p)) - 1
    return Percentile(
        p=p,
        enough=True,
        needed=needed,
        value=int(ordered[math.ceil(p * count) - 1]),
        low=int(ordered[below - 1]),
        high=int(ordered[above]),
        conservative=int(ordered[count - left_out]),
    )


def summarize(samples: Sequence[int]) -> Summary:
    """Everything about one series of ``samples``, in the order in which they were measured. Raises ValueError without any."""
    if not samples:
        raise ValueError("there are no samples to summarize")
    ordered = sorted(samples)
    median, p90, p95, p99 = (_percentile(ordered, p, CONFIDENCE) for p in PERCENTILES)
    mean = statistics.fmean(ordered)
    return Summary(
        count=len(ordered),
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=mean,
        stdev=_stdev(ordered, mean),
        min=ordered[0],
        max=ordered[-1],
        outliers=outliers(samples),
        autocorrelation=autocorrelation(samples),
        unstable=instability(samples),
    )


def outliers(samples: Sequence[int]) -> int:
    """How many samples lie further from the median than OUTLIER_SCORE times the median absolute deviation (hyperfine).

    None do where more than half of all samples are equal: the clock is then too coarse to judge.
    """
    if not samples:
        return 0
    middle = statistics.median(samples)
    distances = [abs(sample - middle) for sample in samples]
    deviation = statistics.median(distances)
    return sum(distance > OUTLIER_SCORE * deviation for distance in distances) if deviation > 0 else 0


def instability(samples: Sequence[int]) -> tuple[str, ...]:
    """Why a series is not to be trusted, for people; empty where nothing speaks against it.

    pyperf's two rules (spread, and samples far from the mean), and a drift, which only the order of samples shows.
    """
    mean = statistics.fmean(samples) if samples else 0.0
    if mean <= 0:
        return ()
    reasons = []
    stdev = _stdev(samples, mean)
    if stdev >= UNSTABLE_STDEV * mean:
        reasons.append(f"the standard deviation is {stdev / mean:.0%} of the mean")
    far = sum(abs(sample - mean) >= FAR_FROM_MEAN * mean for sample in samples)
    if far > MANY_FAR * len(samples):
        reasons.append(f"{far} of {len(samples)} runs are {FAR_FROM_MEAN:.0%} or more away from the mean")
    change = drift(samples)
    if change is not None and not 1 / THROTTLED_RATIO <= change <= THROTTLED_RATIO:
        reasons.append(f"the last third of the runs took {change:.2f} times as long as the first")
    return tuple(reasons)


def drift(samples: Sequence[int]) -> float | None:
    """Median of the last third over the median of the first: above THROTTLED_RATIO the device slowed down. None: too few."""
    if len(samples) < MIN_SERIES:
        return None
    third = len(samples) // 3
    first = statistics.median(samples[:third])
    return statistics.median(samples[-third:]) / first if first > 0 else None


def autocorrelation(samples: Sequence[int]) -> float | None:
    """Correlation of each sample with the next (lag 1), -1 to 1; None for few samples or equal ones."""
    if len(samples) < MIN_SERIES or min(samples) == max(samples):
        return None
    mean = statistics.fmean(samples)
    centred = [sample - mean for sample in samples]
    return math.fsum(map(mul, centred, centred[1:])) / math.fsum(map(mul, centred, centred))


def spread(medians: Sequence[float]) -> float | None:
    """Of several launches' medians: largest less smallest, over the median of them. None for a single launch."""
    middle = statistics.median(medians) if len(medians) > 1 else 0.0
    return (max(medians) - min(medians)) / middle if middle > 0 else None


def compare(first: Sequence[int], second: Sequence[int], *, min_effect: float = MIN_EFFECT) -> Comparison:
    """Whether ``second`` is faster or slower than ``first``: by Mann-Whitney's U at ALPHA, and medians ``min_effect`` apart.

    Runs to be compared should be interleaved A B A B. Raises ValueError where one of them is empty, MissingExtra without scipy.
    """
    if not first or not second:
        raise ValueError("a comparison needs samples of both")
    p_value = float(_scipy("stats").mannwhitneyu(first, second, alternative="two-sided").pvalue)
    ratio = statistics.median(second) / max(statistics.median(first), 1)
    verdict: Literal["same", "faster", "slower"] = "same"
    if p_value < ALPHA and abs(ratio - 1) >= min_effect:
        verdict = "slower" if ratio > 1 else "faster"
    return Comparison(ratio=ratio, p_value=p_value, verdict=verdict)


def _stdev(samples: Sequence[int], mean: float) -> float:
    """With n - 1; the statistics module's own is exact, and a hundred times slower."""
    return math.sqrt(math.fsum((sample - mean) ** 2 for sample in samples) / max(len(samples) - 1, 1))


def _cdf(most: int, count: int, p: float) -> float:
    """P(Binom(count, p) <= most)."""
    return float(_scipy("special").bdtr(most, count, p))


@cache
def _scipy(part: str) -> Any:
    """The module ``scipy.part``, imported when it is first needed: it takes up to a second."""
    try:
        return import_module(f"scipy.{part}")
    except ImportError as error:
        raise MissingExtra(
            "percentiles and comparisons need scipy", why=str(error), fix="pip install 'edgeopt[devices]'"
        ) from error
