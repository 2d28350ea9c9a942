"""Which operator's integers cost the model what."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.graph import Op
from edgeopt.quantize.sensitivity import Noises, alone, judged, worst
from edgeopt.quantize.simulated import Simulation, simulation_of
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


def found(module: nn.Module, samples: int = 6) -> tuple[Simulation, dict[Op, Noises]]:
    data = [(torch.randn(4, 16),) for _ in range(samples)]
    captured, _, statistics = captured_and_observed(module.eval(), data[0][0], data=data)
    profile = loader.load("x86-fbgemm")
    simulation = simulation_of(captured.program, statistics, profile, profile.schemes[0], io_float=True)
    return simulation, alone(simulation, data)


@pytest.mark.parametrize("planted", range(4))
def test_the_layer_whose_weight_8_bits_cannot_hold_costs_most(planted: int) -> None:
    torch.manual_seed(planted)
    _, each = found(Planted(planted))
    layers = sorted((op for op in each if op.kind == "linear"), key=lambda op: str(op.weight))
    assert len(layers) == 4
    assert min(layers, key=lambda op: worst(each[op])) is layers[planted]


def test_more_samples_add_to_the_same_sums() -> None:
    torch.manual_seed(0)
    _, few = found(Planted(0), samples=1)
    torch.manual_seed(0)
    _, many = found(Planted(0), samples=2)
    assert len(few) == len(many)
    assert all(more[0].power > less[0].power for more, less in zip(many.values(), few.values(), strict=True))


def test_an_output_of_integers_is_judged_by_what_it_was_made_from() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).softmax(-1).argmax(-1)

    torch.manual_seed(0)
    simulation, each = found(Classes())
    (node,) = judged(simulation)
    assert node.op == "call_function" and node.meta["val"].is_floating_point()
    assert all(15 < worst(noises) < 100 for noises in each.values())
