import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as f

from tests.captures import Calls, Normed, exact, operators

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
torch.manual_seed(0)


def test_batch_norms_are_folded_into_convolutions_and_equal_eager() -> None:
    captured = exact(Normed(), torch.randn(1, 3, 9, 9))
    assert not [op for op in operators(captured) if "norm" in str(op) or "dropout" in str(op)]
    assert operators(captured).count(aten.conv2d.default) == 2


def heads(number: int, length: int = 5) -> Tensor:
    return torch.randn(1, number, length, 4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.rand(5, 5) > 0.3},
        {"attn_mask": torch.randn(1, 4, 5, 5)},
        {"attn_mask": torch.full((5, 5), -torch.inf).triu(1)},
        {"attn_mask": torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)},
    ],
    ids=["plain", "causal", "scale", "bool", "float", "inf", "min"],
)
def test_attention_is_opened_up_and_equals_eager(options: dict[str, Any]) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return f.scaled_dot_product_attention(q, k, v, **options)

    if "attn_mask" in options and options["attn_mask"].dtype == torch.bool:
        options["attn_mask"].fill_diagonal_(True)
    captured = exact(Calls(attention), heads(4), heads(4), heads(4))
    assert operators(captured).count(aten.matmul.default) == 2
    assert aten.softmax.int in operators(captured) or aten._softmax.default in operators(captured)


def test_grouped_query_attention_equals_eager() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return f.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True)

    exact(Calls(attention), heads(4), heads(2), heads(2))


def test_a_transformer_layer_s_fused_fast_path_is_not_taken() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    captured = exact(layer, torch.randn(1, 5, 8))
    assert operators(captured).count(aten.linear.default) == 4
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("fill", [-3.4e38, -math.inf, torch.finfo(torch.float32).min])
def test_masks_are_limited_to_what_a_float16_holds(fill: float) -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
            additive = (1.0 - keep) * (fill if math.isfinite(fill) else -3.4e38)
            return (
                torch.softmax(x.masked_fill(keep == 0, fill), -1),
                torch.softmax(torch.where(keep == 0, fill, x), -1),
                torch.softmax(x + additive, -1),
                torch.softmax(x + torch.full((4, 4), fill).triu(1), -1),
            )

    captured = exact(Masked(), torch.randn(4, 4), torch.tensor([1.0, 1, 0, 1]))
    half = torch.finfo(torch.float16).max
    for node in captured.program.graph.nodes:
        assert all(abs(a) <= half for a in node.args if isinstance(a, float))
    for value in [*captured.program.state_dict.values(), *captured.program.constants.values()]:
        assert float(value.abs().max()) <= half


class Cells(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(4, 6, bias=bias), nn.GRUCell(6, 3, bias=bias)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        h, c = self.lstm(x, (h, c))
        return h, c, self.gru(h, g)


@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_cells_are_opened_up_and_equal_eager(bias: bool) -> None:
    captured = exact(Cells(bias), torch.randn(2, 4), torch.randn(2, 6), torch.randn(2, 6), torch.randn(2, 3))
    assert operators(captured).count(aten.linear.default) == 4


def test_what_depends_on_weights_alone_is_computed_once() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
            self.table = nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            positions = torch.arange(x.shape[-1]) % 8
            return self.conv(x + self.table[positions].T)

    captured = exact(Positions(), torch.randn(1, 4, 10))
    assert operators(captured) == [aten.add.Tensor, aten.conv1d.default]


amounts = st.integers(0, 3)


@settings(max_examples=10, deadline=None)
@given(
    pad=st.lists(amounts, min_size=4, max_size=4),
    own=st.tuples(amounts, amounts),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2]),
)
def test_pads_folded_into_convolutions_equal_eager(
    pad: list[int], own: tuple[int, int], stride: tuple[int, int], kernel: tuple[int, int], groups: int
) -> None:
    module = nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(2, 4, kernel, stride, own, groups=groups))
    captured = exact(module, torch.randn(1, 2, 6, 7))
    symmetric = pad[0] == pad[1] and pad[2] == pad[3]
    assert (aten.conv2d.default in operators(captured)) and (len(operators(captured)) == (1 if symmetric else 2))


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: f.pad(x, (1, 1), value=2.0),
        lambda x: f.pad(x, (1, 1), mode="reflect"),
        lambda x: f.pad(x, (1, 1, 1, 1)),
        lambda x: f.pad(x, (-1, -1)),
    ],
    ids=["value", "reflect", "channels", "crop"],
)
def test_a_pad_that_a_convolution_cannot_express_stays(pad: Any) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = pad(torch.zeros(1, 2, 6)).shape[1]
            self.conv = nn.Conv1d(channels, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(pad(x))

    assert len(operators(exact(Padded(), torch.randn(1, 2, 6)))) == 2


def test_copies_that_change_nothing_disappear_but_an_output_that_is_an_input_stays() -> None:
    def copies(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone().to(torch.float32).detach().contiguous().view(-1).relu(), x.clone()

    captured = exact(Calls(copies), torch.randn(2, 3))
    assert operators(captured).count(aten.clone.default) <= 1
    assert len(captured.outputs) == 2


def test_in_place_operators_are_made_functional() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.add_(1)
            y[:, 0] = 5
            return y.relu_()

    captured = exact(InPlace(), torch.randn(2, 3))
    assert not [op for op in operators(captured) if op._schema.is_mutable]
