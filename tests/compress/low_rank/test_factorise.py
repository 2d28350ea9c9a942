"""Factors of one layer: the same function at full rank, the best ones at a lower rank, and costs and errors as announced."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeopt.compress.common.measures import macs
from edgeopt.compress.low_rank.cp import compose, cp
from edgeopt.compress.low_rank.factorise import CP, ConvMethod, Layer, layers, method_of, whitened
from edgeopt.compress.low_rank.layer_use import uses
from edgeopt.compress.low_rank.rank_choice import Candidate
from edgeopt.compress.technique import Context

FEW = settings(max_examples=20)


def double(layer: Layer) -> Tensor:
    return layer.weight.detach().double()


@FEW
@given(
    *[st.integers(1, 12)] * 3, st.integers(0, 2**16), st.sampled_from(["gauss", "outlier", "low"])
)  # fmt: skip
def test_no_other_matrix_of_the_rank_is_nearer(outputs: int, inputs: int, rank: int, seed: int, kind: str) -> None:
    """Eckart & Young: the error is the energy of the singular values behind; random factors refined by ALS find no less."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rank, outputs, inputs)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    weight = weight * (1e3 if kind == "outlier" else 1) ** torch.rand(inputs, generator=generator, dtype=torch.float64)
    weight = weight[:, :1] @ weight[:1] if kind == "low" else weight
    first, second = (factor.weight for factor in method_of(weight, "tucker2").factors(weight, (rank,)))
    error = (weight - second @ first).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(weight)[rank:].square().sum(), rtol=1e-6, atol=1e-6)
    other = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    for _ in range(10):
        right = torch.linalg.pinv(other) @ weight
        other = weight @ torch.linalg.pinv(right)
    assert error <= (weight - other @ right).square().sum() * (1 + 1e-9) + 1e-9


@FEW
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 7), st.integers(0, 2**16))
def test_whitened_factors_lose_least_of_the_output(outputs: int, inputs: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = min(rank, outputs, inputs)
    layer = nn.Linear(inputs, outputs).double()
    data = torch.randn(64, inputs, generator=generator, dtype=torch.float64) * torch.logspace(
        0, -2, inputs, dtype=torch.float64
    )
    root = torch.linalg.cholesky(data.T @ data)
    method = method_of(double(layer), "tucker2")
    with torch.no_grad():
        expected = layer(data)
        best = torch.linalg.svdvals(expected - layer.bias)[rank:].square().sum()
        plain = layers(layer, method.factors(double(layer), (rank,)))
        aware = layers(layer, method.factors(whitened(double(layer), root), (rank,)), root)
        lost = [(module(data) - expected).square().sum() for module in (aware, plain)]
    torch.testing.assert_close(lost[0], best, rtol=1e-6, atol=1e-9)
    assert lost[0] <= lost[1] + 1e-9


CONVOLUTIONS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "bias": False}, (2, 6, 12, 11)),
    ({"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}, (1, 6, 7, 8)),
    ({"kernel_size": (2, 3), "padding": "same"}, (1, 6, 7, 8)),
    ({"kernel_size": 3, "padding": "valid"}, (6, 7, 8)),
    ({"kernel_size": 3, "padding": 2, "padding_mode": "reflect"}, (1, 6, 7, 8)),
    ({"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"}, (1, 6, 7, 8)),
    ({"kernel_size": 1, "stride": 2, "padding": 1}, (1, 6, 7, 8)),
    ({"kernel_size": (3, 1), "padding": (1, 0)}, (1, 6, 7, 8)),
    ({"kernel_size": 5, "stride": 3, "padding": 2}, (2, 6, 20)),
    ({"kernel_size": 1}, (2, 6, 20)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(("arguments", "shape"), CONVOLUTIONS)
@pytest.mark.parametrize("conv", ["tucker2", "spatial", "cp"])
def test_at_full_rank_a_convolution_stays_the_same_function(conv: ConvMethod, arguments: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    one_axis = len(shape) == 3 and arguments.get("padding") != "valid"
    layer: Layer = (nn.Conv1d if one_axis else nn.Conv2d)(6, 5, **arguments).double()
    method = method_of(double(layer), conv)
    if isinstance(method, CP):  # there is no full rank that ALS surely finds: the weight itself gets a low one
        weight = compose([torch.randn(size, 2, dtype=torch.float64) for size in layer.weight.shape])
        layer.weight.data = weight
        full: tuple[int, ...] = (4,)
    else:
        full = tuple(int(rank) for rank in method.options(double(layer), (1, 1, 1), 1).ranks.amax(0))
    example = torch.randn(shape, dtype=torch.float64)
    made = layers(layer, method.factors(double(layer), full))
    torch.testing.assert_close(made(example), layer(example), rtol=1e-3, atol=1e-3 if conv == "cp" else 1e-9)
    assert made[-1].bias is layer.bias


@pytest.mark.parametrize("conv", ["tucker2", "spatial", "cp"])
@pytest.mark.parametrize(
    "arguments", [{"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 3}, {"kernel_size": 1, "stride": 2}]
)
def test_costs_and_errors_are_those_of_the_layers_made(conv: ConvMethod, arguments: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 16, bias=False, **arguments)
    example = torch.randn(2, 12, 6, 7)
    use = uses(layer, Context(example_inputs=example))[""]
    candidate = Candidate("", layer, use.positions(), conv, 2, None)
    assert candidate.dense.macs == macs(layer, example)
    assert len(candidate.paying) > 2
    one = torch.eye(12 * 6 * 7).reshape(-1, 12, 6, 7)
    for option in candidate.paying:
        made = candidate.made(option)
        assert sum(value.numel() for value in made.parameters()) == option.parameters
        assert macs(made, example) == option.macs
        if arguments == {"kernel_size": 3}:  # every weight counts equally often in the outputs only without borders
            with torch.no_grad():
                lost = float((made(one) - layer(one)).square().sum() / layer(one).square().sum())
            assert lost <= option.error * 1.001 + 1e-6
            assert lost >= option.error * (1 - 1e-3) or conv != "spatial"


def test_tucker_ranks_that_are_all_channels_need_no_pointwise_layer() -> None:
    layer = nn.Conv2d(4, 32, 3)
    method = method_of(double(layer), "tucker2")
    assert [tuple(factor.weight.shape) for factor in method.factors(double(layer), (4, 8))] == [(8, 4, 3, 3), (32, 8, 1, 1)]
    assert [tuple(factor.weight.shape) for factor in method.factors(double(layer), (2, 32))] == [(2, 4, 1, 1), (32, 2, 3, 3)]
    options = method.options(double(layer), (1, 1, 1), 4)
    row = int(((options.ranks == torch.tensor([4, 8])).all(1)).nonzero())
    assert int(options.parameters[row]) == 8 * 4 * 9 + 32 * 8


@FEW
@given(st.lists(st.integers(2, 6), min_size=3, max_size=4), st.integers(1, 2), st.integers(0, 2**16))
def test_als_finds_a_tensor_of_low_rank(sizes: list[int], rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.linalg.qr(torch.randn(size, 2, generator=generator, dtype=torch.float64))[0][:, :rank] for size in sizes]
    tensor = compose(made)
    factors, error = cp(tensor, rank)
    assert error < 1e-4
    torch.testing.assert_close(compose(factors), tensor, rtol=0, atol=2e-2)
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))


def test_als_errors_fall_with_the_rank_and_stay_finite() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    errors = [cp(tensor, rank)[1] for rank in (1, 4, 16, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 < errors[0] < 1
    factors, error = cp(torch.zeros(4, 3, 2, dtype=torch.float64), 2)
    assert error == 0 and all(factor.isfinite().all() for factor in factors)
