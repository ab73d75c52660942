"""Seeds x triples: tests and intervals for a sampler, as pure functions, arrays in and numbers out.

The design is crossed: every seed of a sampler is scored on the same test triples. The two-way t takes both sources of
variance into account, which sampler was trained with which seed and which triples happened to be drawn; pooling all
seed-triple pairs, or testing one run against another (nsbench.results.stats.paired), does not and rejects far too often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit  # Student's t without importing the whole of scipy.stats

from nsbench.results.stats.clusters import cluster_totals, mean_error

ALPHA = 0.05
LEVEL = 0.95  # of every interval
POWER = 0.8  # at a detectable difference
TEST_SEEDS = 5  # per arm: fewer, and no p-value is given
SPREAD_SEEDS = 3  # fewer, and no standard deviation is shown
FEWEST_BLOCKS = 6  # fewer, and no signed-rank test over them can reach ALPHA
BOOTSTRAP_DRAWS = 10_000
AT_ONCE = 2**22  # numbers that the bootstrap draws


class TwoWayT(NamedTuple):
    """A difference of two means over seeds and triples, with its 95 % interval.

    `inflation` is the clustered standard error over triples relative to the plain one, of which the larger was used.
    """

    difference: float
    standard_error: float
    df: float
    p: float
    interval: tuple[float, float]
    inflation: float = 1.0


def two_way_t(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> TwoWayT:
    """Is the mean of a [S_a, T] that of b [S_b, T], over seeds and over triples that both were scored on?

    SE^2 = var(seed means of a)/S_a + the same of b + var over triples(mean_s a - mean_s b)/T, all with ddof 1, less the
    interaction of seeds and triples that the triples' term holds, for the seeds' terms hold it too (the residuals' mean
    squares over S T, as in the analysis of variance); degrees of freedom after Satterthwaite. Arms of equal length are
    taken row by row for that: runs of one seed begin alike, so part of what seeds do to single triples cancels in the
    triples' term, and is in the seeds' terms alone.
    With `clusters` (labels [T]) the term of the triples is the clustered one where that is larger. Seeds are not paired:
    equal seed numbers share initialisation and order of batches but no negatives. Callers ask for TEST_SEEDS in each arm:
    from 3 seeds a standard deviation is known only up to a factor of 6, from 5 of 3.
    """
    a, b = _arms(a, b)
    if min(len(a), len(b)) < 2 or a.shape[1] < 2:
        raise ValueError("the variances need at least two seeds in each arm and two triples")
    difference = float(a.mean() - b.mean())
    triples = mean_error(a.mean(axis=0) - b.mean(axis=0), clusters)
    by_seed = [(float(arm.mean(axis=1).var(ddof=1)) / len(arm), len(arm) - 1.0) for arm in (a, b)]
    held = [a - b] if len(a) == len(b) else [a, b]
    twice = [_interaction(arm) for arm in held]
    variance = triples.variance + max(0.0, sum(v for v, _ in by_seed) - sum(v for v, _ in twice))
    parts = [*by_seed, *twice, (triples.variance, triples.df)]
    if variance == 0:  # every seed and triple shows the same difference
        p = float(difference == 0)
        return TwoWayT(difference, 0.0, np.inf, p, (difference, difference), triples.inflation)
    error = float(np.sqrt(variance))
    # Relative to the sum: squares of tiny variances would underflow.
    df = 1 / math.fsum((v / variance) ** 2 / n for v, n in parts)
    half = float(stdtrit(df, (1 + LEVEL) / 2)) * error
    p = float(2 * stdtr(df, -abs(difference) / error))
    return TwoWayT(difference, error, df, p, (difference - half, difference + half), triples.inflation)


def detectable(test: TwoWayT, family: int = 1) -> float:
    """The true difference that a test of this error and these degrees of freedom finds with probability POWER.

    By the noncentral t, whose other tail is left out, at ALPHA / family: Holm's first step over that many tests, so whatever
    the others show. The difference that was found has no part in it.
    """
    if test.standard_error == 0:
        return 0.0
    critical = stdtrit(test.df, 1 - ALPHA / family / 2)
    return float(nctdtrinc(test.df, 1 - POWER, critical)) * test.standard_error


def _interaction(y: NDArray[np.float64]) -> tuple[float, float]:
    """The interaction's share in the variance of the mean of y [S, T], and its degrees of freedom."""
    rest = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    df = (y.shape[0] - 1) * (y.shape[1] - 1)
    return float((rest**2).sum()) / df / y.size, df


def crossed_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    draws: int = BOOTSTRAP_DRAWS,
) -> NDArray[np.float64]:
    """Differences [draws] of the means of a [S_a, T] and b [S_b, T], seeds and triples both drawn with replacement.

    Seeds are drawn apart in each arm, triples jointly, so that the difficulty that both share cancels. The seeds' part
    is widened by S/(S - 1) in variance, which drawing with replacement loses. With `clusters` (labels [T])
    whole clusters are drawn. Their percentile interval is normal in its tails: where few seeds carry most of the variance
    it is shorter than the two-way t's.
    """
    arms = _arms(a, b)
    # Seeds first: the number of draws made of them must not depend on how the triples' come in pieces.
    weights = [_seed_weights(len(arm), draws, rng) for arm in arms]
    if clusters is None:
        totals, sizes = np.concatenate(arms), np.ones(arms[0].shape[1])
    else:
        totals, sizes = cluster_totals(np.concatenate(arms), clusters)
    drawn = _bootstrap_totals(np.concatenate([totals, sizes[None]]).T, draws, rng)  # [draws, S_a + S_b + 1]
    means = np.split(drawn[:, :-1] / drawn[:, -1:], [len(arms[0])], axis=1)
    return (means[0] * weights[0]).sum(axis=1) - (means[1] * weights[1]).sum(axis=1)


def percentile_interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _seed_weights(seeds: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights [draws, S] of a mean over at least two seeds drawn with replacement, their spread as wide as S seeds are."""
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    return 1 / seeds + (seeds / (seeds - 1)) ** 0.5 * (weights - 1 / seeds)


def _bootstrap_totals(values: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Totals [draws, K] of values [n, K] over n rows drawn with replacement."""
    n = len(values)
    totals, step = [], max(1, AT_ONCE // n)
    for rows in (min(step, draws - first) for first in range(0, draws, step)):
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        totals.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64) @ values)
    return np.concatenate(totals)


def _arms(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [seeds, triples] over the same triples")
    return a, b


def sd(values: Sequence[float]) -> float:
    """Standard deviation over seeds, ddof 1. Raises ValueError for a single value, which has none."""
    if len(values) < 2:
        raise ValueError("a standard deviation needs at least two values")
    mean = math.fsum(values) / len(values)  # numpy takes ten times as long for a few values, and tables have thousands
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval for the mean over seeds, on this test set."""
    return _around_mean(values, 1 / len(values))


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where one new run of the same kind would fall: what a published figure is held against, and never tested."""
    return _around_mean(values, 1 + 1 / len(values))


def _around_mean(values: Sequence[float], variance: float) -> tuple[float, float]:
    """`variance` is relative to that of the values."""
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * sd(values) * variance**0.5
    mean = math.fsum(values) / len(values)
    return mean - half, mean + half
