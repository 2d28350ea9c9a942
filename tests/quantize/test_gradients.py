"""Ranges are chosen by how much the outputs feel an error, as the gradients of some samples tell it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.capture import Captured
from edgeopt.quantize.gradients import FEWEST_SAMPLES, Weighed, weighed
from edgeopt.quantize.ranges import qparams
from edgeopt.quantize.statistics import Histogram, Statistics
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
SCHEME = loader.load("x86-fbgemm").schemes[0]


class Deaf(nn.Module):
    """What follows the first layer reads the first of its two channels only; the second reaches farther."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 2), nn.Linear(2, 3)
        with torch.no_grad():
            self.first.weight[1] *= 3
            self.last.weight[:, 1] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def observed(module: nn.Module, samples: list[tuple[Tensor, ...]]) -> tuple[Captured, Statistics]:
    captured, _, statistics = captured_and_observed(module.eval(), *samples[0], data=samples[1:])
    return captured, statistics


def rows(count: int, size: int = 4, each: int = 8) -> list[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(3)
    return [(torch.randn(each, size, generator=random),) for _ in range(count)]


def found(module: nn.Module, samples: list[tuple[Tensor, ...]]) -> tuple[Weighed, Statistics]:
    captured, statistics = observed(module, samples)
    return weighed(captured.program, statistics, samples), statistics


def test_a_value_that_no_output_feels_does_not_widen_the_range() -> None:
    torch.manual_seed(0)
    result, plain = found(Deaf(), rows(16, each=512))
    assert result.samples == 16 and not result.unknown
    before, after = (qparams(each["linear"], SCHEME).scale for each in (plain, result.statistics))
    assert after < 0.9 * before


def test_weights_are_the_squared_gradients_of_the_outputs_against_their_power() -> None:
    """Of y = w x each x is felt as w^2 / |y|^2; a tenth of that is added evenly."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    samples = rows(4, size=1)
    result, _ = found(layer, samples)
    expected = sum(len(x) / float(x.square().sum()) for (x,) in samples)
    weights = next(one.weights for one in result.statistics.values() if one.weights is not None)
    assert float(weights.sum()) == pytest.approx(1.1 * expected, rel=1e-4)


def test_an_output_in_small_numbers_counts_as_much_as_one_in_large_ones() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x * 1000.0, y * 0.001

    samples = [(x, x.clone()) for (x,) in rows(4)]
    result, _ = found(Two(), samples)
    one, other = (result.statistics[name].weights for name in ("x", "y"))
    assert one is not None and other is not None
    assert float(one.sum()) == pytest.approx(float(other.sum()), rel=1e-3)


def test_few_samples_leave_every_range_as_it_was() -> None:
    result, plain = found(Deaf(), rows(FEWEST_SAMPLES - 1))
    assert result.statistics is plain and "too few" in result.unknown


def test_an_operator_without_a_derivative_is_told_and_leaves_every_range_as_it_was() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.heaviside(x * 2, torch.zeros(())) * x

    result, plain = found(Steps(), rows(6))
    assert result.statistics is plain and result.samples == 0
    assert "heaviside" in result.unknown


def test_a_model_of_whole_numbers_has_gradients_from_its_embedding_on() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(16, 8), nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.table(ids).mean(1))

    torch.manual_seed(0)
    result, _ = found(Words(), [(torch.randint(0, 16, (1, 5)),) for _ in range(6)])
    assert result.samples == 6
    assert result.statistics["embedding"].weights is not None


def test_weights_of_layers_want_gradients_as_before_and_the_same_comes_out_twice() -> None:
    torch.manual_seed(0)
    samples = rows(6)
    captured, statistics = observed(Deaf(), samples)
    wanted = [value.requires_grad for value in captured.program.parameters()]
    first, second = (weighed(captured.program, statistics, samples) for _ in range(2))
    assert [value.requires_grad for value in captured.program.parameters()] == wanted
    for one, other in zip(first.statistics.values(), second.statistics.values(), strict=True):
        np.testing.assert_array_equal(one.weights, other.weights)


values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@given(values, values)
def test_merged_histograms_keep_all_weight(one: list[float], other: list[float]) -> None:
    parts = [Histogram.of(torch.tensor(each)) for each in (one, other)]
    assert parts[0] is not None and parts[1] is not None
    heavy = [replace(part, weights=part.counts * 0.5) for part in parts if part is not None]
    merged = heavy[0].merge(heavy[1])
    assert merged.weights is not None
    np.testing.assert_allclose(merged.weights, merged.counts * 0.5)
    assert parts[0].merge(heavy[1]).weights is None


@given(values)
def test_values_are_found_in_the_bins_that_count_them(numbers: list[float]) -> None:
    value = torch.tensor(numbers)
    histogram = Histogram.of(value)
    assert histogram is not None
    width = np.diff(histogram.edges)[0]
    inside = histogram.edges[histogram.bins_of(value)]
    assert np.all(inside <= value.double().numpy() + 1e-6 * width) and np.all(
        value.double().numpy() < inside + width * 1.000001
    )
