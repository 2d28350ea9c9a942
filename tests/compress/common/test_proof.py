"""What a technique gives back is proved apart from it: equal where it must be, trained a step, saved, exported."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress import (
    NM,
    Channels,
    Cluster,
    Compressed,
    Context,
    Distill,
    EarlyExit,
    Heads,
    Layers,
    Lottery,
    LowRank,
    Magnitude,
    Trainer,
)  # fmt: skip
from edgeopt.compress.common.comparing import unequal
from edgeopt.compress.common.inputs import unlike
from edgeopt.compress.common.proof import prove, trained
from edgeopt.compress.technique import LayerChange, Record
from edgeopt.errors import CompressionError
from tests.compress.channels import nets, path_nets

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))


def step(module: nn.Module, batch: Any) -> Tensor:
    found = module(batch[0])
    scores = found[0] if isinstance(found, tuple) else found
    return nn.functional.cross_entropy(scores, batch[1])


def context(example: Tensor, classes: int = 10) -> Context:
    torch.manual_seed(0)
    inputs = torch.randn(32, *example.shape[1:])
    batches = [(inputs, torch.randint(0, classes, (32,)))]
    fit = Trainer(train_step=step, batches=batches).fit
    return Context(
        example_inputs=example, batches=[inputs], fit=fit, train_step=step, train_batches=batches, held_out=batches
    )  # fmt: skip


TECHNIQUES: list[Any] = [
    Channels(multiple=1), Heads(amount=0.5), Layers(count=1), Magnitude(), Lottery(rounds=1, epochs=1), NM(),
    LowRank(share=0.5, min_parameters=0, multiple=1), Cluster(centroids=4, min_parameters=0), Distill(width=0.5, epochs=1),
    EarlyExit(epochs=1, max_drop=0.99),
]  # fmt: skip


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("net", [nets.Residual, path_nets.Recurrence, nets.Encoder])
def test_every_techniques_result_is_proved_and_exported(technique: Any, net: Any) -> None:
    module, example = (net(nn.GRU), SERIES) if net is path_nets.Recurrence else (net(), SERIES)
    example = IMAGE if net is nets.Residual else example
    module.eval()
    given = context(example, 5 if net is path_nets.Recurrence else 10)
    try:
        result = technique.apply(module, given)
    except CompressionError as refused:
        assert "gave back" not in refused.what and refused.fix
        return
    assert prove(module, result, given, exports=True) == result


LOSSLESS: list[Any] = [
    Channels(amount=0.0), Heads(amount=0.0), Layers(count=0), Magnitude(sparsity=0.0),
    Cluster(centroids=256, min_parameters=0), LowRank(share=1.0, min_parameters=0),
]  # fmt: skip


class FewValues(nn.Module):
    """Weights of 16 values at most, and half of its channels read with weights of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        with torch.no_grad():
            for layer in (self.a, self.b, self.c):
                layer.weight.copy_(torch.randint(-8, 8, layer.weight.shape) / 8)
            self.b.weight[:, ::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))[:, 0]
        return scores


class Scaled(FewValues):
    def forward(self, x: Tensor) -> Tensor:
        return 1.01 * super().forward(x)


class Stopping(FewValues):
    """Where it ``stops`` no gradient passes the second layer."""

    stops = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.b(torch.relu(self.a(x))))
        scores: Tensor = self.c(hidden.detach() if self.stops else hidden)[:, 0]
        return scores


@pytest.mark.parametrize("technique", LOSSLESS, ids=lambda one: type(one).__name__)
def test_where_nothing_important_goes_every_output_is_the_originals(technique: Any) -> None:
    net = FewValues().eval()
    module = technique.apply(net, context(SERIES)).module
    with torch.no_grad():
        for batch in (SERIES, *(batch for _, batch in unlike(SERIES))):
            assert unequal((module(batch),), (net(batch),)) == ""


def test_channels_read_with_zeros_go_and_change_nothing() -> None:
    net = FewValues().eval()
    done = Channels(amount=0.5, multiple=1, exclude=("b",), importance="activation").apply(net, context(SERIES))
    assert done.module.get_submodule("a").out_features == 16  # type: ignore[union-attr]
    with torch.no_grad():
        assert unequal((done.module(8 * SERIES),), (net(8 * SERIES),)) == ""


def result_of(module: nn.Module, changed: bool = True) -> Compressed:
    action: Any = "changed" if changed else "left"
    return Compressed(module=module, record=Record(technique="broken", layers=(LayerChange(layer="a", action=action),)))


def test_a_result_that_computes_something_else_is_refused_with_output_and_channel() -> None:
    net, other = FewValues().eval(), FewValues().eval()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other.c.bias[4] += 0.5
    with pytest.raises(CompressionError, match=r"output 0, channel 4 of axis 1, differs by 0\.5"):
        prove(net, result_of(other, changed=False), context(SERIES))


def test_new_values_are_proved_and_another_forward_is_not() -> None:
    net, other = FewValues().eval(), FewValues().eval()
    assert prove(net, result_of(other), context(SERIES)).module is other
    other.__class__ = Scaled
    with pytest.raises(CompressionError, match="computes something else"):
        prove(net, result_of(other, changed=False), context(SERIES))


def test_a_layer_that_only_training_calls_must_still_fit() -> None:
    net = path_nets.Auxiliary().eval()
    smaller = Channels(multiple=1).apply(net, Context(example_inputs=IMAGE)).module
    smaller.aux = nn.Linear(32, 4)
    with pytest.raises(CompressionError, match=r"cannot be trained(.|\n)*aux: RuntimeError"):
        prove(net, result_of(smaller), Context(example_inputs=IMAGE))


def test_a_parameter_that_training_no_longer_reaches_is_named() -> None:
    net, other = Stopping().eval(), Stopping().eval()
    other.stops = True
    other.load_state_dict(net.state_dict())
    with pytest.raises(CompressionError, match=r"no gradient reaches [ab]\."):
        prove(net, result_of(other), context(SERIES))


def test_a_result_that_cannot_be_saved_or_exported_is_refused() -> None:
    net = FewValues().eval()
    unsaved, unseen = FewValues().eval(), FewValues().eval()
    unsaved.extra = lambda x: x  # type: ignore[assignment]
    with pytest.raises(CompressionError, match="cannot be saved"):
        prove(net, result_of(unsaved), context(SERIES))
    unseen.load_state_dict(net.state_dict())
    branching = path_nets.Branches().eval()
    with pytest.raises(CompressionError, match="cannot be exported"):
        prove(branching, result_of(branching), Context(example_inputs=IMAGE), exports=True)


def test_the_step_leaves_the_module_as_it_was() -> None:
    net = nets.Residual().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert all(trained(net, IMAGE).values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training and all(value.grad is None for value in net.parameters())


def test_what_is_compared_is_each_channel_at_its_own_scale() -> None:
    wanted = torch.ones(4, 8)
    wanted[:, 0] *= 1e3
    found = wanted.clone()
    found[2, 5] += 0.05
    assert unequal((found,), (wanted,)).startswith("output 0, channel 5 of axis 1")
    assert unequal((wanted * (1 + 1e-6),), (wanted,)) == ""
    assert "shape" in unequal((wanted[:2],), (wanted,)) and "0 outputs" in unequal((), (wanted,))
    assert unequal((torch.full((2, 3), -torch.inf),), (torch.full((2, 3), -torch.inf),)) == ""
    assert "infinite" in unequal((torch.zeros(2, 3),), (torch.full((2, 3), -torch.inf),))


def test_a_model_too_large_for_a_step_says_that_none_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeopt.compress.common.proof.MOST_TRAINED", 10)
    net = FewValues().eval()
    noted = prove(net, replace(result_of(net), keep=None), context(SERIES)).record.notes
    assert "no training step was tried" in noted[-1]
