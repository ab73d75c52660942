"""Which samplers differ over N blocks: pairs after Friedman's test.

The default is Wilcoxon's signed-rank test on each pair with Holm's adjustment. Nemenyi's test of mean ranks is there
because readers know it: whether it separates a pair depends on which others are in the pool (Benavoli, Corani and
Mangili 2016).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nsbench.results.stats.multiplicity import holm

Matrix = NDArray[np.float64]


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p of the signed-rank test of differences [N]; zeros are split between the signs (Demšar 2006, 3.1.3).

    Differences count as equal to 12 decimals. All signs of the ranks at hand are counted, ties included.
    """
    d = np.round(np.asarray(differences, np.float64), 12)
    if d.ndim != 1 or len(d) < 1 or not np.all(np.isfinite(d)):
        raise ValueError("differences must be a vector of finite numbers")
    ranks = np.sign(d) * scipy.stats.rankdata(np.abs(d))
    shares = np.ones(1)  # of the signs that give each sum of the doubled ranks of one sign, from 0 to that of all
    for rank in np.rint(2 * np.abs(ranks)).astype(int):
        shares = (np.append(shares, np.zeros(rank)) + np.append(np.zeros(rank), shares)) / 2
    away = np.abs(np.arange(len(shares)) - (len(shares) - 1) / 2)
    return float(shares[away >= abs(ranks.sum())].sum())


def wilcoxon_holm(values: ArrayLike) -> Matrix:
    """p [k, k] of all pairs of the columns of values [N, k]; Holm over all of them."""
    values = np.asarray(values, np.float64)
    pairs = list(combinations(range(values.shape[1]), 2))
    found = np.ones((values.shape[1], values.shape[1]))
    for (i, j), p in zip(pairs, holm([wilcoxon(values[:, i] - values[:, j]) for i, j in pairs])):
        found[i, j] = found[j, i] = p
    return found


def blocks_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest blocks with which Holm over so many Wilcoxon tests could reject one: of N the smallest p is 2/2^N."""
    return next(n for n in range(1, 1000) if 2.0 ** (1 - n) <= alpha / comparisons)


def nemenyi_p(average_ranks: ArrayLike, blocks: int) -> Matrix:
    """p [k, k] of all pairs of average ranks [k], the studentized range with infinite degrees (Nemenyi 1963)."""
    average = np.asarray(average_ranks, np.float64)
    z = (average[:, None] - average[None, :]) / _rank_error(len(average), blocks)
    p = scipy.stats.studentized_range.sf(np.abs(z) * 2**0.5, len(z), np.inf)
    np.fill_diagonal(p, 1)
    return np.asarray(p)


def _rank_error(k: int, blocks: int) -> float:
    """Standard error of a difference of two of k average ranks."""
    return (k * (k + 1) / (6 * blocks)) ** 0.5


def critical_difference(k: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: average ranks further apart differ."""
    return float(scipy.stats.studentized_range.isf(alpha, k, np.inf)) / 2**0.5 * _rank_error(k, blocks)


def cliques(p: ArrayLike, alpha: float = 0.05) -> list[tuple[int, ...]]:
    """The bars of a critical-difference diagram: maximal sets, of two or more, with no pair at p [k, k] < alpha.

    Sorted. They need not be neighbours in rank, except for tests of mean ranks.
    """
    p = np.asarray(p, np.float64)
    k = len(p)
    joined = [{j for j in range(k) if j != i and p[i, j] >= alpha} for i in range(k)]
    found: list[tuple[int, ...]] = []

    def grow(members: tuple[int, ...], candidates: set[int], seen: set[int]) -> None:  # Bron and Kerbosch 1973
        if not candidates and not seen and len(members) > 1:
            found.append(tuple(sorted(members)))
        for node in sorted(candidates):
            grow((*members, node), candidates & joined[node], seen & joined[node])
            candidates, seen = candidates - {node}, seen | {node}

    grow((), set(range(k)), set())
    return sorted(found)
