"""Batch norms: folded where that is exact, left where it is not, whatever they follow and whoever else reads it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.captures import exact, operators

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)


def norm(channels: int, axes: int = 2, **options: Any) -> nn.Module:
    """A batch norm whose statistics and parameters are not 0 and 1."""
    made = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1](channels, **options)
    with torch.no_grad():
        for value in (made.running_mean, made.bias):
            if value is not None:
                value.normal_()
        for value in (made.running_var, made.weight):
            if value is not None:
                value.uniform_(0.2, 3)
    return made


class Graph(nn.Module):
    """``give`` computes the result from the layers and an input."""

    def __init__(self, give: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        return self.give(x, **self.layers)


IMAGE, LINE, VOLUME = torch.randn(2, 4, 7, 7), torch.randn(2, 4, 9), torch.randn(2, 4, 5, 5, 5)
FOLDED: dict[str, tuple[nn.Module, Tensor]] = {
    "conv1d": (nn.Sequential(nn.Conv1d(4, 6, 3, padding="same"), norm(6, 1)), LINE),
    "conv2d, groups": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), norm(8)), IMAGE),
    "conv2d, depthwise": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, dilation=2), norm(8, affine=False)), IMAGE),
    "conv3d": (nn.Sequential(nn.Conv3d(4, 6, 2), norm(6, 3)), VOLUME),
    "transposed 1d": (nn.Sequential(nn.ConvTranspose1d(4, 6, 3, 2), norm(6, 1)), LINE),
    "transposed 2d, groups": (nn.Sequential(nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=2), norm(8)), IMAGE),
    "transposed 2d, depthwise": (nn.Sequential(nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=4, bias=False), norm(4)), IMAGE),
    "transposed 3d, groups": (nn.Sequential(nn.ConvTranspose3d(4, 8, 2, groups=4), norm(8, 3)), VOLUME),
    "linear": (nn.Sequential(nn.Linear(9, 5), norm(5, 1)), torch.randn(3, 9)),
    "momentum None": (nn.Sequential(nn.Conv2d(4, 6, 1), norm(6, momentum=None)), IMAGE),
    "instance norm with statistics": (nn.Sequential(nn.Conv2d(4, 6, 1), nn.InstanceNorm2d(6, track_running_stats=True)), IMAGE),
    "weight norm": (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), norm(6)), IMAGE),
}


@pytest.mark.parametrize("case", FOLDED)
def test_a_norm_behind_any_layer_with_weights_disappears_into_it(case: str) -> None:
    module, x = FOLDED[case]
    assert len(operators(exact(module, x))) == 1


BRANCHED: dict[str, Callable[..., Any]] = {
    "norm and conv": lambda x, conv, a, b: a(conv(x)) + conv(x).relu(),
    "result read twice": lambda x, conv, a, b: (lambda y: a(y) + y)(conv(x)),
    "result is an output": lambda x, conv, a, b: (lambda y: (a(y), y))(conv(x)),
    "a view of the result": lambda x, conv, a, b: (lambda y: a(y) + y[:, :, :1])(conv(x)),
    "two norms of one result": lambda x, conv, a, b: (lambda y: a(y) * b(y))(conv(x)),
    "changed in place between": lambda x, conv, a, b: (lambda y: (y[:, 0].add_(1), a(y))[1])(conv(x)),
    "one norm twice": lambda x, conv, a, b: a(a(conv(x))),
    "activation between": lambda x, conv, a, b: a(conv(x).relu()) + b(conv(x)),
}


@pytest.mark.parametrize("case", BRANCHED)
def test_a_result_that_others_read_too_stays_what_it_is_for_them(case: str) -> None:
    exact(Graph(BRANCHED[case], conv=nn.Conv2d(4, 6, 3), a=norm(6), b=norm(6)), IMAGE)


def test_one_convolution_with_a_norm_for_each_level_gets_a_copy_of_its_weight_for_each_and_says_so() -> None:
    def pyramid(x: Tensor, conv: nn.Module, **norms: nn.Module) -> list[Tensor]:
        return [each(conv(x[..., :: level + 1])) for level, each in enumerate(norms.values())]

    captured = exact(Graph(pyramid, conv=nn.Conv2d(4, 6, 3, padding=1), a=norm(6), b=norm(6), c=norm(6)), IMAGE)
    assert operators(captured).count(aten.conv2d.default) == 3
    assert not [op for op in operators(captured) if op in (aten.mul.Tensor, aten.add.Tensor)]
    assert [d.subject for d in captured.decisions] == ["layers.conv.weight"]


def test_tied_weights_are_not_changed_for_those_who_read_them_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.second.weight = self.first.weight
            self.embedding, self.linear = nn.Embedding(8, 49), nn.Linear(49, 8)
            self.linear.weight = self.embedding.weight
            self.norm, self.last = norm(4), norm(8, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            scores = self.last(self.linear(x.mean(1).flatten(1)))
            return self.norm(self.first(x)), self.second(x), self.first.weight.sum(), self.embedding(scores.argmax(1)), scores

    exact(Tied(), IMAGE)


OF_THE_BATCH: dict[str, tuple[nn.Module, Tensor]] = {
    "no statistics": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)), IMAGE),
    "no statistics, no parameters": (nn.BatchNorm1d(4, affine=False, track_running_stats=False), LINE),
    "instance norm": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6, affine=True)), IMAGE),
    "group norm": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6)), IMAGE),
    "linear on sequences": (nn.Sequential(nn.Linear(9, 4), norm(4, 1)), LINE),
    "synchronised": (nn.Sequential(nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6)), IMAGE),
}


@pytest.mark.parametrize("case", OF_THE_BATCH)
def test_norms_of_other_kinds_equal_eager(case: str) -> None:
    module, x = OF_THE_BATCH[case]
    assert not [op for op in operators(exact(module, x)) if "batch_norm" in str(op)]


def test_a_norm_that_stays_in_training_mode_normalises_by_its_input() -> None:
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> "Stubborn":
            return super().train(True)

    captured = exact(nn.Sequential(nn.Conv2d(4, 6, 3), Stubborn(6)), IMAGE)
    assert not captured.program.graph_signature.buffers_to_mutate
    assert [d.choice for d in captured.decisions] == ["not kept between calls"]


def test_a_norm_by_computed_statistics_equals_eager() -> None:
    def by_its_own(x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3)))

    exact(Graph(by_its_own), IMAGE)
