"""One run against another on the same test triples: says which trained model ranks this test set better, no more.

Whether the sampler made it better takes seeds (nsbench.results.stats.statistics): the larger the test set, the surer a test
of single runs is of a difference that the seeds made. Scores come as [T, 2 sides], of which a triple's mean is the unit:
its two queries are answered from the same embeddings and are no two pieces of evidence.

With `clusters` (labels [T], nsbench.results.stats.clusters) whole clusters flip or are drawn, where that makes the standard
error larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtr, stdtrit

from nsbench.results.stats.clusters import cluster_totals, mean_error
from nsbench.results.stats.resampling import bootstrap_totals, flip_exceedance

DRAWS = 9_999  # of a test: the smallest p is one in ten thousand
BOOTSTRAP_DRAWS = 10_000


class Randomisation(NamedTuple):
    """Mean difference and two-sided p; `exact` if every sign pattern was counted, `clustered` if clusters flipped."""

    difference: float
    p: float
    exact: bool
    clustered: bool


class Bootstrap(NamedTuple):
    """The estimate, its bootstrap standard error and percentile interval; `clustered` if clusters were drawn."""

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    clustered: bool


class PairedT(NamedTuple):
    """Student's t on the triples' differences; `inflation` as in nsbench.results.stats.clusters.MeanError."""

    difference: float
    standard_error: float
    df: float
    p: float
    interval: tuple[float, float]
    inflation: float
    clustered: bool


class Effect(NamedTuple):
    """Shares of triples that a won, tied and lost against b, and mean(d)/sd(d), 0 where nothing differs."""

    won: float
    tied: float
    lost: float
    d_z: float


def differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """a - b of each triple, mean of its sides: [T, 2], [T, 2] -> [T]. ValueError for any other shape."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) < 2:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must both be [T, 2 sides], over at least two triples")
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise ValueError("the scores must be finite")
    return (a - b).mean(axis=1)


def randomisation(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, *, draws: int = DRAWS, clusters: ArrayLike | None = None
) -> Randomisation:
    """Fisher's test: would the mean difference of a and b [T, 2] be as large with the runs swapped at random per triple?

    Exact for up to 16 triples that differ; beyond, p = (1 + exceedances) / (1 + draws).
    """
    d = differences(a, b)
    clustered = mean_error(d, clusters).clustered
    units = cluster_totals(d, clusters)[0] if clustered and clusters is not None else d
    p, exact = flip_exceedance(units, draws, rng)
    return Randomisation(float(d.mean()), p, exact, clustered)


def bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    *,
    draws: int = BOOTSTRAP_DRAWS,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> Bootstrap:
    """Percentile interval of the mean difference of a and b [T, 2], triples drawn with replacement."""
    d = differences(a, b)
    clustered = mean_error(d, clusters).clustered
    totals, sizes = cluster_totals(d, clusters) if clustered and clusters is not None else (d, np.ones(len(d)))
    drawn = bootstrap_totals(np.stack([totals, sizes], axis=1), draws, rng)  # [draws, 2]
    means = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Bootstrap(float(d.mean()), float(means.std()), (float(low), float(high)), clustered)


def paired_t(a: ArrayLike, b: ArrayLike, *, level: float = 0.95, clusters: ArrayLike | None = None) -> PairedT:
    """The cross-check of `randomisation`: for thousands of triples the two agree to about 0.01 in p."""
    d = differences(a, b)
    difference, error = float(d.mean()), mean_error(d, clusters)
    if error.variance == 0:
        p, half = float(difference == 0), 0.0
    else:
        p = float(2 * stdtr(error.df, -abs(difference) / error.variance**0.5))
        half = float(stdtrit(error.df, (1 + level) / 2)) * error.variance**0.5
    interval = (difference - half, difference + half)
    return PairedT(difference, error.variance**0.5, error.df, p, interval, error.inflation, error.clustered)


def effect(a: ArrayLike, b: ArrayLike) -> Effect:
    """How often and how evenly a beats b, both [T, 2]."""
    d = differences(a, b).round(12)
    spread = float(d.std(ddof=1))
    won, lost = float(np.mean(d > 0)), float(np.mean(d < 0))
    return Effect(won, float(np.mean(d == 0)), lost, float(d.mean()) / spread if spread else 0.0)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p of `wins` against `losses`, ties left out; on discordant pairs it is McNemar's test."""
    if min(wins, losses) < 0:
        raise ValueError("wins and losses are counts")
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact p for hits a and b, booleans [T], where one side alone was evaluated."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be vectors over the same triples")
    return sign_test(int((a & ~b).sum()), int((b & ~a).sum()))


def rejection_of_equals(seed_sd: float, triple_sd: float, triples: int, alpha: float = 0.05) -> float:
    """How often a test of one run each rejects two samplers that are equal, at nominal alpha.

    `seed_sd`: of a sampler's MRR from seed to seed; `triple_sd`: of the triples' differences.
    """
    from scipy.special import ndtr, ndtri

    believed = triple_sd / triples**0.5
    true = (2 * seed_sd**2 + believed**2) ** 0.5
    return float(2 * ndtr(ndtri(alpha / 2) * believed / true))
