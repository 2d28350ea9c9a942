"""Confidence thresholds for early exits: the cheapest that keep an accuracy budget on held-out samples.

Every combination on a grid is tried. What is compared with the budget is an upper bound of the drop, not the drop seen: the
best of many combinations looks better on the samples that chose it than it is (as in Learn then Test, Angelopoulos et al.,
2021, arXiv:2110.01052).
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgeopt.core import data_class

NEVER = 2.0
"""A threshold that no probability reaches."""
COMBINATIONS = 10_000
MOST_CANDIDATES = 200
Z = 1.645
"""One-sided 95% of the normal distribution."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@data_class
class Cascade:
    """What thresholds come to on some samples. All but ``thresholds`` have an entry or mean over the last exit too.

    ``shares``: of the samples that leave at each exit. ``costs``: MACs of a sample that leaves there. ``macs``: the mean.
    ``accuracy`` and ``full_accuracy``: of the cascade and of the last exit alone; without labels, agreement with the last exit.
    ``drop_bound``: with 95% confidence the drop is no greater.
    """

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    costs: tuple[int, ...]
    macs: float
    accuracy: float
    full_accuracy: float
    drop_bound: float
    samples: int


def calibrated(confidence: Floats, right: Bools, costs: tuple[int, ...], max_drop: float) -> Cascade:
    """The cheapest cascade whose drop in accuracy is bounded by ``max_drop``; exits that cannot be used get :data:`NEVER`.

    ``confidence`` [exits - 1, samples]; ``right`` [exits, samples], the last exit included; ``costs``: MACs up to each exit.
    """
    count, samples = confidence.shape
    candidates = min(MOST_CANDIDATES, max(2, int(COMBINATIONS ** (1 / count))))
    grids = [np.append(np.quantile(one, np.linspace(0, 1, candidates - 1)), NEVER) for one in confidence]
    leaves = [(one >= grid[:, None]).astype(np.float64) for one, grid in zip(confidence, grids, strict=True)]
    losses = right[-1].astype(np.float64) - right[:-1]
    best, thresholds = float(costs[-1]), (NEVER,) * count
    for chosen in product(range(candidates), repeat=count - 1):
        spent, gone, loss, squares, staying = 0.0, 0.0, 0.0, 0.0, np.ones(samples)
        for index, cost, out, lost in zip(chosen, costs, leaves, losses, strict=False):
            left = out[index] * staying
            staying -= left
            spent, gone = spent + cost * left.sum(), gone + left.sum()
            loss, squares = loss + left @ lost, squares + left @ lost**2
        last = leaves[-1] @ (staying[:, None] * np.stack((np.ones(samples), losses[-1], losses[-1] ** 2), 1))  # all at once
        mean = (spent + costs[-2] * last[:, 0] + costs[-1] * (samples - gone - last[:, 0])) / samples
        mean[_bound(gone + last[:, 0], loss + last[:, 1], squares + last[:, 2], samples) > max_drop] = np.inf
        if mean.min() < best:
            best = float(mean.min())
            indices = (*chosen, int(mean.argmin()))
            thresholds = tuple(float(grid[index]) for grid, index in zip(grids, indices, strict=True))
    return cascade(confidence, right, costs, thresholds)


def cascade(confidence: Floats, right: Bools, costs: tuple[int, ...], thresholds: tuple[float, ...]) -> Cascade:
    """What ``thresholds`` come to; shapes as in :func:`calibrated`."""
    samples = right.shape[1]
    leaves = np.vstack((confidence >= np.array(thresholds)[:, None], np.ones((1, samples), dtype=bool)))
    exits = leaves.argmax(0)
    shares = np.bincount(exits, minlength=len(leaves)) / samples
    chosen = right[exits, np.arange(samples)]
    losses = right[-1].astype(np.float64) - chosen
    bound = _bound(np.array((exits < len(thresholds)).sum()), losses.sum(), (losses**2).sum(), samples)
    return Cascade(
        thresholds=thresholds, shares=tuple(shares.tolist()), costs=costs, macs=float(shares @ np.array(costs)),
        accuracy=float(chosen.mean()), full_accuracy=float(right[-1].mean()), drop_bound=float(bound), samples=samples,
    )  # fmt: skip


def _bound(gone: Floats, loss: Floats, squares: Floats, samples: int) -> Floats:
    """Upper bound of the mean loss when ``gone`` samples leave early, from the sums of their losses and of the squares.

    The normal bound, with one more loss than was seen, since none seen does not mean none.
    """
    mean = loss / samples
    bound = mean + 1 / samples + Z * np.sqrt(np.maximum(squares / samples - mean**2, 0) / samples)
    return np.where(gone > 0, bound, 0.0)
