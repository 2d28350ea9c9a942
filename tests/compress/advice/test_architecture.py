"""What a model is, told from its graph: names and classes of the user's own mean nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeopt.compress.advice.architecture import Architecture, inspect
from edgeopt.compress.common import measures
from tests.compress.networks import albert, bert, gpt2, vit


class Recurrent(nn.Module):
    """Deliberately misnamed: what it is must show in what it computes."""

    def __init__(self, kind: Any = nn.GRU) -> None:
        super().__init__()
        self.conv_attention = kind(12, 16, 2, batch_first=True)
        self.head = nn.Linear(16, 9)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.conv_attention(x)[0][:, -1])
        return scores


class OwnCell(nn.Module):
    """A recurrent cell of the user's own, run step after step in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.carries = nn.Linear(12, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for step in range(x.shape[1]):
            state = torch.tanh(self.reads(x[:, step]) + self.carries(state))
        return state


def cnn(groups: int = 1) -> nn.Module:
    parts = [nn.Conv2d(8, 8, 3, groups=groups, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(1, 8, 3), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def speech() -> nn.Module:
    """A convolution over time, then a transformer's encoder layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front = nn.Conv1d(8, 16, 3, 2, 1)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            encoded: Tensor = self.encoder(self.front(x).transpose(1, 2))
            return encoded

    return Net().eval()


pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
IMAGE, SEQUENCE = (torch.randn(1, 1, 8, 8),), (torch.randn(1, 7, 12),)
TOKENS = (torch.randint(0, 100, (1, 16)),)


@pytest.mark.parametrize(
    ("net", "inputs", "family"),
    [
        (cnn(), IMAGE, "cnn"),
        (cnn(groups=8), IMAGE, "cnn"),
        (Recurrent(), SEQUENCE, "recurrent"),
        (Recurrent(nn.LSTM), SEQUENCE, "recurrent"),
        (OwnCell(), SEQUENCE, "recurrent"),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (torch.randn(1, 9, 16),), "transformer"),
        pytest.param(gpt2(), TOKENS, "transformer", marks=pytest.mark.slow),
        pytest.param(vit(), (torch.randn(1, 3, 32, 32),), "mixed", marks=pytest.mark.slow),
        (speech(), (torch.randn(1, 8, 20),), "mixed"),
        (nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Softmax(-1), nn.Linear(16, 4)), SEQUENCE, "mlp"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_the_family_shows_in_the_graph(net: nn.Module, inputs: tuple[Tensor, ...], family: str) -> None:
    found = inspect(net, inputs)
    assert found.family == family
    assert bool(found.attention) == (family in ("transformer", "mixed"))
    assert sum(found.shares.values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_transformer_whose_depth_shares_weights_is_not_recurrent() -> None:
    found = inspect(albert(), TOKENS)
    assert found.family == "transformer"
    assert {layer.kind for layer in found.layers} == {"embedding", "linear"}


def test_layers_have_the_channels_parameters_and_work_that_they_have() -> None:
    net = cnn(groups=2)
    found = inspect(net, IMAGE)
    first, grouped, head = found.layers
    assert (first.name, first.kind, first.inputs, first.outputs, first.parameters) == ("0", "convolution", 1, 8, 80)
    assert (grouped.name, grouped.kind, grouped.inputs, grouped.outputs) == ("1", "grouped convolution", 8, 8)
    assert (head.name, head.kind, head.inputs, head.outputs, head.macs) == ("6", "linear", 8, 4, 32)
    assert {layer.name: layer.macs for layer in found.layers} == measures.macs_by_layer(net, IMAGE)
    assert inspect(cnn(groups=8), IMAGE).layers[1].kind == "depthwise convolution"


@pytest.mark.parametrize(("net", "inputs"), [(Recurrent(), SEQUENCE), (bert(1), TOKENS)])
def test_all_work_is_accounted_for(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert inspect(net, inputs).macs == measures.macs(net, inputs)


def test_a_step_s_two_matrices_belong_to_one_recurrent_layer_each() -> None:
    layers = {layer.name: layer for layer in inspect(OwnCell(), SEQUENCE).layers}
    assert layers["carries"].kind == "recurrent"
    assert layers["carries"].macs == 7 * 16 * 16


def test_the_embedding_s_share_of_the_parameters() -> None:
    found: Architecture = inspect(bert(1), TOKENS)
    table = next(layer for layer in found.layers if layer.inputs == 100)
    assert (table.kind, table.outputs) == ("embedding", 32)
    assert 0 < found.share("embedding") < 1
