"""Which weights are looked at, exactly how many become zero, and that zeros stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.zeros.masks import keep_zeros, smallest, weights_of, zeros
from edgeopt.errors import CompressionError

COMPUTED = (
    "its weights are computed from others before each call: call torch.nn.utils.parametrize.remove_parametrizations first"
)

values = st.lists(st.integers(-3, 3), min_size=1, max_size=30).map(lambda found: torch.tensor(found, dtype=torch.float32))


class Parts(nn.Module):
    """A weight of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.tied = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.tied.weight = self.table.weight
        self.conv, self.batch, self.layer = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 4])
        self.attention, self.recurrent = nn.MultiheadAttention(4, 2), nn.GRU(4, 4)
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.position = nn.Parameter(torch.randn(1, 4, 4))


def test_every_weight_is_found_once_and_norms_and_unknown_parameters_are_held_back_with_a_reason() -> None:
    found = {weight.layer: weight.reason for weight in weights_of(Parts())}
    assert found == {
        "position": "no weight of a known kind of layer",
        "table": "",
        "conv": "",
        "layer": "a normalisation",
        "layer.bias": "a normalisation",
        "attention.in_proj_weight": "",
        "attention.out_proj": "",
        "recurrent.weight_ih_l0": "",
        "recurrent.weight_hh_l0": "",
        "parametrized.parametrizations.weight.original0": COMPUTED,
        "parametrized.parametrizations.weight.original1": COMPUTED,
    }


def test_layers_that_share_a_weight_are_all_named() -> None:
    weight = next(weight for weight in weights_of(Parts()) if weight.layer == "table")
    assert [(change.layer, change.reason) for change in weight.changed("a", "b")] == [
        ("table", ""),
        ("tied", "shares its weights with table: pruned once"),
    ]
    assert [change.layer for change in weight.left("why")] == ["table", "tied"]


def test_excluded_layers_are_left_and_an_unknown_path_is_refused_with_the_nearest() -> None:
    reasons = {weight.layer: weight.reason for weight in weights_of(Parts(), exclude=("att*", "conv"))}
    assert [name for name, reason in reasons.items() if reason == "excluded"] == [
        "conv", "attention.in_proj_weight", "attention.out_proj",
    ]  # fmt: skip
    with pytest.raises(CompressionError, match=r"'convv'[\s\S]*did you mean 'conv'"):
        weights_of(Parts(), exclude=("convv",))


def test_a_layer_that_shares_an_excluded_weight_is_excluded_too() -> None:
    reasons = {weight.layer: weight.reason for weight in weights_of(Parts(), exclude=("tied",))}
    assert reasons["table"] == "excluded"


@given(st.lists(values, min_size=1, max_size=4), st.data())
@settings(max_examples=60)
def test_exactly_so_many_of_the_smallest_are_chosen_whatever_is_equal(parts: list[Tensor], data: st.DataObject) -> None:
    total = sum(part.numel() for part in parts)
    count = data.draw(st.integers(0, total))
    masks = smallest(parts, count)
    chosen = torch.cat([part[mask] for part, mask in zip(parts, masks, strict=True)]).abs()
    rest = torch.cat([part[~mask] for part, mask in zip(parts, masks, strict=True)]).abs()
    assert len(chosen) == count
    assert not len(chosen) or not len(rest) or chosen.max() <= rest.min()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_dtype_is_ordered(dtype: torch.dtype) -> None:
    (mask,) = smallest([torch.tensor([[3.0, -1.0], [0.5, -4.0]], dtype=dtype)], 2)
    assert mask.tolist() == [[False, True], [True, False]]


def test_zeros_come_back_after_every_change_even_of_nan_and_the_rest_is_left_alone() -> None:
    module = nn.Linear(4, 4)
    module.weight.data[0] = 0.0
    restore = keep_zeros(module)
    module.weight.data.fill_(float("nan"))
    restore()
    assert zeros(module.weight[0]) == 4
    assert bool(module.weight[1:].isnan().all())


def test_only_the_named_weights_are_held_and_names_that_are_gone_do_no_harm() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for layer in module:
        nn.init.zeros_(layer.weight)
    restore = keep_zeros(module, names=("0.weight", "9.weight"))
    for layer in module:
        nn.init.ones_(layer.weight)
    restore()
    assert [zeros(layer.weight) for layer in module] == [4, 0]
