"""Tests and intervals as pure functions: arrays in, numbers out.

The design is crossed: every seed of a sampler is scored on the same test triples. The two-way t takes both sources of
variance into account, which sampler was trained with which seed and which triples happened to be drawn; pooling all
seed-triple pairs, or testing one run against another, does not and rejects far too often.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # Student's t without importing the whole of scipy.stats

from nsbench.errors import Misuse

TEST_SEEDS = 5  # per arm: fewer, and no p-value is given unless asked for
SPREAD_SEEDS = 3  # fewer, and no standard deviation is shown


class TwoWayT(NamedTuple):
    """A difference of two means over seeds and triples; the interval has the level that was asked for."""

    difference: float
    standard_error: float
    df: float
    p: float
    interval: tuple[float, float]


def two_way_t(a: ArrayLike, b: ArrayLike, *, minimum_seeds: int = TEST_SEEDS, level: float = 0.95) -> TwoWayT:
    """Is the mean of a [S_a, T] that of b [S_b, T], over seeds and over triples that both were scored on?

    SE^2 = var(seed means of a)/S_a + the same of b + var over triples(mean_s a - mean_s b)/T, all with ddof 1; degrees
    of freedom after Satterthwaite. Seeds are not paired: equal seed numbers share no negatives. The triples' term
    contains the interaction of seeds and triples, so the test errs on the safe side. Misuse below `minimum_seeds` in an
    arm: from 3 seeds a standard deviation is known only up to a factor of 6, from 5 of 3.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [seeds, triples] over the same triples")
    if minimum_seeds < 2 or a.shape[1] < 2:
        raise ValueError("the variances need at least two seeds in each arm and two triples")
    seeds = min(len(a), len(b))
    if seeds < minimum_seeds:
        raise Misuse(f"a test needs at least {minimum_seeds} seeds on each side and here is {seeds}; run more seeds")

    difference = float(a.mean() - b.mean())
    triples = a.mean(axis=0) - b.mean(axis=0)  # [T]
    parts = [
        (a.mean(axis=1).var(ddof=1) / len(a), len(a) - 1),
        (b.mean(axis=1).var(ddof=1) / len(b), len(b) - 1),
        (triples.var(ddof=1) / len(triples), len(triples) - 1),
    ]
    variance = sum(v for v, _ in parts)
    if variance == 0:  # every seed and triple shows the same difference
        return TwoWayT(difference, 0.0, np.inf, float(difference == 0), (difference, difference))
    error = float(np.sqrt(variance))
    # Relative to the sum: squares of tiny variances would underflow.
    df = float(1 / sum((v / variance) ** 2 / n for v, n in parts))
    half = float(stdtrit(df, (1 + level) / 2)) * error
    p = float(2 * stdtr(df, -abs(difference) / error))
    return TwoWayT(difference, error, df, p, (difference - half, difference + half))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values [m] for the whole family [m] at once, in the order given (Holm 1979)."""
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p must be a vector of numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def sd(values: ArrayLike) -> float:
    """Standard deviation over seeds, ddof 1. Raises ValueError for a single value, which has none."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError("a standard deviation needs a vector of at least two values")
    return float(values.std(ddof=1))


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean over seeds, on this test set."""
    values = np.asarray(values, np.float64)
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * sd(values) / len(values) ** 0.5
    mean = float(values.mean())
    return mean - half, mean + half
