"""Do k samplers differ over N blocks? Friedman's test on ranks inside blocks, a block being one (model, dataset) pair.

Values are [N, k]: seed-averaged figures, every block complete. Blocks that share a dataset or a model are not
independent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # whose `stats` is loaded when it is first used: that takes a second
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc

Matrix = NDArray[np.float64]

LACKING = 0.2  # share of the blocks; if more are incomplete, the complete ones are a choice
STATES = 2_000_000  # of the exhaustive permutation: rank sums times relabellings of one block


class Friedman(NamedTuple):
    """Friedman's chi2 with k - 1 degrees, Iman and Davenport's F with (k - 1), (k - 1)(N - 1), and Kendall's W.

    `average_ranks` [k]: 1 is best. F is infinite, with p 0, where all blocks agree perfectly: give the permutation p.
    """

    chi2: float
    p: float
    f: float
    f_p: float
    w: float
    average_ranks: tuple[float, ...]
    blocks: int


class Permutation(NamedTuple):
    """p under relabelling inside blocks; `exact` if every relabelling was counted."""

    p: float
    exact: bool


def block_ranks(values: ArrayLike) -> Matrix:
    """Ranks [N, k] inside each block, 1 the best, ties the mean of their ranks; equal means equal to 12 decimals.

    Raises ValueError for an incomplete block: averages over what is there flatter who failed on a hard dataset.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"values {list(values.shape)} must be [blocks, treatments], with at least two treatments")
    if not np.all(np.isfinite(values)):
        incomplete = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        raise ValueError(f"blocks {incomplete} lack a value; leave them out for every treatment, or fill them")
    return np.asarray(scipy.stats.rankdata(np.round(-values, 12), axis=1), np.float64)


def friedman(values: ArrayLike) -> Friedman | None:
    """Friedman's test of values [N, k], corrected for ties; None if every block is one tie."""
    ranks = block_ranks(values)
    blocks, treatments = ranks.shape
    # A run of t equal ranks contributes t^3 - t: every one of its t members sees t equals.
    equals = (ranks[:, :, None] == ranks[:, None, :]).sum(axis=2)  # [N, k]
    correction = 1 - float((equals**2 - 1).sum()) / (blocks * treatments * (treatments**2 - 1))
    if correction == 0 or np.ptp(ranks) == 0:
        return None
    return friedman_of_ranks(ranks.mean(axis=0), blocks, correction)


def friedman_of_ranks(average_ranks: ArrayLike, blocks: int, correction: float = 1.0) -> Friedman:
    """The same from average ranks [k] alone, as papers print them (Demšar 2006, section 3.2.2)."""
    average = np.asarray(average_ranks, np.float64)
    k = len(average)
    middle = (k + 1) / 2
    chi2 = float(12 * blocks / (k * (k + 1)) * ((average - middle) ** 2).sum() / correction)
    most = blocks * (k - 1)
    left = most - chi2
    perfect = left <= 1e-9 * most
    f = np.inf if perfect else (blocks - 1) * chi2 / left
    f_p = 0.0 if perfect else float(fdtrc(k - 1, (k - 1) * (blocks - 1), f)) if blocks > 1 else 1.0
    return Friedman(chi2, float(chdtrc(k - 1, chi2)), f, f_p, chi2 / most, tuple(average.tolist()), blocks)


def friedman_permutation(values: ArrayLike, rng: np.random.Generator, *, draws: int = 9_999) -> Permutation:
    """p of Friedman's statistic when treatments are relabelled at random in each block.

    Exact while the distinct rank sums are few; beyond, p = (1 + exceedances) / (1 + draws).
    """
    rows = 2 * block_ranks(values)  # twice, so that they are integers
    observed = float((rows.sum(axis=0) ** 2).sum())
    counted = _relabelled(rows.astype(np.int64))
    if counted is not None:
        sums, ways = counted
        return Permutation(float(ways[(sums**2).sum(axis=1) >= observed].sum() / ways.sum()), True)
    exceed = 0
    for _ in range(draws):
        exceed += (rng.permuted(rows, axis=1).sum(axis=0) ** 2).sum() >= observed
    return Permutation((1 + exceed) / (1 + draws), False)


def _relabelled(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Matrix] | None:
    """Sums [M, k] over rows [G, k], each permuted in every way, and the number of ways [M]; None if M grows too large.

    The statistic is symmetric in the treatments, so that the sums may be kept sorted and the first row fixed.
    """
    k = rows.shape[1]
    if k > 8:
        return None
    orders = _orders(k)  # [k!, k]
    sums, ways = np.sort(rows[:1], axis=1), np.ones(1, np.float64)
    for row in rows[1:]:
        if len(sums) * len(orders) > STATES:
            return None
        grown = np.sort((sums[:, None] + row[orders]).reshape(-1, k), axis=1)
        sums, index = np.unique(grown, axis=0, return_inverse=True)
        ways = np.asarray(np.bincount(index.ravel(), np.repeat(ways, len(orders))), np.float64)
    return sums, ways


def _orders(k: int) -> NDArray[np.int64]:
    """All permutations [k!, k] of 0..k-1."""
    orders = np.zeros((1, 1), np.int64)
    for new in range(1, k):
        orders = np.concatenate([np.insert(orders, place, new, axis=1) for place in range(new + 1)])
    return orders
