"""How much of a network is said to be integer, and what is listed as float."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.quantize.planner import Quantization
from tests.quantize.networks import decided

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def shares(found: Quantization) -> tuple[float, float]:
    return found.shares.weights, found.shares.macs


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_in_float_is_listed_and_weighs_in_the_shares(layer: type[nn.RNNBase]) -> None:
    network = Recurrent(layer(16, 24, batch_first=True))
    found = decided(network, torch.randn(1, 10, 16))
    (kept,) = (one for one in found.kept_float if one.layer == "layer")
    assert "whole recurrent layer" in kept.reason
    head = sum(value.numel() for value in network.head.parameters())
    whole = sum(value.numel() for value in network.parameters())
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[layer]
    weights, macs = shares(found)
    assert weights == pytest.approx(head / whole, rel=0.03)  # the initial state is stored as well
    assert macs == pytest.approx(24 * 8 / (24 * 8 + 10 * gates * (24 * 16 + 24 * 24)))


def test_an_operator_without_a_kind_counts_with_its_work() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.weight = nn.Linear(16, 16), nn.Parameter(torch.randn(16, 16))
            self.bias = nn.Parameter(torch.ones(16))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, self.first(x), self.weight)

    assert shares(decided(Projected(), torch.randn(4, 16))) == (0.5, 0.5)


def test_a_convolutional_network_is_integer_in_weights_and_work() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    assert shares(decided(net, torch.randn(1, 3, 8, 8))) == (1.0, 1.0)
