"""Awkward networks and failing trainings, technique by technique: compressed, left or refused, and never touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.channels.channels import Channels
from edgeopt.compress.cluster.cluster import Cluster
from edgeopt.compress.common import store
from edgeopt.compress.common.training import Trainer, fine_tune
from edgeopt.compress.distill.distill import Distill
from edgeopt.compress.early_exit.early_exit import EarlyExit
from edgeopt.compress.heads.heads import Heads
from edgeopt.compress.layers.layer_drop import Layers
from edgeopt.compress.low_rank.low_rank import LowRank
from edgeopt.compress.technique import Context, Technique
from edgeopt.compress.techniques import TECHNIQUES
from edgeopt.compress.zeros.lottery import Lottery
from edgeopt.compress.zeros.magnitude import Magnitude
from edgeopt.compress.zeros.nm import NM
from edgeopt.errors import EdgeoptError, NotFiniteError, TrainingFailed
from tests.compress.channels import nets

ROWS, CLASSES = 64, 10


class Tied(nn.Module):
    """A table that is the last layer's weight as well, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.scores = nn.Embedding(64, 32), nn.Linear(32, 32), nn.Linear(32, 64, bias=False)
        self.scores.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.hidden(self.table(ids)).relu().mean(1))
        return scores


class Branching(nn.Module):
    """Python decides by a value: a traced program would hold one of the two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.scores = nn.Linear(3, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x).relu()
        scores: Tensor = self.scores(x * 2 if float(x.detach().sum()) > 1e9 else x)
        return scores


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))


IMAGE, ROW = (3, 8, 8), (3,)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "shared": (nets.Shared, IMAGE), "tied": (Tied, ()), "grouped": (nets.Grouped, IMAGE), "detached": (nets.Opaque, ROW),
    "branching": (Branching, ROW),
}  # fmt: skip
SETTINGS: dict[str, Technique] = {
    "channels": Channels(multiple=4, rounds=2), "heads": Heads(), "layers": Layers(count=1), "magnitude": Magnitude(steps=2),
    "lottery": Lottery(rounds=1, epochs=1), "nm": NM(), "low-rank": LowRank(share=0.5, min_parameters=0, multiple=1),
    "cluster": Cluster(centroids=4, min_parameters=0), "distill": Distill(width=0.5, epochs=1),
    "early-exit": EarlyExit(epochs=1, max_drop=0.99),
}  # fmt: skip
OUTCOMES = """
            shared   tied     grouped  detached  branching
channels    left     left     changed  left      changed
heads       left     left     left     left      left
layers      left     left     left     left      left
magnitude   changed  refused  changed  refused   changed
lottery     changed  changed  changed  refused   changed
nm          changed  changed  changed  left      changed
low-rank    changed  changed  changed  changed   changed
cluster     changed  changed  changed  changed   changed
distill     changed  changed  changed  refused   changed
early-exit  changed  refused  changed  refused   left
"""
"""``left``: an equal copy, and the record says why. Magnitude's one threshold would empty the layer behind a wide table."""
COLUMNS, *TABLE = (line.split() for line in OUTCOMES.strip().splitlines())
CELLS = [(name, net, found) for name, *row in TABLE for net, found in zip(COLUMNS, row, strict=True)]


def context(shape: tuple[int, ...], train_step: Any = None) -> Context:
    torch.manual_seed(0)
    inputs = torch.rand(ROWS, *shape) if shape else torch.randint(0, 64, (ROWS, 6))
    batches = [(inputs, torch.randint(0, CLASSES, (ROWS,)))]
    step = train_step or (lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]))
    return Context(
        example_inputs=(inputs[:2],), batches=[(inputs,)], held_out=batches, fit=Trainer(train_step=step, batches=batches).fit,
        train_step=step, train_batches=batches,
    )  # fmt: skip


def looked_at(net: nn.Module) -> list[Any]:
    """All that a technique could leave behind: values, modes, hooks, gradients."""
    values = [(name, value.tolist()) for name, value in net.state_dict().items()]
    modes = [(name, one.training, len(one._forward_hooks), len(one._forward_pre_hooks)) for name, one in net.named_modules()]
    return [values, modes, [(value.requires_grad, value.grad) for value in net.parameters()]]


def test_every_technique_is_in_the_table() -> None:
    assert [name for name, *_ in TABLE] == list(SETTINGS) == list(TECHNIQUES)
    assert list(NETS) == COLUMNS


@pytest.mark.parametrize(("technique", "net", "outcome"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_an_awkward_network_is_compressed_or_refused_and_never_touched(
    technique: str, net: str, outcome: str, tmp_path: Path
) -> None:
    make, shape = NETS[net]
    given = context(shape)
    module = make().eval()
    before = looked_at(module)
    try:
        found = SETTINGS[technique].apply(module, given)
    except EdgeoptError as error:
        assert outcome == "refused", error.message()
        assert error.fix
    else:
        assert outcome == ("changed" if found.record.changed else "left"), found.record
        store.save(found.module, tmp_path / "module.pt")
        read, example = store.load(tmp_path / "module.pt", like=module), given.example_inputs[0]
        assert torch.equal(read(example), found.module(example))
        if outcome == "left":
            assert found.record.notes
            assert torch.equal(found.module(example), module(example))
    assert looked_at(module) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("technique", SETTINGS)
def test_weights_of_a_training_that_diverged_are_refused_by_name(technique: str, bad: float) -> None:
    module = plain()
    module.get_parameter("2.bias").data[3] = bad
    with pytest.raises(NotFiniteError, match=r"2\.bias holds NaN or infinity"):
        SETTINGS[technique].apply(module, context(ROW))


class Interrupted(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def interrupted(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    raise Interrupted


def diverging(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1]) * float("nan")


@pytest.mark.parametrize(("train_step", "error"), [(diverging, TrainingFailed), (interrupted, Interrupted)])
@pytest.mark.parametrize("technique", ["channels", "magnitude", "lottery", "distill", "early-exit"])
def test_a_training_that_diverges_or_is_interrupted_leaves_the_module_as_it_was(
    technique: str, train_step: Any, error: type[BaseException]
) -> None:
    module = plain()
    before = looked_at(module)
    settings = EarlyExit(epochs=1, trunk="joint") if technique == "early-exit" else SETTINGS[technique]
    with pytest.raises(error):
        settings.apply(module, context(ROW, train_step))
    assert looked_at(module) == before


def test_masks_may_hold_infinity_where_weights_may_not() -> None:
    module = plain()
    module.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    given = context(ROW)
    assert given.fit is not None
    fine_tune(given.fit, module, 1)
    assert Magnitude().apply(module, given).record.changed


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda scores: None, "a NoneType"),
        (lambda scores: 1.0, "a float"),
        (lambda scores: scores, r"a tensor of shape \[64, 10\]"),
        (lambda scores: scores.detach().sum(), "a tensor without a gradient"),
    ],
)
def test_what_is_no_loss_is_named(gives: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(TrainingFailed, match=f"train_step gave {said}, which is no loss"):
        Magnitude(steps=2).apply(plain(), context(ROW, lambda module, batch: gives(module(batch[0]))))
