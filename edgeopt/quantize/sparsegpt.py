"""N:M pruning of one weight matrix that keeps what the layer computes: SparseGPT (Frantar & Alistarh, 2023, arXiv:2301.00774).

Columns are pruned from left to right. What a zeroed weight gave to the outputs is taken over by the weights right of it, in the
proportions that are best for the layer's inputs: their second moment is the Hessian H of the squared output error (the Optimal
Brain Surgeon of Hassibi & Stork, 1993).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pattern(NamedTuple):
    """At most ``kept`` of each ``group`` consecutive weights are not zero: N:M with N kept."""

    kept: int
    group: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"


TWO_FOUR = Pattern(2, 4)
DAMPENING = 0.01
"""Added to H's diagonal, as a share of its mean: the paper's value. It makes H invertible however few samples there are."""
BLOCK = 128
"""Columns whose updates to the rest of the matrix are applied at once, whole groups only: the paper's lazy batches."""


def prune_rows(weight: Tensor, hessian: Tensor, pattern: Pattern = TWO_FOUR) -> Tensor:
    """``weight``, float [outputs, inputs], with the pattern along its inputs and corrected; float64.

    ``hessian``, float64 [inputs, inputs], is the sum of x x^T over inputs x of the layer. Where it is zero, or where the
    correction does not help a row on exactly those inputs, the row keeps its largest magnitudes of each group.
    """
    dense = weight.double()
    largest = by_magnitude(dense, pattern)
    corrected = _sweep(dense, _inverse_factor(hessian), pattern)
    return torch.where(output_error(dense - corrected, hessian) <= output_error(dense - largest, hessian), corrected, largest)


def by_magnitude(rows: Tensor, pattern: Pattern = TWO_FOUR) -> Tensor:
    """``rows`` with zeros for all but the largest magnitudes of each group of consecutive columns (Mishra et al., 2021)."""
    return by_saliency(rows, rows.abs(), pattern)


def by_saliency(rows: Tensor, saliency: Tensor, pattern: Pattern) -> Tensor:
    """``rows`` with zeros for all but the most salient of each group of consecutive columns."""
    groups = rows.reshape(len(rows), -1, pattern.group)
    return torch.where(_kept(saliency.reshape(groups.shape), -1, pattern), groups, 0.0).flatten(1)


def _kept(saliency: Tensor, axis: int, pattern: Pattern) -> Tensor:
    chosen = saliency.topk(pattern.kept, dim=axis).indices
    return torch.zeros_like(saliency, dtype=torch.bool).scatter_(axis, chosen, True)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U = H^-1, from the Cholesky factor of H read from its last row and column to its first."""
    damped = hessian.clone()
    damped.diagonal().add_(DAMPENING * float(hessian.diagonal().mean()) or 1.0)
    reverse = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    factor: Tensor = torch.linalg.solve_triangular(reverse, torch.eye(len(hessian), dtype=hessian.dtype), upper=True)
    return factor


def _sweep(dense: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
    columns = dense.T.clone()  # [inputs, outputs]: the columns that the sweep walks through are contiguous
    block = max(BLOCK // pattern.group, 1) * pattern.group
    for start in range(0, len(columns), block):
        stop = start + block
        errors = _prune_block(columns[start:stop], factor[start:stop, start:stop], pattern)
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    return columns.T


def _prune_block(columns: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
    """Prunes ``columns`` in place; for each the error it leaves to those behind it, scaled by the factor's diagonal."""
    errors, scale = torch.zeros_like(columns), factor.diagonal()[:, None]
    for start in range(0, len(columns), pattern.group):
        stop = start + pattern.group
        kept = _kept((columns[start:stop] / scale[start:stop]) ** 2, 0, pattern)
        for column in range(start, stop):
            pruned = torch.where(kept[column - start], columns[column], 0.0)
            errors[column] = (columns[column] - pruned) / scale[column]
            columns[column:] -= factor[column, column:, None] * errors[column]
            columns[column] = pruned
    return errors


def output_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """Squared output error of each row, [outputs, 1], over the inputs behind ``hessian``: one for all, or one for each."""
    if hessian.dim() == 3:
        return torch.einsum("ci,cij,cj->c", difference, hessian, difference)[:, None]
    return ((difference @ hessian) * difference).sum(1, keepdim=True)
