"""Effect sizes over seeds: how often a run of one sampler beats a run of the other. Values are one figure per seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


class Superiority(NamedTuple):
    """P(a > b) + P(a = b)/2 over pairs of seeds (Vargha and Delaney's A12), 2 A12 - 1 (Cliff's delta), and an exact p."""

    a12: float
    delta: float
    p: float


def superiority(a: ArrayLike, b: ArrayLike) -> Superiority:
    """How often values a [n] exceed b [m]; p of the rank sum under all ways to deal the seeds out, two-sided, with ties."""
    a, b = np.round(np.asarray(a, np.float64), 12), np.round(np.asarray(b, np.float64), 12)
    if a.ndim != 1 or b.ndim != 1 or not len(a) or not len(b):
        raise ValueError("a and b must be vectors of one value for each seed")
    a12 = float((np.sign(a[:, None] - b).mean() + 1) / 2)
    ranks = np.rint(2 * np.asarray(rankdata(np.concatenate([a, b])))).astype(int)
    n, top = len(a), int(ranks.sum())
    ways = np.zeros((n + 1, top + 1))  # of dealing so many values this doubled rank sum
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : top + 1 - rank].copy()
    middle = n * (len(ranks) + 1)
    away = np.abs(np.arange(top + 1) - middle) >= abs(ranks[:n].sum() - middle)
    return Superiority(a12, 2 * a12 - 1, float(ways[n][away].sum() / ways[n].sum()))
