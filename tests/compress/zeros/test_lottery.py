"""Lottery tickets: the early values come back, the zeros stay, each round prunes the same share of what is left."""

import copy

import pytest
import torch
from torch import nn

from edgeopt.compress.technique import Context
from edgeopt.compress.zeros.lottery import Lottery
from edgeopt.core import from_data
from edgeopt.errors import CompressionError

EXAMPLE = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
WEIGHTS = ("0.weight", "3.weight")


class Lessons:
    """A fit that remembers what it was given."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.zeros: list[int] = []
        self.after: list[dict[str, torch.Tensor]] = []

    def __call__(self, module: nn.Module, epochs: int) -> None:
        self.epochs.append(epochs)
        self.zeros.append(sum(int((module.get_parameter(name) == 0).sum()) for name in WEIGHTS))
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(epochs):
            optimizer.zero_grad()
            torch.autograd.backward((module(EXAMPLE) - 1).square().mean())
            optimizer.step()
        self.after.append(copy.deepcopy(module.state_dict()))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


def test_a_ticket_has_the_first_weights_where_it_has_any_and_its_biases_and_statistics_too() -> None:
    module, lessons = network(), Lessons()
    first = copy.deepcopy(module.state_dict())
    context = Context(example_inputs=(EXAMPLE,), fit=lessons)
    compressed = Lottery(sparsity=0.75, rounds=2, epochs=3, scope="layer").ticket(module, context)
    assert lessons.epochs == [3, 3]
    assert lessons.zeros == [0, 160]  # half of 320 after the first round
    for name, value in compressed.module.state_dict().items():
        there = value != 0 if name in WEIGHTS else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[there], first[name][there])
    for name in WEIGHTS:  # the ticket is what was largest after training, not before
        ticket, magnitudes = compressed.module.get_parameter(name) != 0, lessons.after[-1][name].abs()
        assert int(ticket.sum()) == ticket.numel() // 4
        assert magnitudes[ticket].min() >= magnitudes[~ticket].max()
    assert all(torch.equal(value, first[name]) for name, value in module.state_dict().items())


def test_late_rewinding_goes_back_to_the_weights_after_so_many_epochs() -> None:
    lessons = Lessons()
    chosen = Lottery(sparsity=0.5, rounds=1, epochs=5, rewind_to=2, scope="layer")
    compressed = chosen.ticket(network(), Context(example_inputs=(EXAMPLE,), fit=lessons))
    assert lessons.epochs == [2, 3]
    early = lessons.after[0]["0.weight"]
    found = compressed.module.get_parameter("0.weight")
    assert torch.equal(found[found != 0], early[found != 0])
    assert [change.after for change in compressed.record.layers] == ["96 weights in the ticket", "64 weights in the ticket"]


def test_apply_trains_the_ticket_and_its_zeros_stay() -> None:
    lessons = Lessons()
    compressed = Lottery(sparsity=0.5, rounds=2, epochs=3).apply(network(), Context(example_inputs=(EXAMPLE,), fit=lessons))
    assert lessons.epochs == [3, 3, 3]
    assert lessons.zeros[-1] == 160
    assert sum(int((compressed.module.get_parameter(name) == 0).sum()) for name in WEIGHTS) == 160
    assert compressed.record.technique == "lottery"
    assert from_data(Lottery, compressed.record.settings) == Lottery(sparsity=0.5, rounds=2, epochs=3)


def test_without_training_code_or_with_impossible_settings_it_says_what_to_give() -> None:
    with pytest.raises(CompressionError, match=r"found by training[\s\S]*fit\(model, epochs\)"):
        Lottery().apply(network(), Context(example_inputs=(EXAMPLE,)))
    with pytest.raises(ValueError, match="rewind_to is 10"):
        Lottery(epochs=10, rewind_to=10)
    with pytest.raises(ValueError, match="rounds is 0"):
        Lottery(rounds=0)
    with pytest.raises(ValueError, match="below 1"):
        Lottery(sparsity=1.0)
