"""Parameters, multiply-accumulates and bytes, against counts by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common import measures
from edgeopt.errors import ForwardError


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_macs_of_a_convolution_are_its_outputs_times_its_window(
    channels: int, kernel: int, stride: int, groups: int, bias: bool
) -> None:
    conv = nn.Conv2d(channels * groups, 2 * groups, kernel, stride, groups=groups, bias=bias)
    image = torch.rand(1, channels * groups, 7, 7)
    outputs = conv(image).numel()
    assert measures.macs(conv, image) == outputs * channels * kernel * kernel


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_at_every_step(kind: type[nn.RNNBase], gates: int) -> None:
    layer = kind(8, 16, batch_first=True)
    assert measures.macs(layer, torch.rand(1, 5, 8)) == 5 * (8 + 16) * 16 * gates


def test_macs_are_told_apart_by_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))
    assert measures.macs_by_layer(net, torch.rand(2, 4)) == {"0": 64, "1.1": 48}


def test_attention_counts_its_matrix_products() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    tokens, width, inner = 5, 16, 32
    by_hand = tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width
    assert measures.macs(layer, torch.rand(1, tokens, width)) == by_hand


def test_shared_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            scores: Tensor = self.head(self.table(ids))
            return scores

    size = measures.size(Tied(), torch.tensor([[1, 2]]))
    assert (size.parameters, size.bytes) == (40, 160)


def test_zeros_and_repeated_values_pack_well() -> None:
    torch.manual_seed(0)
    dense, sparse = nn.Linear(64, 64), nn.Linear(64, 64)
    with torch.no_grad():
        sparse.weight[torch.rand(64, 64) < 0.9] = 0
    assert measures.zstd_bytes(sparse) < 0.4 * measures.zstd_bytes(dense)
    assert measures.sparsity(sparse)["weight"] == pytest.approx(0.9, abs=0.02)


def test_measuring_changes_neither_mode_nor_weights() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measures.size(net, torch.rand(3, 4))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_model_that_does_not_run_is_named() -> None:
    with pytest.raises(ForwardError, match="forward"):
        measures.macs(nn.Linear(4, 4), torch.rand(3, 5))
