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
    count = len(confidence)
    candidates = min(MOST_CANDIDATES, max(2, int(COMBINATIONS ** (1 / count))))
    levels = np.linspace(0, 1, candidates - 1)
    grids = [[NEVER, *dict.fromkeys(np.quantile(one, levels).tolist())] for one in confidence]
    best = cascade(confidence, right, costs, (NEVER,) * count)
    for thresholds in product(*grids):
        found = cascade(confidence, right, costs, thresholds)
        if found.drop_bound <= max_drop and found.macs < best.macs:
            best = found
    return best


def cascade(confidence: Floats, right: Bools, costs: tuple[int, ...], thresholds: tuple[float, ...]) -> Cascade:
    """What ``thresholds`` come to; shapes as in :func:`calibrated`."""
    samples = right.shape[1]
    leaves = np.vstack((confidence >= np.array(thresholds)[:, None], np.ones((1, samples), dtype=bool)))
    exits = leaves.argmax(0)
    shares = np.bincount(exits, minlength=len(leaves)) / samples
    chosen = right[exits, np.arange(samples)]
    return Cascade(
        thresholds=thresholds, shares=tuple(shares.tolist()), costs=costs, macs=float(shares @ np.array(costs)),
        accuracy=float(chosen.mean()), full_accuracy=float(right[-1].mean()),
        drop_bound=_bound(right[-1].astype(np.float64) - chosen, exits, len(costs) - 1), samples=samples,
    )  # fmt: skip


def _bound(losses: Floats, exits: NDArray[np.intp], last: int) -> float:
    """Upper bound of the mean loss: the normal one, with one more loss than was seen, since none seen does not mean none."""
    if bool((exits == last).all()):
        return 0.0
    samples = len(losses)
    return float(losses.mean() + 1 / samples + Z * losses.std() / np.sqrt(samples))
