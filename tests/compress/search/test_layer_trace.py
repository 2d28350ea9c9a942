"""A module's layers as its runtimes execute them: the same computation in parts, each part a module of its own."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.search.layer_trace import layers_of
from tests.compress.search.families import build

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao, while they capture
IMAGE = (torch.rand(1, 1, 8, 8),)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + nn.functional.hardswish(self.depthwise(self.norm(self.first(x)))))


def kinds_of(module: nn.Module, *example: Tensor) -> list[str]:
    layers = layers_of(module.eval(), example)
    return [" > ".join(part.partition("(")[0] for part in layer.call.split(" > ")) for layer in layers]


def test_batch_norms_vanish_and_activations_belong_to_what_they_follow() -> None:
    assert kinds_of(build(width=0.5), *IMAGE) == ["conv > relu"] * 3 + ["mean", "linear"]
    assert kinds_of(Residual(), torch.rand(1, 4, 6, 6)) == ["conv", "conv > hardswish", "add > relu"]


def test_an_activation_of_a_value_that_is_used_twice_stands_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y * y.sigmoid()

    assert kinds_of(Twice(), torch.rand(2, 4)) == ["linear", "sigmoid", "mul"]


def test_the_layers_one_after_another_compute_what_the_module_does() -> None:
    module = build(width=0.5, depth=2).eval()
    value = IMAGE[0]
    for layer in layers_of(module, IMAGE):
        assert value.shape == layer.example[0].shape
        value = layer.module(value)
    torch.testing.assert_close(value, module(*IMAGE).detach(), rtol=1e-4, atol=1e-5)


def test_their_work_is_the_modules_macs() -> None:
    module = build(width=0.5, depth=2)
    assert sum(layer.work for layer in layers_of(module, IMAGE) if layer.call.startswith(("conv", "linear"))) == macs(
        module, IMAGE
    )


def test_equal_layers_have_equal_texts_and_other_widths_the_same_form() -> None:
    def calls(width: float) -> list[tuple[str, str]]:
        return [(layer.call, layer.form) for layer in layers_of(build(width=width), IMAGE)]

    half = calls(0.5)
    assert half == calls(0.5)
    for (narrow, form), (wide, same_form) in zip(half, calls(1.0), strict=True):
        assert narrow != wide
        assert form == same_form


@pytest.mark.slow
def test_depthwise_layers_share_a_form_over_widths_but_not_with_dense_ones() -> None:
    def form(channels: int, groups: int) -> str:
        layer = nn.Conv2d(channels, channels, 3, groups=groups)
        return layers_of(layer, (torch.rand(1, channels, 6, 6),))[0].form

    assert form(4, 4) == form(8, 8)
    assert len({form(4, 1), form(4, 4), form(8, 2)}) == 3


@pytest.mark.slow
def test_a_transformers_layers_are_told_apart_with_their_two_sided_products() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    layers = layers_of(encoder, (torch.rand(1, 5, 16),))
    kinds = [layer.call.partition("(")[0] for layer in layers]
    assert kinds.count("matmul") == 2
    assert kinds.count("linear") == 4
    assert kinds.count("layer_norm") == 2
    assert all(layer.module(*layer.example) is not None for layer in layers)


def test_a_value_that_is_split_is_split_once_and_its_parts_are_inputs_of_their_own() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.layer(x).chunk(2, dim=-1)
            return torch.cat((value * gate.sigmoid(), x), dim=-1)

    assert kinds_of(Gated(), torch.rand(2, 4)) == ["linear", "slice", "sigmoid", "mul", "concat"]
    assert all(layer.module(*layer.example) is not None for layer in layers_of(Gated(), (torch.rand(2, 4),)))
