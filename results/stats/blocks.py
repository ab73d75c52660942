"""Do k samplers differ over N blocks? Friedman's test on ranks inside blocks, a block being one (model, dataset) pair.

Values are [N, k]: seed-averaged figures, every block complete. Blocks that share a dataset or a model are not
independent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # whose `stats` is loaded when it is first used: that takes a second
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

LACKING = 0.2  # share of the blocks; if more are incomplete, the complete ones are a choice


class Friedman(NamedTuple):
    """Iman and Davenport's F, infinite where all blocks agree perfectly, and Kendall's W, the share that rows explain."""

    f: float
    w: float


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
    """Friedman's test of values [N, k], corrected for ties; None if every block is one tie. Its chi2 is N (k - 1) W."""
    ranks = block_ranks(values)
    blocks, treatments = ranks.shape
    away = ranks - (treatments + 1) / 2
    total = float((away**2).sum())
    if total == 0:
        return None
    w = blocks * float((away.mean(axis=0) ** 2).sum()) / total
    return Friedman(np.inf if 1 - w <= 1e-9 else (blocks - 1) * w / (1 - w), w)


def friedman_permutation(values: ArrayLike, rng: np.random.Generator, draws: int = 9_999) -> float:
    """p of Friedman's statistic when treatments are relabelled at random in each block: (1 + exceedances) / (1 + draws)."""
    rows = 2 * block_ranks(values)  # twice, so that they are whole numbers, whose sums are exact
    observed = (rows.sum(axis=0) ** 2).sum()
    exceed = sum((rng.permuted(rows, axis=1).sum(axis=0) ** 2).sum() >= observed for _ in range(draws))
    return float(1 + exceed) / (1 + draws)
