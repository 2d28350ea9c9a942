import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeopt.quantize.statistics import BINS, SAMPLE, Histogram, Recorder

magnitudes = st.sampled_from([1e-45, 1e-30, 1e-3, 1.0, 300.0, 1e9, 3e38])
values = st.builds(lambda unit, magnitude: unit * magnitude, st.floats(-1, 1, width=32), magnitudes)
tensors = st.builds(
    lambda array: torch.from_numpy(array.astype(np.float32)), arrays.arrays(np.float64, st.integers(1, 12), elements=values)
)


def of(value: torch.Tensor) -> Histogram:
    histogram = Histogram.of(value)
    assert histogram is not None
    return histogram


def fields(histogram: Histogram) -> tuple[Any, ...]:
    return (histogram.exponent, histogram.first, histogram.counts.tolist(), histogram.minimum, histogram.maximum)


@given(st.lists(tensors, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_and_grouping_of_batches_do_not_matter(batches: list[torch.Tensor], random: Any) -> None:
    parts = [of(batch) for batch in batches]
    straight = functools.reduce(Histogram.merge, parts)
    random.shuffle(parts)
    while len(parts) > 1:
        at = random.randrange(len(parts) - 1)
        parts[at : at + 2] = [parts[at].merge(parts[at + 1])]
    assert fields(parts[0]) == fields(straight)


@given(st.lists(tensors, min_size=1, max_size=6))
def test_minimum_maximum_and_total_are_exact_and_the_bins_bounded(batches: list[torch.Tensor]) -> None:
    merged = functools.reduce(Histogram.merge, map(of, batches))
    everything = torch.cat(batches)
    assert (merged.minimum, merged.maximum) == (float(everything.min()), float(everything.max()))
    assert merged.counts.sum() == everything.numel()
    assert len(merged.counts) <= BINS
    assert merged.edges[0] <= merged.minimum
    assert merged.maximum < merged.edges[-1] or merged.maximum == pytest.approx(merged.edges[-1])


@given(st.lists(st.integers(-900, 900), min_size=1, max_size=40), st.integers(-20, 20), st.data())
def test_values_on_the_grid_are_counted_exactly_however_the_stream_is_cut(codes: list[int], exponent: int, data: Any) -> None:
    ends = torch.tensor([-1000.0, 1000.0])  # every batch spans the same range, so every batch has the same bins
    cut = data.draw(st.integers(0, len(codes)))
    stream = torch.tensor(codes, dtype=torch.float32)
    scale = math.ldexp(1.0, exponent)
    whole = of(torch.cat([ends, ends, stream]) * scale)
    parts = of(torch.cat([ends, stream[:cut]]) * scale).merge(of(torch.cat([ends, stream[cut:]]) * scale))
    assert fields(whole) == fields(parts)
    expected, _ = np.histogram(torch.cat([ends, ends, stream]).numpy() * scale, whole.edges)
    assert whole.counts.tolist() == expected.tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_histogram(bad: float) -> None:
    assert Histogram.of(torch.tensor([1.0, bad])) is None


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e-45, 3.4e38, -3.4e38])
def test_a_constant_is_one_bin_around_it(value: float) -> None:
    histogram = of(torch.full((7,), value))
    assert histogram.counts.tolist() == [7]
    assert histogram.minimum == histogram.maximum == np.float32(value)


def test_an_empty_tensor_counts_nothing_and_has_no_range() -> None:
    histogram = of(torch.empty(0))
    assert (histogram.counts.sum(), histogram.minimum, histogram.maximum) == (0, 0.0, 0.0)


def test_of_a_large_tensor_a_sample_is_counted_but_its_ends_are_seen() -> None:
    value = torch.randn(8, 1024, 16)
    value.view(-1)[12345], value.view(-1)[54321] = -50.0, 60.0
    histogram = of(value)
    assert (histogram.minimum, histogram.maximum) == (-50.0, 60.0)
    assert SAMPLE / 2 <= histogram.counts.sum() <= SAMPLE * 1.5


def test_a_value_that_was_once_not_finite_stays_without_statistics() -> None:
    def graph(x: torch.Tensor) -> torch.Tensor:
        return x.log()

    module = torch.export.export(_Module(graph), (torch.ones(2),)).module(check_guards=False)
    recorder = Recorder(module)
    for value in (1.0, 0.0, 2.0):
        recorder.run(torch.full((2,), value))
    assert list(recorder.statistics) == ["x"]
    assert recorder.statistics["x"].counts.sum() == 6


def test_integers_have_no_statistics() -> None:
    module = torch.export.export(_Module(lambda x: x * 2.0), (torch.arange(3),)).module(check_guards=False)
    recorder = Recorder(module)
    recorder.run(torch.arange(3))
    assert [(h.minimum, h.maximum) for h in recorder.statistics.values()] == [(0.0, 4.0)]


class _Module(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def test_channels_of_an_output_are_told_apart_over_all_batches_and_those_inside_are_not() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(x).relu()) * 2

    recorder = Recorder(torch.export.export(Scaled().requires_grad_(False), (torch.ones(5, 3),)).module())
    batches = torch.randn(4, 5, 3)
    for batch in batches:
        recorder.run(batch)
    found = {name: histogram.channels for name, histogram in recorder.statistics.items()}
    assert {name for name, channels in found.items() if channels} == {"x", "linear_1", "mul"}
    features = found["x"][1]
    assert (features.axis, features.count) == (1, 20)
    assert features.power == pytest.approx(batches.double().square().sum((0, 1)).numpy())
