"""Activations written out for one target compute the same, in integers."""

import pytest
import torch
from torch import nn

from edgeopt.quantize.opening import opened
from edgeopt.quantize.planner import decide
from edgeopt.targets import loader
from tests.quantize.networks import captured_and_observed, kinds

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.SiLU()], ids=["hardswish", "silu"])
def test_an_activation_is_written_out_in_integer_operators(activation: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 4, 1)).eval()
    image, profile = torch.randn(1, 3, 8, 8), loader.load("arm-xnnpack")
    _, module, statistics = captured_and_observed(net, image)
    before = str(module.graph)
    written, observed = opened(module, statistics, profile)
    assert torch.allclose(written(image)[0], net(image), atol=1e-6)
    assert str(module.graph) == before and statistics.keys() < observed.keys()
    found = decide(written, observed, profile, profile.schemes[0], io_float=False)
    assert found.kept_float == () and kinds(found).count("mul") >= 1
    assert {one.layer for one in found.kept_float} == set()


def test_a_target_that_opens_nothing_gets_the_module_itself() -> None:
    _, module, statistics = captured_and_observed(nn.Hardswish(), torch.randn(1, 8))
    assert opened(module, statistics, loader.load("x86-fbgemm")) == (module, statistics)
