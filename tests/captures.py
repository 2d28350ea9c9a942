"""What the tests of capture and of its rewrites share."""

from typing import Any

import torch
from torch import Tensor, nn

from edgeopt.capture import Captured, capture
from edgeopt.model.model import Model


def run(captured: Captured, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(captured.program.module(check_guards=False)(*(inputs or captured.example)))


def operators(captured: Captured) -> list[Any]:
    return [node.target for node in captured.program.graph.nodes if node.op == "call_function"]


class Calls(nn.Module):
    """The function as a module; its parameters' names do not reach the signature."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def exact(module: nn.Module, *example: Tensor, atol: float = 1e-5) -> Captured:
    """The captured module, which computes what ``module`` does."""
    module.eval()
    captured = capture(Model(module, example))
    with torch.no_grad():
        expected = module(*example)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    for value, wanted in zip(run(captured), expected, strict=True):
        assert bool(torch.isfinite(value).all())
        torch.testing.assert_close(value, wanted, atol=atol, rtol=1e-5)
    return captured


class Normed(nn.Module):
    """Batch norms behind convolutions of every kind, and a lone one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8),
            nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4, affine=False), nn.Dropout(),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                if layer.affine:
                    nn.init.normal_(layer.weight)
                    nn.init.normal_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
