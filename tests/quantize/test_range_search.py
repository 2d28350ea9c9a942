from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.core import QuantScheme
from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.planner import Quantization
from edgeopt.quantize.range_search import FEWEST_SAMPLES, candidates
from edgeopt.quantize.ranges import qparams
from edgeopt.quantize.statistics import Histogram
from edgeopt.targets import loader
from tests.quantize.networks import Convolutional, captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
PROFILE = loader.load("x86-fbgemm")
MINMAX = replace(PROFILE, schemes=(replace(PROFILE.schemes[0], observer="minmax"),))
SCHEMES = [
    QuantScheme(activation="int8", weight="int8"),
    QuantScheme(activation="uint8", weight="int8"),
    QuantScheme(activation="int8", weight="int8", symmetric=True),
]


class Ignoring(nn.Module):
    """One channel of ten reaches farthest, and the next layer hardly looks at it: min-max gives it all levels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 10), nn.Linear(10, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.first.weight[0] *= 6
            self.second.weight[:, 0] *= 1e-4

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu())


def rows(count: int, seed: int) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 8, generator=generator),) for _ in range(count)]


def made(samples: int) -> tuple[float, Quantization]:
    """The noise over signal on rows that were not seen, and what was decided, with ``samples`` to search by."""
    net, seen = Ignoring().eval(), rows(16, 1)
    captured, _, statistics = captured_and_observed(net, *seen[0], data=seen[1:])
    scheme = MINMAX.schemes[0]
    program, decided = quantize(
        captured.program, captured.example, statistics, MINMAX, scheme, True, False, samples=seen[:samples]
    )
    noise = signal = 0.0
    with torch.no_grad():
        for (x,) in rows(8, 2):
            wanted = net(x)
            noise += float((program.module(check_guards=False)(x)[0] - wanted).square().sum())
            signal += float(wanted.square().sum())
    return noise / signal, decided


def test_a_range_is_narrower_where_what_it_cuts_reaches_no_output() -> None:
    plain, _ = made(0)
    better, decided = made(16)
    assert decided.ranges_changed >= 1 and decided.range_samples == 8
    assert better < 0.9 * plain


def test_it_is_the_same_every_time() -> None:
    assert made(16)[1].scales.values.values().__repr__() == made(16)[1].scales.values.values().__repr__()


def test_few_samples_change_nothing() -> None:
    plain, _ = made(0)
    found, decided = made(FEWEST_SAMPLES - 1)
    assert found == plain and decided.range_samples == decided.ranges_changed == 0


def test_prescribed_and_ranked_values_keep_their_ranges() -> None:
    class Gated(Convolutional):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).softmax(-1)

    data = [(torch.randn(1, 3, 8, 8),) for _ in range(8)]
    captured, _, statistics = captured_and_observed(Gated().eval(), *data[0], data=data[1:])
    nnapi = loader.load("android-nnapi")
    found = [
        quantize(captured.program, captured.example, statistics, nnapi, nnapi.schemes[0], False, False, samples=samples)[1]
        for samples in ((), data)
    ]
    kept = [{node.name: one.scales.values[node] for node in one.ranked} for one in found]
    assert kept[0] == kept[1] != {}


@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_ranges_that_are_tried_hold_zero_and_begin_with_the_one_there_is(scheme: QuantScheme, values: list[float]) -> None:
    found = Histogram.of(torch.tensor(values))
    assert found is not None
    taken = qparams(found, scheme)
    tried = candidates(found, taken, scheme)
    assert tried[0] == taken and len(set(tried)) == len(tried)
    assert all(one.low <= one.zero_point <= one.high and one.scale > 0 for one in tried)
