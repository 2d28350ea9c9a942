from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.core import Observer, QuantScheme
from edgeopt.quantize.planner import Quantization, decide
from edgeopt.quantize.ranges import holds, qparams
from edgeopt.quantize.ranked import ranked_values
from edgeopt.quantize.statistics import Histogram
from edgeopt.targets import loader
from tests.captures import Calls
from tests.quantize.detectors import HEADS, Classifier, detector, images
from tests.quantize.networks import captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
SCHEMES = [
    QuantScheme(activation="int8", weight="int8"),
    QuantScheme(activation="uint8", weight="int8"),
    QuantScheme(activation="int8", weight="int8", symmetric=True),
]


def decided_on(module: nn.Module, target: str, io_float: bool, data: list[Tensor]) -> Quantization:
    first, *others = data
    profile = loader.load(target)
    _, graph, statistics = captured_and_observed(module.eval(), first, data=[(one,) for one in others])
    return decide(graph, statistics, profile, profile.schemes[0], io_float)


@pytest.mark.parametrize("observer", ["mse", "minmax", "percentile"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=QuantScheme.describe)
@given(bulk=st.floats(0.1, 10), top=st.floats(1, 1000), count=st.integers(1, 5))
def test_a_whole_top_is_never_cut(scheme: QuantScheme, observer: Observer, bulk: float, top: float, count: int) -> None:
    values = np.concatenate([np.linspace(-bulk, bulk, 5000), np.full(count, top)])
    found = Histogram.of(torch.tensor(values, dtype=torch.float32))
    assert found is not None
    parameters = qparams(found, replace(scheme, observer=observer), whole_top=True)
    assert (parameters.high - parameters.zero_point) * parameters.scale >= found.maximum - parameters.scale
    assert holds(qparams(found, replace(scheme, observer="minmax")), found)


def test_least_squares_alone_cuts_the_greatest_logit_of_many() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(8000, generator=generator).clamp(-4, 4) for _ in range(20)]
    logits = [Histogram.of(row) for row in (*rows, torch.tensor([5.0]))]
    found = reduce(lambda one, other: one.merge(other), (one for one in logits if one is not None))
    cut, whole = (qparams(found, SCHEMES[0], whole_top=one) for one in (False, True))
    assert (cut.high - cut.zero_point) * cut.scale < 4.9 < (whole.high - whole.zero_point) * whole.scale


ORDERED: dict[str, Callable[[Tensor], object]] = {
    "nothing": lambda x: x,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "sigmoid": lambda x: x.sigmoid(),
    "argmax": lambda x: x.argmax(-1),
    "topk": lambda x: x.topk(3),
    "sort": lambda x: x.sort(-1),
    "max": lambda x: x.max(-1),
    "reshape": lambda x: x.reshape(2, -1),
    "temperature": lambda x: (x / 4).softmax(-1),
    "joined": lambda x: torch.cat([x, x.sigmoid()], -1),
}


class Headed(nn.Module):
    def __init__(self, end: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(8, 8), nn.Linear(8, 12), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.fc(self.body(x).relu()))


@pytest.mark.parametrize("end", ORDERED)
def test_what_is_only_ranked_leads_back_to_the_last_layer_and_no_further(end: str) -> None:
    _, graph, _ = captured_and_observed(Headed(ORDERED[end]), torch.randn(4, 8))
    names = {str(node.target) for node in ranked_values(graph.graph.output_node().all_input_nodes)}
    layers = [node for node in ranked_values(graph.graph.output_node().all_input_nodes) if "linear" in str(node.target)]
    assert len(layers) == 1 and layers[0].meta["val"].shape[-1] == 12
    assert not any("relu" in name for name in names)


def test_what_is_computed_with_is_not_ranked() -> None:
    _, graph, _ = captured_and_observed(Calls(lambda x: (x.tanh() * x.sigmoid()).sum(-1)), torch.randn(4, 8))
    assert len(ranked_values(graph.graph.output_node().all_input_nodes)) == 1


@pytest.mark.parametrize("target", ["arm-xnnpack", "apple-ane", "x86-fbgemm"])
@pytest.mark.parametrize("end", ["nothing", "softmax", "topk", "temperature"])
def test_the_last_layer_gives_floats_where_they_are_wanted(end: str, target: str) -> None:
    found = decided_on(Headed(ORDERED[end]), target, True, [torch.randn(64, 8) for _ in range(4)])
    fc = next(op.output for op in found.integer if op.kind == "linear" and op.output.meta["val"].shape[-1] == 12)
    assert fc not in found.outputs
    assert found.float_last == ("fc",)


def test_integer_outputs_hold_the_greatest_logit_and_only_inner_values_are_cut() -> None:
    data = images(12)
    found = decided_on(Classifier(), "arm-xnnpack", False, data)
    logits = next(op.output for op in found.integer if op.kind == "linear")
    parameters = found.parameters[logits]
    with torch.no_grad():
        greatest = max(float(Classifier().eval()(one).max()) for one in data)
    assert (parameters.high - parameters.zero_point) * parameters.scale >= greatest - parameters.scale / 2
    assert found.float_last == () and logits in found.ranked


def test_scores_that_a_prescribed_scale_would_leave_few_levels_are_computed_in_float() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 12)

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) * 0.2 - 2).sigmoid()

    data = [torch.randn(64, 8) for _ in range(4)]
    for target in ("arm-xnnpack", "android-nnapi"):
        found = decided_on(Rare(), target, True, data)
        assert "sigmoid" not in [op.kind for op in found.integer]
    assert "sigmoid" in [op.kind for op in decided_on(Rare(), "arm-xnnpack", False, data).integer]


@pytest.mark.parametrize("io_float", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_the_parts_of_a_detector_are_kept_apart_and_it_is_said(name: str, io_float: bool) -> None:
    found = decided_on(detector(name), "arm-xnnpack", io_float, images(8))
    (said,) = [one for one in (found.kept_apart if io_float else found.float_border) if one.side == "output"]
    assert "too far apart" in said.reason or "outliers" in said.reason
    assert not (found.kept_apart and found.float_border)
