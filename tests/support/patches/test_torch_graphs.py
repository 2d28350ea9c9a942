"""A graph's Python is compiled when it is called, and is what it was when the graph was made or changed."""

import copy
import operator
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from edgeopt.support.patches import in_place
from edgeopt.support.patches.torch_graphs import PATCHES, Deferred


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.layer(x) * scale


def compiled(module: nn.Module) -> bool:
    return not isinstance(vars(type(module))["forward"], Deferred)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_it_is_compiled_at_the_first_call_and_gives_the_same(net: Net) -> None:
    x = torch.randn(4, 3)
    with in_place(PATCHES):
        module = symbolic_trace(net)
    assert not compiled(module)
    assert torch.equal(module(x), net(x))
    assert compiled(module)
    assert torch.equal(module(x, scale=3.0), net(x, scale=3.0))


def test_a_change_counts_from_recompile_on_and_not_sooner(net: Net) -> None:
    x = torch.randn(4, 3)
    with in_place(PATCHES):
        module = symbolic_trace(net)
        last = next(node for node in module.graph.nodes if node.target is operator.mul)
        last.args = (last.args[0], 5.0)
        assert torch.equal(module(x), net(x))  # it was written out before
        module.recompile()
        assert not compiled(module)
        assert torch.equal(module(x), net(x, 5.0))


def test_copies_and_what_is_pickled_compute_the_same(net: Net) -> None:
    x = torch.randn(4, 3)
    with in_place(PATCHES):
        module = symbolic_trace(net)
        copies: list[Any] = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), GraphModule(net, module.graph)]
    assert all(torch.equal(each(x), net(x)) for each in copies)
    assert torch.equal(symbolic_trace(module)(x), net(x))


def test_texts_are_numbered_as_without_it(net: Net) -> None:
    from torch.fx.graph_module import _loader

    def numbers() -> int:
        before = _loader.next_id
        symbolic_trace(net).recompile()
        return _loader.next_id - before

    own = numbers()
    with in_place(PATCHES):
        assert numbers() == own > 0
