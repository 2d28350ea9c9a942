"""Pruning one weight matrix: the pattern, the choice without data, and the error with data."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeopt.quantize.sparsegpt import BLOCK, Pattern, by_magnitude, by_saliency, prune_rows

shapes = st.tuples(st.integers(1, 9), st.integers(1, BLOCK // 4 + 9).map(lambda groups: 4 * groups))


def layer(shape: tuple[int, int], samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A random weight [outputs, inputs] and correlated inputs [samples, inputs]."""
    generator = torch.Generator().manual_seed(seed)
    weight, mixing = torch.randn(shape, generator=generator), torch.randn(shape[1], shape[1], generator=generator)
    return weight, (torch.randn(samples, shape[1], generator=generator) @ mixing).double()


def error(weight: Tensor, pruned: Tensor, inputs: Tensor) -> Tensor:
    return ((inputs @ (weight.double() - pruned).T) ** 2).sum(0)


@given(shapes, st.integers(0, 200), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_each_four_hold_two_zeros_and_no_row_is_worse_than_magnitude(shape: tuple[int, int], samples: int, seed: int) -> None:
    weight, inputs = layer(shape, samples, seed)
    pruned = prune_rows(weight, inputs.T @ inputs)
    assert bool(((pruned.reshape(-1, 4) != 0).sum(1) <= 2).all())
    largest = error(weight, by_magnitude(weight.double()), inputs)
    assert bool((error(weight, pruned, inputs) <= largest * (1 + 1e-6) + 1e-9).all())


def test_correlated_inputs_make_the_error_much_smaller() -> None:
    weight, inputs = layer((32, 256), 1024, 0)
    inputs[:, 128:] = inputs[:, :128] + 0.1 * inputs[:, 128:]
    pruned = prune_rows(weight, inputs.T @ inputs)
    assert error(weight, pruned, inputs).sum() < 0.5 * error(weight, by_magnitude(weight.double()), inputs).sum()


def test_without_inputs_the_largest_magnitudes_stay_as_they_are() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, -0.3]])
    expected = torch.tensor([[0.0, -4.0, 3.0, 0.0, 0.5, 0.0, 0.0, -0.3]], dtype=torch.float64)
    assert torch.equal(prune_rows(weight, torch.zeros(8, 8, dtype=torch.float64)), expected.float().double())


def test_an_input_that_only_repeats_another_is_pruned_at_almost_no_cost() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator).repeat_interleave(2, 1).double()  # each channel twice
    weight = torch.randn(3, 8, generator=generator)
    relative = error(weight, prune_rows(weight, inputs.T @ inputs), inputs).sum() / ((inputs @ weight.double().T) ** 2).sum()
    assert relative < 2e-3  # what the dampening leaves


@given(st.integers(1, 6), st.integers(1, 150), st.integers(1, 4), st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_any_pattern_is_exact_and_no_row_is_worse_than_magnitude(kept: int, more: int, groups: int, seed: int) -> None:
    pattern = Pattern(kept, kept + more)
    weight, inputs = layer((3, pattern.group * groups), 20, seed)
    pruned = prune_rows(weight, inputs.T @ inputs, pattern)
    assert bool(((pruned.reshape(-1, pattern.group) != 0).sum(1) == kept).all())
    largest = error(weight, by_magnitude(weight.double(), pattern), inputs)
    assert bool((error(weight, pruned, inputs) <= largest * (1 + 1e-6) + 1e-9).all())


def test_the_most_salient_of_each_group_stay_as_they_are() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.25]])
    norms = torch.tensor([9.0, 1.0, 1.0, 0.1, 1.0, 20.0])
    assert by_saliency(weight, weight.abs() * norms, Pattern(1, 3)).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0, 0.25]]
