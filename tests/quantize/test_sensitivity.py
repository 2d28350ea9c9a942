"""Which operator's integers cost the model what."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.sensitivity import Sensitivities, sensitivities, worst
from edgeopt.quantize.simulated import simulation_of
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Planted(nn.Module):
    """Four layers; the weight of one is stretched by a column that no input reaches."""

    def __init__(self, planted: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("reached", (torch.arange(16) != 3).float())
        with torch.no_grad():
            self.layers[planted].weight[:, 3] = 20.0  # type: ignore[index,operator]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x * self.reached).relu()
        return x


def found(module: nn.Module, samples: int = 6, seconds: float = float("inf")) -> Sensitivities:
    data = [(torch.randn(4, 16),) for _ in range(samples)]
    captured, _, statistics = captured_and_observed(module.eval(), data[0][0], data=data)
    profile = loader.load("x86-fbgemm")
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float=True)
    return sensitivities(simulation, data, seconds)


@pytest.mark.parametrize("planted", range(4))
def test_the_layer_whose_weight_8_bits_cannot_hold_costs_most_and_gains_most_in_floats(planted: int) -> None:
    torch.manual_seed(planted)
    each = found(Planted(planted)).each
    layers = [one for one in each if one.op.kind == "linear"]
    assert len(layers) == 4
    layers.sort(key=lambda one: str(one.op.weight))
    assert min(layers, key=lambda one: one.own.db) is layers[planted]
    assert min(layers, key=lambda one: worst(one.alone)) is layers[planted]
    assert max(layers, key=lambda one: worst(one.without)) is layers[planted]


def test_without_time_the_first_operator_of_the_first_sample_is_measured_and_the_rest_named() -> None:
    torch.manual_seed(0)
    whole, cut = found(Planted(0)), found(Planted(0), seconds=0)
    assert (whole.samples, cut.samples, len(cut.each)) == (6, 1, 1)
    assert len(cut.unmeasured) == len(whole.each) - 1 and not whole.unmeasured


def test_an_output_of_integers_is_judged_by_what_it_was_made_from() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).softmax(-1).argmax(-1)

    torch.manual_seed(0)
    measured = found(Classes())
    assert 20 < worst(measured.whole) < 80 and worst(measured.each[0].without) > worst(measured.whole)
