"""Learnt queries, data in bfloat16, and layers whose weights are computed: every technique works on them or says what to do."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from edgeopt.compress import NM, Channels, Cluster, Context, Distill, EarlyExit, Heads, LowRank, Magnitude
from edgeopt.compress.common import measures
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.scoring import score


class Queries(nn.Module):
    """DETR's: a view of a parameter is what a submodule is given."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 32))
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        self.decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.decoder(self.queries.expand(len(x), -1, -1), self.embed(x)))
        return scores


class Positions(nn.Module):
    """Transformers written by hand: dropout of a slice of the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.pos, self.drop = nn.Parameter(torch.randn(1, 32, 8)), nn.Dropout(0.1)
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.b(torch.relu(self.a(x + self.drop(self.pos[:, : x.shape[1]]))))
        return scores


X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [Queries, Positions])
@pytest.mark.parametrize("technique", [Channels(), Heads(amount=0.5), Distill(width=0.5, epochs=1), Magnitude(), Cluster()])
def test_a_view_of_a_parameter_may_be_given_to_a_layer(make: Any, technique: Any) -> None:
    net = make().eval()
    found = technique.apply(net, Context(example_inputs=X, batches=[(X,)] * 4))
    assert found.module(X).shape == net(X).shape


@pytest.mark.parametrize("make", [Queries, Positions])
def test_macs_are_those_of_the_frozen_model(make: Any) -> None:
    net = make().eval()
    counted = measures.macs(net, X)
    assert counted == measures.macs(net.requires_grad_(False), X) > 0
    assert measures.macs(Positions().eval(), X.requires_grad_()) == 2 * 3 * (8 * 32 + 32 * 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "technique",
    [
        NM(method="sparsegpt"), NM(method="wanda"), Channels(importance="activation"), Channels(importance="taylor"),
        Distill(width=0.5, epochs=1), LowRank(min_parameters=0), Cluster(min_parameters=0), EarlyExit(epochs=1),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_data_in_the_models_own_dtype_is_taken(dtype: torch.dtype, technique: Any) -> None:
    if dtype == torch.float16 and isinstance(technique, Distill | EarlyExit):
        pytest.skip("plain Adam does not train float16")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).to(dtype)
    batches = [(0.1 * torch.randn(1, 64).to(dtype),) for _ in range(16)]
    found = technique.apply(net, Context(example_inputs=batches[0][0], batches=batches))
    assert {value.dtype for value in found.module.parameters()} == {dtype}
    assert score(net, lambda run: {"sum": float(run(batches[0][0].float().numpy())[0].sum())}, batches[0][0])


def masked(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.3)
    return layer


NORMS: list[Callable[[nn.Module], nn.Module]] = [
    nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, masked
]  # fmt: skip


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__.rpartition('.')[2]}.{norm.__name__}")
@pytest.mark.parametrize(
    "technique", [Channels(), Cluster(min_parameters=64), Magnitude(), NM(), LowRank(min_parameters=0)],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_a_layer_whose_weight_is_computed_stays_as_it_is_and_the_reason_says_what_to_call(norm: Any, technique: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older weight_norm's, which models of today still have
        net = nn.Sequential(norm(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    net(x)  # with a gradient: hooks leave a weight with a history behind
    done = technique.apply(net, Context(example_inputs=x, batches=[x]))
    told = [one for one in done.record.layers if one.layer == "0" or one.layer.startswith("0.")]
    assert all(one.action == "left" and "remove" in one.reason for one in told if ".bias" not in one.layer), told
    torch.testing.assert_close(done.module[0](x), net[0](x))  # type: ignore[index]
    assert any(one.layer == "2" for one in done.record.changed) or isinstance(technique, Magnitude | NM | LowRank)


def test_a_weight_with_a_history_is_copied_without_it() -> None:
    net = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))).eval()
    found = net(torch.ones(1, 4))
    assert net[0].weight.grad_fn is not None
    torch.testing.assert_close(copied(net)(torch.ones(1, 4)), found)
