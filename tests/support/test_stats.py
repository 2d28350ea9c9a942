import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.devices.runner.warm_up import warm_up_end
from edgeopt.support import stats
from edgeopt.support.stats import Percentile

durations = st.lists(st.integers(1, 10**10), min_size=1, max_size=300)


@pytest.mark.parametrize(("p", "needed"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.97, 219), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_samples_as_mlperf_says(p: float, needed: int) -> None:
    assert stats.samples_needed(p) == needed
    assert not stats.percentile(range(needed - 1), p).enough
    assert stats.percentile(range(needed), p).enough


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0, 1.5])
def test_percentiles_outside_of_the_upper_half_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="percentiles"):
        stats.samples_needed(p)


def test_with_the_fewest_samples_the_conservative_percentile_is_the_largest() -> None:
    found = stats.percentile(range(1, 663), 0.99)
    assert (found.conservative, found.high) == (662, 662)
    assert found.value == 656


def test_too_few_samples_give_no_percentile_but_the_number_that_is_missing() -> None:
    assert stats.percentile([5] * 100, 0.99) == Percentile(p=0.99, enough=False, needed=662)
    assert stats.percentile([], 0.5) == Percentile(p=0.5, enough=False, needed=11)


@pytest.mark.parametrize(("count", "p"), [(11, 0.5), (64, 0.9), (130, 0.95), (662, 0.99), (1000, 0.5)])
def test_the_interval_is_the_narrowest_with_equal_tails(count: int, p: float) -> None:
    def at_most(most: int) -> float:
        return sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(most + 1))

    found = stats.percentile(range(1, count + 1), p)
    assert found.low is not None and found.high is not None
    assert at_most(found.low - 1) <= 0.005 < at_most(found.low)
    assert at_most(found.high - 1) >= 0.995 > at_most(found.high - 2)


def test_intervals_hold_the_true_percentile_as_often_as_they_promise() -> None:
    source = random.Random(7)
    true = round(1e6 * math.exp(0.1 * statistics.NormalDist().inv_cdf(0.9)))
    tries, inside, above = 600, 0, 0
    for _ in range(tries):
        found = stats.percentile([round(source.lognormvariate(math.log(1e6), 0.1)) for _ in range(120)], 0.9)
        assert found.low is not None and found.high is not None and found.conservative is not None
        inside += found.low <= true <= found.high
        above += found.conservative >= true
    assert inside >= 0.98 * tries
    assert above >= 0.98 * tries


@given(durations, st.sampled_from(stats.PERCENTILES))
def test_percentiles_are_samples_in_their_order(samples: list[int], p: float) -> None:
    found = stats.percentile(samples, p)
    if found.enough:
        assert found.low is not None and found.value is not None and found.high is not None
        assert found.low <= found.value <= found.high
        assert {found.low, found.value, found.high, found.conservative} <= set(samples)
    else:
        assert len(samples) < found.needed and found.value is None


@given(st.lists(st.integers(900, 1100) | st.integers(1, 10**10), max_size=300))
def test_a_median_is_known_where_its_interval_is_narrow(samples: list[int]) -> None:
    found = stats.percentile(samples, 0.5)
    if found.low is not None and found.high is not None:
        narrow = found.high - found.low <= stats.MIN_EFFECT * statistics.median(samples)
        assert stats.median_known(samples) == narrow


def test_steady_runs_are_known_soon_and_scattered_ones_are_not() -> None:
    assert stats.median_known([1000 + number % 10 for number in range(15)])
    assert not stats.median_known([1000 + 50 * (number % 10) for number in range(15)])
    assert not stats.median_known([1000] * 7)


@given(durations)
def test_a_summary_does_not_depend_on_the_order_but_for_what_order_shows(samples: list[int]) -> None:
    found, other = stats.summarize(samples), stats.summarize(sorted(samples))
    assert (found.median, found.p99, found.min, found.max, found.outliers) == (
        other.median, other.p99, other.min, other.max, other.outliers,
    )  # fmt: skip
    assert found.min <= found.mean * (1 + 1e-9) and found.mean <= found.max * (1 + 1e-9)
    assert found.stdev == pytest.approx(statistics.stdev(samples) if len(samples) > 1 else 0.0, rel=1e-6, abs=1e-3)
    assert found.throughput == pytest.approx(1e9 / found.mean)


def test_no_samples_are_no_summary() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.summarize([])


def steady(count: int, seed: int = 1, mean: int = 1_000_000) -> list[int]:
    source = random.Random(seed)
    return [round(source.gauss(mean, mean * 0.01)) for _ in range(count)]


def test_steady_samples_have_nothing_against_them() -> None:
    found = stats.summarize(steady(1000))
    assert found.unstable == () and found.outliers == 0
    assert found.autocorrelation is not None and abs(found.autocorrelation) < 0.1


def test_one_slow_run_of_many_is_an_outlier_and_no_instability() -> None:
    samples = steady(1000)
    samples[500] *= 2
    assert stats.outliers(samples) == 1
    assert stats.instability(samples) == ()


def test_many_runs_far_from_the_mean_are_named() -> None:
    samples = steady(1000)
    samples[::20] = [3 * sample for sample in samples[::20]]
    reasons = "; ".join(stats.instability(samples))
    assert "standard deviation" in reasons and "50 of 1000 runs" in reasons


def test_a_device_that_slows_down_shows_in_the_last_third() -> None:
    samples = steady(300) + steady(300, seed=2, mean=1_200_000)
    change = stats.drift(samples)
    assert change == pytest.approx(1.2, abs=0.01)
    assert any("last third" in reason for reason in stats.instability(samples))


def test_runs_that_come_in_slow_and_fast_stretches_are_called_dependent() -> None:
    samples = [sample for seed in range(20) for sample in steady(25, seed, 1_000_000 + 80_000 * (seed % 2))]
    dependence = stats.autocorrelation(samples)
    assert dependence is not None
    assert dependence >= stats.AUTOCORRELATED


@given(st.lists(st.integers(0, 10**12), max_size=100))
def test_judgements_of_any_series_never_fail(samples: list[int]) -> None:
    stats.instability(samples)
    stats.drift(samples)
    assert 0 <= stats.outliers(samples) <= len(samples) // 2
    dependence = stats.autocorrelation(samples)
    assert dependence is None or -1 - 1e-9 <= dependence <= 1 + 1e-9


def test_equal_samples_have_no_outliers_and_no_autocorrelation() -> None:
    found = stats.summarize([1000] * 999 + [1001])
    assert found.outliers == 0
    assert stats.autocorrelation([1000] * 50) is None


def test_the_spread_between_launches_needs_two_of_them() -> None:
    assert stats.spread([]) is None and stats.spread([1.0]) is None
    assert stats.spread([95.0, 100.0, 105.0]) == pytest.approx(0.1)


def test_a_difference_counts_only_when_it_is_both_significant_and_large() -> None:
    base = steady(200)
    assert stats.compare(base, steady(200, 2)).verdict == "same"
    slightly = stats.compare(base, steady(200, 3, 1_015_000))
    assert slightly.verdict == "same" and slightly.p_value < stats.ALPHA
    assert stats.compare(base, steady(200, 4, 1_050_000)).verdict == "slower"
    assert stats.compare(base, steady(200, 5, 900_000)).verdict == "faster"
    assert stats.compare([100, 101], [200, 201]).verdict == "same"  # large, but it may be chance


def test_a_comparison_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="both"):
        stats.compare([], [1])


LIMIT_NS = 8 * 10**9


@given(st.integers(20_000, 100_000_000), st.integers(0, 5), st.integers(0, 1000))
def test_steady_runs_are_warm_soon_and_never_before_250_ms(level: int, noise: int, seed: int) -> None:
    source = random.Random(seed)
    needed = max(250_000_000, 41 * level)
    count = 4 * needed // level + 100
    series = [round(level * (1 + source.uniform(-noise, noise) / 100)) for _ in range(count)]
    end = warm_up_end(series, LIMIT_NS)
    assert end is not None
    runs, stable = end
    assert stable
    assert 250_000_000 <= sum(series[:runs]) < 2 * needed


@given(st.integers(10, 1_500), st.integers(0, 1), st.integers(0, 1000))
def test_slow_runs_are_warm_after_two_seconds_of_steady_ones(level_ms: int, noise: int, seed: int) -> None:
    source = random.Random(seed)
    series = [round(level_ms * 10**6 * (1 + source.uniform(-noise, noise) / 100)) for _ in range(250)]
    end = warm_up_end(series, LIMIT_NS)
    assert end is not None and end[1]
    assert end[0] >= 5
    assert sum(series[: end[0]]) < max(2 * 10**9 + 2 * series[0], 6 * series[0])


def test_one_slow_run_at_the_start_is_forgotten_soon() -> None:
    assert warm_up_end([40_000_000] + [20_000_000] * 1000, LIMIT_NS) == (64, True)


@pytest.mark.parametrize(("level_ms", "factor"), [(10, 0.98), (100, 0.98), (300, 0.98), (500, 0.95), (1000, 0.9)])
def test_runs_that_go_on_falling_are_not_warm(level_ms: int, factor: float) -> None:
    series = [max(1, round(level_ms * 10**6 * factor**run)) for run in range(500)]
    end = warm_up_end(series, LIMIT_NS)
    assert end is None or not end[1]


def test_a_warm_up_that_falls_takes_longer_than_a_steady_one() -> None:
    steady_end = warm_up_end([10_000_000] * 1000, LIMIT_NS)
    falling = [round(5_000_000 * (1 + 2 * 0.98**run)) for run in range(1000)]
    falling_end = warm_up_end(falling, LIMIT_NS)
    assert steady_end == (41, True)
    assert falling_end is not None and falling_end[1] and falling_end[0] > 200


def test_a_warm_up_gives_up_when_its_time_is_over_even_after_few_runs() -> None:
    assert warm_up_end([5 * 10**9] * 10, LIMIT_NS) == (2, False)
    assert warm_up_end([1000] * 10, LIMIT_NS) is None
