"""Which operators stay in floats so that the outputs are as near as asked, and no more than that."""

from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.costs import OperatorCosts
from edgeopt.quantize.mixed import Search
from edgeopt.quantize.noise import MOST_DB
from edgeopt.quantize.simulated import Simulation, simulation_of
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Planted(nn.Module):
    """Five convolutions; the weights of some are stretched by a channel that no input reaches."""

    def __init__(self, *planted: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(5))
        self.register_buffer("reached", (torch.arange(8) != 3).float()[:, None, None])
        with torch.no_grad():
            for number in planted:
                self.layers[number].weight[:, 3] = 12.0  # type: ignore[index,operator]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x * self.reached).relu()
        return x.mean((2, 3))


def searched(*planted: int, target: str = "x86-fbgemm") -> Search:
    torch.manual_seed(1)
    data = [(torch.randn(1, 8, 12, 12),) for _ in range(8)]
    captured, _, statistics = captured_and_observed(Planted(*planted).eval(), data[0][0], data=data)
    profile = loader.load(target)

    def simulate(kept: Collection[str]) -> Simulation:
        reasons = dict.fromkeys(kept, "asked for")
        return simulation_of(captured.program, statistics, profile, profile.schemes[0], True, kept=reasons)

    return Search(simulate, data, OperatorCosts(profile).gain)


@pytest.mark.parametrize("planted", [(1,), (4,), (2, 4)])
@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-xnnpack", "apple-ane"])
def test_the_layers_whose_integers_are_too_coarse_stay_in_floats_and_not_many_others(
    planted: tuple[int, ...], target: str
) -> None:
    search = searched(*planted, target=target)
    assert search.db(()) < 24
    found = search.cheapest(34.0)
    assert found is not None and 34 <= found.db < MOST_DB
    assert {f"layers.{number}" for number in planted} <= {one.layer for one in found.kept}
    assert len(found.kept) <= len(planted) + 2 and 0 < found.cost < 0.7


def test_what_is_near_enough_stays_in_integers() -> None:
    found = searched().cheapest(10.0)
    assert found is not None and not found.kept and found.cost == 0


def test_nothing_is_found_where_only_floats_alone_would_do() -> None:
    assert searched().cheapest(MOST_DB) is None


def test_the_same_layers_are_found_again() -> None:
    first, second = searched(0, 3).cheapest(25.0), searched(0, 3).cheapest(25.0)
    assert first is not None and first == second
