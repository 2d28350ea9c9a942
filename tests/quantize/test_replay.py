"""What reaches a layer: the rows of every kind of layer, and values in step with changes of the weights before it."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from edgeopt.capture import capture
from edgeopt.capture.operator_kinds import WEIGHTED, kind_of
from edgeopt.model.model import Model
from edgeopt.quantize.replay import Replay, from_matrix, matrix, rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


class Functional(nn.Module):
    """A convolution whose settings are words and single numbers."""

    def __init__(self, padding: str, dilation: int) -> None:
        super().__init__()
        self.weight, self.padding, self.dilation = nn.Parameter(torch.randn(6, 4, 3, 3)), padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, padding=self.padding, dilation=self.dilation)


CASES = {
    "linear": (nn.Linear(8, 5, bias=False), (3, 2, 8)),
    "linear on one vector": (nn.Linear(8, 5, bias=False), (8,)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, bias=False), (2, 4, 11)),
    "conv2d 1x1": (nn.Conv2d(4, 6, 1, stride=2, bias=False), (2, 4, 7, 6)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False), (2, 4, 9, 8)),
    "conv2d on one image": (nn.Conv2d(4, 6, 3, bias=False), (4, 5, 5)),
    "conv2d same": (Functional("same", 1), (1, 4, 7, 6)),
    "conv2d valid": (Functional("valid", 2), (1, 4, 7, 6)),
}


def weighted(module: nn.Module, example: Tensor) -> tuple[Replay, list[Node]]:
    program = capture(Model(module.eval(), (example,))).program
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and kind_of(node) in WEIGHTED]
    return Replay(program, [(example,), (2 * example,)]), nodes


@pytest.mark.parametrize("name", CASES)
def test_rows_times_the_weight_matrix_is_what_the_layer_computes(name: str) -> None:
    torch.manual_seed(0)
    module, shape = CASES[name]
    example = torch.randn(shape)
    _, (node,) = weighted(module, example)
    weight = next(module.parameters()).detach()
    with torch.no_grad():
        output = module(example)
    expected = output if name.startswith("linear") else output.movedim(1 - weight.ndim, -1)
    assert torch.allclose(rows(node, example) @ matrix(weight).T, expected.reshape(-1, len(weight)), atol=1e-5)
    assert torch.equal(from_matrix(matrix(weight), weight.shape), weight)


def test_each_layer_gets_its_inputs_of_every_sample_after_values_behind_it_are_gone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    example = torch.randn(2, 8)
    replay, (first, second) = weighted(module, example)
    assert all(torch.equal(a, b) for a, b in zip(replay.inputs_of(first.name), (example, 2 * example), strict=True))
    with torch.no_grad():
        wanted = [module[:2](example), module[:2](2 * example)]
        found = replay.inputs_of(second.name)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(len(values) <= 3 for values in replay._values)  # the input of the layer, its weight and bias at most
