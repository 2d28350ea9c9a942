"""CP (canonical polyadic) decomposition of a convolution's weight by alternating least squares.

Lebedev et al., 2015 (arXiv:1412.6553) use it for convolutions; the algorithm is in Kolda & Bader, 2009 (doi:10.1137/07070111X),
figure 3.3.
"""

from string import ascii_lowercase

import torch
from torch import Tensor

RIDGE = 1e-10
"""Added to the normal equations, as a share of their mean diagonal: components that grow against each other stay finite."""
LEAST_GAIN = 1e-4
"""A sweep that lowers the relative error by less than this share ends the search."""


def cp(tensor: Tensor, rank: int, sweeps: int = 50) -> tuple[list[Tensor], float]:
    """Factors [size, rank], one per axis of ``tensor`` (float64), of a sum of ``rank`` outer products near to it.

    Also the squared error as a share of the tensor's energy. ALS starts at the leading singular vectors of each axis and ends
    in a local optimum, the same for the same tensor. All factors of a component have the same norm.
    """
    factors = [_start(tensor, axis, rank) for axis in range(tensor.ndim)]
    energy = float(tensor.square().sum()) or 1.0
    error = 1.0
    for _ in range(sweeps):
        for axis in range(tensor.ndim):
            factors[axis] = _solved(tensor, factors, axis)
        before, error = error, float((tensor - compose(factors)).square().sum()) / energy
        if before - error < LEAST_GAIN * before:
            break
    return _balanced(factors), error


def compose(factors: list[Tensor]) -> Tensor:
    """The tensor that ``factors`` stand for."""
    first, *rest = factors
    product = rest[-1]
    for factor in reversed(rest[:-1]):
        product = (factor[:, None] * product[None]).flatten(0, 1)
    return (first @ product.T).reshape([len(factor) for factor in factors])


def _start(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """Leading left singular vectors of the unfolding, random columns where the axis has fewer than ``rank``."""
    unfolded = tensor.movedim(axis, 0).flatten(1)
    _, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    found = vectors.flip(1)[:, :rank]
    generator = torch.Generator().manual_seed(axis)
    more = torch.randn(len(found), rank - found.shape[1], generator=generator, dtype=tensor.dtype)
    return torch.cat([found, more / len(found) ** 0.5], 1)


def _solved(tensor: Tensor, factors: list[Tensor], axis: int) -> Tensor:
    """The best factor of ``axis`` while the others stay."""
    axes = ascii_lowercase[: tensor.ndim]
    others = sorted((i for i in range(tensor.ndim) if i != axis), key=lambda i: -tensor.shape[i])
    gram = torch.ones(factors[0].shape[1], factors[0].shape[1], dtype=tensor.dtype)
    product, held = tensor, axes
    for other in others:  # the largest axis first: what is left to sum over is small
        gram = gram * (factors[other].T @ factors[other])
        left = held.replace(axes[other], "").replace("z", "") + "z"
        product, held = torch.einsum(f"{held},{axes[other]}z->{left}", product, factors[other]), left
    gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()) + torch.finfo(gram.dtype).tiny)
    solution: Tensor = torch.linalg.solve(gram, product.T).T
    return solution


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    even = norms.prod(0) ** (1 / len(factors))
    return [torch.where(norm > 0, factor / norm * even, 0.0) for factor, norm in zip(factors, norms, strict=True)]
