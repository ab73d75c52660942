"""Effect sizes over seeds: how often a run of one sampler beats a run of the other. Values are one figure per seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import rankdata


class Superiority(NamedTuple):
    """P(a > b) + P(a = b)/2 over pairs of seeds (Vargha and Delaney's A12), 2 A12 - 1 (Cliff's delta), and an exact p."""

    a12: float
    delta: float
    p: float


def superiority(a: ArrayLike, b: ArrayLike) -> Superiority:
    """Of values a [n] over b [m]; p of the rank sum under all ways to deal the seeds out, two-sided, ties included."""
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


def smallest_p(seeds: int, paired: bool = False) -> float:
    """No two-sided test that knows nothing but the seeds' order or signs goes below this: 2/C(2S, S), paired 2/2^S."""
    return 2 / (2**seeds if paired else math.comb(2 * seeds, seeds))


def seeds_needed(probability: float = 0.75, alpha: float = 0.05, beta: float = 0.05) -> float:
    """Runs per arm to show that a run of one beats one of the other with this probability (Noether 1987, one-sided).

    alpha and beta are the two errors' chances; not rounded.
    """
    return float(((ndtri(1 - alpha) + ndtri(1 - beta)) / (6**0.5 * (probability - 0.5))) ** 2)
