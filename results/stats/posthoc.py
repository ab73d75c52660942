"""Which samplers differ over N blocks: pairs after Friedman's test.

The default is Wilcoxon's signed-rank test on each pair with Holm's adjustment. Tests of mean ranks (Nemenyi, Bonferroni
and Dunn) are there because readers know them: whether they separate a pair depends on which others are in the pool
(Benavoli, Corani and Mangili 2016).
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata, studentized_range

from nsbench.results.stats.multiplicity import holm

Matrix = NDArray[np.float64]


EXACT = 50  # blocks


class Wilcoxon(NamedTuple):
    """Two-sided p, the smaller rank sum, and both; `blocks` counts the differences, zeros included."""

    p: float
    statistic: float
    plus: float
    minus: float
    blocks: int


class Pair(NamedTuple):
    """Treatment `first` against `second`, by column: p, adjusted p, median difference, and whether p < alpha could be."""

    first: int
    second: int
    p: float
    p_adjusted: float
    median: float
    testable: bool


def wilcoxon(differences: ArrayLike, zeros: str = "zsplit", *, exact: bool = True) -> Wilcoxon:
    """Signed-rank test of differences [N]; zeros are split between the signs (Demšar 2006, section 3.1.3).

    `zeros` may be "wilcox" (dropped) or "pratt" (dropped after ranking) as well. Differences count as equal to 12
    decimals. p counts all signs of the ranks at hand, ties included, up to EXACT blocks; beyond, or if not `exact`, it
    is the normal one. It is 1 where nothing differs.
    """
    if zeros not in ("zsplit", "wilcox", "pratt"):
        raise ValueError(f"unknown treatment of zeros '{zeros}'; there are zsplit, wilcox, pratt")
    d: Matrix = np.round(np.asarray(differences, np.float64), 12).astype(np.float64)
    if d.ndim != 1 or len(d) < 1 or not np.all(np.isfinite(d)):
        raise ValueError("differences must be a vector of finite numbers")
    kept = d[d != 0] if zeros == "wilcox" else d
    ranks = np.asarray(rankdata(np.abs(kept)), np.float64)
    plus, minus = float(ranks[kept > 0].sum()), float(ranks[kept < 0].sum())
    if zeros == "zsplit":
        half = float(ranks[kept == 0].sum()) / 2
        plus, minus = plus + half, minus + half
    if not np.any(d):
        p = 1.0
    elif exact and len(d) <= EXACT:
        ways = _sums(np.rint(2 * ranks[kept != 0]).astype(int))
        middle = (len(ways) - 1) / 2
        p = float(ways[np.abs(np.arange(len(ways)) - middle) >= abs(plus - minus)].sum() / ways.sum())
    else:
        p = float(2 * ndtr(-abs(plus - minus) / 2 / _normal_error(ranks, kept, zeros)))
    return Wilcoxon(p, min(plus, minus), plus, minus, len(d))


def _sums(ranks: NDArray[np.int64]) -> Matrix:
    """In how many ways a subset of the ranks [n] has each sum, from 0 to that of all of them."""
    ways = np.ones(1)
    for rank in ranks:
        ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
    return ways


def _normal_error(ranks: Matrix, kept: Matrix, zeros: str) -> float:
    """Standard error of the positive ranks' sum: half the root of the sum of squared ranks that have a sign.

    Split zeros count as tied ranks with a sign of their own, which is the textbook's term for ties.
    """
    signed = ranks if zeros == "zsplit" else ranks[kept != 0]
    return float((signed @ signed) ** 0.5 / 2)


def wilcoxon_holm(values: ArrayLike, *, baseline: int | None = None, alpha: float = 0.05) -> list[Pair]:
    """All pairs of the columns of values [N, k], or each column against the baseline's; Holm over all of them."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        raise ValueError("values must be [blocks, treatments], every block complete")
    blocks, k = values.shape
    chosen = list(combinations(range(k), 2)) if baseline is None else [(j, baseline) for j in range(k) if j != baseline]
    gaps = [values[:, i] - values[:, j] for i, j in chosen]
    p = [wilcoxon(gap).p for gap in gaps]
    testable = blocks >= blocks_needed(len(chosen), alpha) if chosen else True
    return [
        Pair(i, j, raw, float(adjusted), float(np.median(gap)), testable)
        for (i, j), raw, adjusted, gap in zip(chosen, p, holm(p), gaps)
    ]


def smallest_wilcoxon_p(blocks: int) -> float:
    """No two-sided signed-rank test of so many blocks goes below this."""
    return min(1.0, 2.0 ** (1 - blocks))


def blocks_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest blocks with which Holm over so many Wilcoxon tests could reject one."""
    return next(n for n in range(1, 1000) if smallest_wilcoxon_p(n) <= alpha / comparisons)


def walsh_interval(differences: ArrayLike, level: float = 0.95) -> tuple[float, tuple[float, float], float]:
    """Hodges and Lehmann's median difference, its interval from Walsh averages, and the level the interval really has.

    The interval is unbounded where N is too small for the level asked for.
    """
    d = np.asarray(differences, np.float64)
    i, j = np.triu_indices(len(d))
    averages = np.sort((d[i] + d[j]) / 2)
    ways = _sums(np.arange(1, len(d) + 1))
    below = np.cumsum(ways) / ways.sum()  # P(W <= w)
    cut = int(np.searchsorted(below, (1 - level) / 2, side="right"))  # P(W < cut) is at most half of 1 - level
    if cut == 0:
        return float(np.median(averages)), (-np.inf, np.inf), 1.0
    interval = float(averages[cut - 1]), float(averages[-cut])
    return float(np.median(averages)), interval, float(1 - 2 * below[cut - 1])


def nemenyi_p(average_ranks: ArrayLike, blocks: int) -> Matrix:
    """p [k, k] of all pairs of average ranks [k], the studentized range with infinite degrees (Nemenyi 1963)."""
    z = _rank_z(average_ranks, blocks)
    p = studentized_range.sf(np.abs(z) * 2**0.5, len(z), np.inf)
    np.fill_diagonal(p, 1)
    return np.asarray(p)


def rank_p(average_ranks: ArrayLike, blocks: int) -> Matrix:
    """Unadjusted two-sided normal p [k, k] of all pairs of average ranks [k] (Demšar 2006, section 3.2.2)."""
    return np.asarray(2 * ndtr(-np.abs(_rank_z(average_ranks, blocks))))


def _rank_z(average_ranks: ArrayLike, blocks: int) -> Matrix:
    average = np.asarray(average_ranks, np.float64)
    return (average[:, None] - average[None, :]) / _rank_error(len(average), blocks)


def _rank_error(k: int, blocks: int) -> float:
    """Standard error of a difference of two of k average ranks."""
    return (k * (k + 1) / (6 * blocks)) ** 0.5


def critical_difference(k: int, blocks: int, alpha: float = 0.05, df: float = np.inf) -> float:
    """Nemenyi's: average ranks further apart differ. scmamp (R) takes df = k (N - 1), which is a little larger."""
    return float(studentized_range.isf(alpha, k, df)) / 2**0.5 * _rank_error(k, blocks)


def bonferroni_dunn(k: int, blocks: int, alpha: float = 0.05) -> float:
    """The critical difference against one control (Dunn 1961)."""
    return float(-ndtri(alpha / (2 * (k - 1)))) * _rank_error(k, blocks)


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
