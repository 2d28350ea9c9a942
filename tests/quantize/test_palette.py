"""k-means of numbers, and the sizes that few values can be stored in."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from dahuffman import HuffmanCodec
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from edgeopt.quantize.palette import centroids, nearest, packed

FEW = settings(max_examples=30)
NUMBERS = st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=9)


def error(values: Tensor, palette: Tensor) -> float:
    return float((values.double() - palette[nearest(values, palette)]).square().sum())


def best(values: list[float], count: int) -> float:
    """The least error there is: clusters of numbers are runs of the sorted ones, so all ways to cut them are tried."""
    ordered = np.sort(np.array(values, np.float64))
    cuts = combinations(range(1, len(ordered)), min(count, len(ordered)) - 1)
    return min(sum(float(((part - part.mean()) ** 2).sum()) for part in np.split(ordered, list(cut))) for cut in cuts)


@FEW
@given(NUMBERS, st.integers(1, 4))
def test_centroids_are_the_best_there_are_and_every_value_gets_its_nearest(values: list[float], count: int) -> None:
    found = centroids(torch.tensor(values), count)
    assert len(found) == min(count, len(set(values)))
    assert torch.equal(found, found.sort().values)
    distances = (torch.tensor(values).double()[:, None] - found).abs()
    assert torch.allclose(distances.gather(1, nearest(torch.tensor(values), found)[:, None])[:, 0], distances.amin(1))
    assert error(torch.tensor(values), found) <= best(values, count) * (1 + 1e-9) + 1e-9


@FEW
@given(NUMBERS)
def test_as_many_values_as_centroids_stay_exact(values: list[float]) -> None:
    assert error(torch.tensor(values), centroids(torch.tensor(values), len(set(values)))) == 0


@pytest.mark.parametrize("count", [2, 5, 16])
@pytest.mark.parametrize("kind", ["normal", "laplace", "pruned"])
def test_the_error_is_no_greater_than_that_of_a_library_for_vectors(count: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=3000) if kind != "laplace" else generator.laplace(size=3000)
    values = np.where(abs(values) < 1, 0, values) if kind == "pruned" else values
    expected = KMeans(count, n_init=3, random_state=0).fit(values[:, None]).inertia_
    numbers = torch.from_numpy(values)
    assert error(numbers, centroids(numbers, count)) <= 1.002 * expected


def test_numbers_far_from_zero_lose_no_digits() -> None:
    values = 1e6 + torch.arange(64, dtype=torch.float64) / 64
    assert error(values, centroids(values, 8)) <= (1 + 1e-6) * best([float(value) for value in values[:8]], 1) * 8


@FEW
@given(st.lists(st.integers(0, 6), min_size=1, max_size=200))
def test_huffman_codes_are_between_the_entropy_and_one_bit_more(indices: list[int]) -> None:
    symbols = sorted(set(indices))
    dense = torch.tensor([symbols.index(index) for index in indices])
    found = packed(dense, 7, 1, 4)
    assert found.dense == 4 * len(indices)
    assert found.palette == math.ceil((3 * len(indices) + 7 * 32) / 8)
    coded = found.huffman - 7 * 4 - len(symbols)
    assert found.entropy - 1 <= coded <= found.entropy + math.ceil(len(indices) / 8)


def test_the_announced_huffman_size_is_that_of_the_coded_bytes() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.multinomial(torch.tensor([0.6, 0.2, 0.1, 0.05, 0.05]), 4000, replacement=True, generator=generator)
    counts = dict(enumerate(torch.bincount(indices).tolist()))
    coded = HuffmanCodec.from_frequencies(counts, eof=0).encode(indices.tolist())
    assert 0 <= len(coded) - (packed(indices, 5, 1, 4).huffman - 5 * 4 - 5) <= 1  # with a mark of the end
