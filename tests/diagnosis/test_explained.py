"""Which layer leads where several are as bad as each other."""

import pytest
import torch
from torch import Tensor, nn

import edgeopt
from edgeopt.diagnosis.measuring import by_cost

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


def test_of_those_alike_the_first_in_the_program_leads_and_the_order_is_total() -> None:
    assert by_cost([(10.0, 3, "c"), (10.5, 1, "a"), (11.2, 0, "z"), (30.0, 2, "b")]) == ["a", "c", "z", "b"]
    assert by_cost([]) == []


class Stream(nn.Module):
    """A residual stream of linear layers in which channel 5 is large from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 16), nn.Linear(16, 8)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        with torch.no_grad():
            self.first.weight[5] *= 25
            for block in (*self.blocks, self.head):
                block.weight[:, 5] /= 25
            for block in self.blocks:
                block.weight[5] *= 0.1

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(x)


@pytest.mark.parametrize("target", ["x86-fbgemm", "arm-xnnpack"])
def test_what_passes_an_outlier_channel_on_stands_behind_the_layer_that_makes_it(target: str) -> None:
    torch.manual_seed(0)
    data = [(torch.randn(8, 16),) for _ in range(30)]
    found = edgeopt.blame(Stream(), data[0], target=target, calibration=data)
    assert found.layers[0].layer == "first" and found.layers[0].outliers[0].channel == 5
    passing = [layer for layer in found.layers if "it has channel 5 from first" in layer.odd]
    assert len(passing) == 3 and {layer.operator for layer in passing} == {"add"}
