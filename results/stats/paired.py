"""One run against another on the same test triples: says which trained model ranks this test set better, no more.

Whether the sampler made it better takes seeds (nsbench.results.stats.statistics): the larger the test set, the surer a test
of single runs is of a difference that the seeds made. Scores come as [T, 2 sides], of which a triple's mean is the unit:
its two queries are answered from the same embeddings and are no two pieces of evidence.

With `clusters` (labels [T], nsbench.results.stats.clusters) whole clusters flip, where that makes the standard error larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from nsbench.results.stats.clusters import cluster_totals, mean_error

DRAWS = 9_999  # of a test: the smallest p is one in ten thousand
AT_ONCE = 250  # of them
SAME = 1e-12  # totals that differ by less, relative to the sum of sizes, differ by round-off


class PairedT(NamedTuple):
    """Student's t on the triples' differences; `inflation` as in nsbench.results.stats.clusters.MeanError."""

    difference: float
    standard_error: float
    df: float
    p: float
    interval: tuple[float, float]
    inflation: float
    clustered: bool


def differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """a - b of each triple, mean of its sides: [T, 2], [T, 2] -> [T]. ValueError for any other shape."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) < 2:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must both be [T, 2 sides], over at least two triples")
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise ValueError("the scores must be finite")
    return (a - b).mean(axis=1)


def randomisation(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, clusters: ArrayLike | None = None, draws: int = DRAWS
) -> float:
    """Fisher's test: would the mean difference of a and b [T, 2] be as large with the runs swapped at random per triple?

    p, two-sided: (1 + exceedances) / (1 + draws).
    """
    units = differences(a, b)
    if clusters is not None and mean_error(units, clusters).clustered:
        units = cluster_totals(units, clusters)[0]
    least, exceed = abs(units.sum()) - SAME * np.abs(units).sum(), 0
    for first in range(0, draws, AT_ONCE):
        signs = 2.0 * rng.integers(0, 2, (min(AT_ONCE, draws - first), len(units)), dtype=np.int8) - 1
        exceed += int((np.abs(signs @ units) >= least).sum())
    return (1 + exceed) / (1 + draws)


def paired_t(a: ArrayLike, b: ArrayLike, *, clusters: ArrayLike | None = None) -> PairedT:
    """The cross-check of `randomisation`: for thousands of triples the two agree to about 0.01 in p."""
    d = differences(a, b)
    difference, error = float(d.mean()), mean_error(d, clusters)
    if error.variance == 0:
        p, half = float(difference == 0), 0.0
    else:
        p = float(2 * stdtr(error.df, -abs(difference) / error.variance**0.5))
        half = float(stdtrit(error.df, 0.975)) * error.variance**0.5
    interval = (difference - half, difference + half)
    return PairedT(difference, error.variance**0.5, error.df, p, interval, error.inflation, error.clustered)
