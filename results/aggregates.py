"""Figures over many tasks at once, after Agarwal et al. 2021 (NeurIPS, rliable): scores are [runs, tasks].

Raw MRR does not compare across datasets: normalise it first (nsbench.results.ties.adjusted). The stratified bootstrap
draws runs inside each task, so that its intervals speak of these tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of all scores less the lowest and highest quarter, each rounded down to whole scores."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Scores:
    """Share of all runs with a score above each threshold [n]."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    return 1 - np.searchsorted(ordered, np.asarray(thresholds, np.float64), side="right") / len(ordered)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Mean over tasks of the chance that a run of a [n, tasks] beats one of b [m, tasks], ties half."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [runs, tasks] over the same tasks")
    return float((np.sign(a[:, None] - b[None]).mean() + 1) / 2)


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[[Scores], float],
    rng: np.random.Generator,
    *,
    draws: int = 2_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of scores [runs, tasks], runs drawn with replacement in each task apart."""
    scores = np.asarray(scores, np.float64)
    values = []
    for _ in range(draws):
        values.append(statistic(np.take_along_axis(scores, rng.integers(len(scores), size=scores.shape), axis=0)))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
