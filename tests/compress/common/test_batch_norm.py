"""Which batch norms can go into their convolutions, and that the function stays."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.common.batch_norm import fold, foldable
from edgeopt.errors import ForwardError


class Net(nn.Module):
    """Norms of every fate: ``branch`` is added as well, ``twice`` is called twice, ``first`` comes before its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.plain, self.plain_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6, affine=False)
        self.branch, self.branch_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.twice, self.twice_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.shared, self.shared_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.other = nn.Conv2d(6, 6, 1)
        self.other.weight = self.shared.weight
        self.moving, self.moving_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)
        self.activated, self.activated_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.up_norm(self.up(self.plain_norm(self.plain(self.first(image))).relu())).relu()
        branch = self.branch(x)
        x = self.branch_norm(branch) + branch
        x = self.twice_norm(self.twice(self.twice_norm(self.twice(x))))
        x = self.moving_norm(self.moving(self.other(self.shared_norm(self.shared(x)))))
        return self.activated_norm(self.activated(x).relu()), x


def settled(module: nn.Module) -> nn.Module:
    """``module`` with norms that have seen something."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                if value is not None:
                    value.data.uniform_(0.5, 2, generator=generator)
    return module


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_only_a_norm_that_alone_takes_a_convolutions_output_is_foldable_and_the_function_stays() -> None:
    torch.manual_seed(0)
    net = settled(Net())
    net.up.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pairs = foldable(net, IMAGE)
    assert pairs == {"plain": "plain_norm", "up": "up_norm"}
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())
    expected = net.eval()(IMAGE)
    fold(net, pairs)
    torch.testing.assert_close(net(IMAGE), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(net.plain_norm, nn.Identity) and isinstance(net.branch_norm, nn.BatchNorm2d)
    learns: Any = {name: value.requires_grad for name, value in net.named_parameters()}
    assert learns["plain.weight"] and learns["plain.bias"] and not learns["up.weight"] and not learns["up.bias"]


def test_an_output_that_is_also_returned_stays() -> None:
    class Returned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            found = self.conv(image)
            return {"normed": self.norm(found), "raw": found}

    assert foldable(Returned(), {"image": IMAGE}) == {}


def test_a_model_that_does_not_run_is_named_and_left_without_hooks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ForwardError, match="raised in forward"):
        foldable(net, torch.randn(1, 5, 8, 8))
    assert net.training and not net[0]._forward_hooks
