"""Palettes for a captured program: few values in each group, at little cost, and clustered weights as they are."""

import pytest
import torch
from torch import Tensor, nn

from edgeopt.capture import capture, name_inputs
from edgeopt.compress.cluster.cluster import Cluster
from edgeopt.compress.technique import Context
from edgeopt.core import QuantScheme
from edgeopt.model.model import Model
from edgeopt.quantize.palettized import left_whole, palettize

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log

GROUPED = QuantScheme(activation="float16", weight="lut4", palette_channels=16)


class Net(nn.Module):
    """Every kind of layer that has palettes; each weight has 2,048 numbers or more, but that of ``small``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cells = nn.Embedding(96, 32), nn.GRU(32, 32, batch_first=True)
        self.conv, self.up = nn.Conv1d(32, 48, 3), nn.ConvTranspose1d(48, 32, 4)
        self.odd, self.small = nn.Linear(32, 72), nn.Linear(72, 8)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.cells(self.table(ids))[0].transpose(1, 2)
        hidden = self.up(self.conv(hidden).relu()).transpose(1, 2)
        return torch.as_tensor(self.small(self.odd(hidden)))


INPUTS = (torch.arange(10).reshape(1, 10),)


def weights(net: nn.Module, scheme: QuantScheme) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Weights before and after, and why layers keep theirs."""
    program = capture(Model(net.eval(), INPUTS)).program
    found, left = palettize(program, scheme)
    return named(program), named(found), {each.layer: each.reason for each in left.kept}


def distinct(value: Tensor) -> int:
    return len(set(value.flatten().tolist()))


def named(program: torch.export.ExportedProgram) -> dict[str, Tensor]:
    """Its parameters of two and more axes by their names in the module."""
    values = program.state_dict
    return {name.removeprefix("module."): values[name] for name in program.graph_signature.parameters if values[name].ndim > 1}


@pytest.mark.parametrize(("bits", "least_db"), [(4, 19), (6, 30)])
def test_groups_of_channels_have_few_values_near_the_original(bits: int, least_db: float) -> None:
    scheme = QuantScheme(activation="float16", weight="lut4" if bits == 4 else "lut6", palette_channels=16)
    before, after, kept = weights(Net(), scheme)
    assert kept == {"small": "576 weights: below 2,048"}
    axes = {"table.weight": 0, "conv.weight": 0, "up.weight": 1}
    for name, axis in axes.items():
        assert all(distinct(group) <= 2**bits for group in torch.split(after[name], 16, axis)), name
        assert distinct(after[name]) > 2**bits, name
    for name in ("cells.weight_ih_l0", "cells.weight_hh_l0", "odd.weight"):  # whole: 72 is no multiple of 16
        assert distinct(after[name]) <= 2**bits, name
    for name in before.keys() - {"small.weight"}:
        noise = (after[name] - before[name]).square().mean() / before[name].square().mean()
        assert -10 * noise.log10() > least_db, name
    torch.testing.assert_close(after["small.weight"], before["small.weight"], rtol=0, atol=0)


def test_weights_that_are_clustered_already_and_zeros_stay_as_they_are() -> None:
    net = Net()
    with torch.no_grad():
        net.odd.weight[::2, ::3] = 0
    clustered = Cluster(centroids=16).apply(net.eval(), Context(example_inputs=INPUTS)).module
    before, after, _ = weights(clustered, GROUPED)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    _, zeros, _ = weights(net, GROUPED)
    assert not zeros["odd.weight"][net.odd.weight == 0].any()


class Shared(nn.Module):
    """One weight that is multiplied by and added, one of too few numbers for its palettes, one with an infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))
        self.thin, self.wild = nn.Linear(1, 4096), nn.Linear(64, 64)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = ids.float().mean().expand(1, 64)
        return nn.functional.linear(x, self.weight) + self.weight, self.thin(x[:, :1]), self.wild(x)


def test_what_cannot_have_palettes_says_why() -> None:
    torch.manual_seed(0)
    net = Shared()
    with torch.no_grad():
        net.wild.weight[0, 0] = -1e30
    one = QuantScheme(activation="float16", weight="lut4", palette_channels=1)
    before, after, kept = weights(net, one)
    assert "its weights serve another operator as well" in kept.values()
    assert kept["thin"] == "4096 palettes of 16 values would take more room than its weights"
    assert torch.equal(after["weight"], before["weight"])
    assert torch.equal(after["thin.weight"], before["thin.weight"])


def test_an_input_called_as_a_function_of_python_keeps_its_name() -> None:
    captured = capture(Model(nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), (torch.randn(1, 64),)))
    assert [spec.name for spec in captured.signature.specs] == ["input"]
    small, _ = palettize(captured.program, GROUPED)
    name_inputs(small, captured.signature.specs)
    assert small.graph_signature.user_inputs == ("input",)
    (output,) = small.module(check_guards=False)(torch.randn(1, 64))
    assert output.shape == (1, 64)


def test_what_stays_whole_has_its_share_of_the_work_each_user_of_a_weight_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.small = nn.Linear(64, 64), nn.Linear(64, 8)
            self.same = nn.Linear(64, 8)
            self.same.weight = self.small.weight

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x).relu()
            return torch.as_tensor(self.small(hidden) + self.same(hidden))

    left = left_whole(capture(Model(Twice().eval(), (torch.randn(1, 64),))).program, GROUPED)
    assert {one.layer for one in left.kept} == {"small", "same"}
    assert left.macs == pytest.approx(2 * 64 * 8 / (2 * 64 * 8 + 64 * 64))
