"""Many comparisons at once: p-values adjusted for the whole family, given as one vector [m] and returned in its order.

Adjusted row by row, nothing is adjusted. Bonferroni, Holm, Hochberg and Hommel bound the chance of any false claim (the
last two for independent or positively dependent tests); Benjamini and Hochberg, and Yekutieli, the share of false ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

Vector = NDArray[np.float64]


class Replicability(NamedTuple):
    """`adjusted` [n]: p that at least u = 1..n of the nulls are false, made monotone; `at_least`: the largest sure u."""

    adjusted: Vector
    at_least: int


def bonferroni(p: ArrayLike) -> Vector:
    """m times p."""
    p = _checked(p)
    return np.minimum(p * len(p), 1)


def holm(p: ArrayLike) -> Vector:
    """Holm's step-down adjusted p-values (Holm 1979)."""
    p = _checked(p)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return _in_place(np.minimum(stepped, 1), order)


def hochberg(p: ArrayLike) -> Vector:
    """Hochberg's step-up adjusted p-values, Holm's factors from the largest p down (Hochberg 1988)."""
    p = _checked(p)
    return _step_up(p, 1 + np.arange(len(p)))


def benjamini_hochberg(p: ArrayLike) -> Vector:
    """False discovery rate under independence: p_(i) m / i from the largest down (Benjamini and Hochberg 1995)."""
    p = _checked(p)
    return _step_up(p, len(p) / (len(p) - np.arange(len(p))))


def benjamini_yekutieli(p: ArrayLike) -> Vector:
    """False discovery rate under any dependence: the above times 1 + 1/2 + .. + 1/m."""
    p = _checked(p)
    return np.minimum(benjamini_hochberg(p) * (1 / np.arange(1, len(p) + 1)).sum(), 1)


def hommel(p: ArrayLike) -> Vector:
    """Hommel's adjusted p-values: the closure of Simes' test (Hommel 1988).

    A hypothesis' value is the largest Simes p of the intersections that contain it; of those with s hypotheses the
    largest p has the s - 1 largest others.
    """
    p = _checked(p)
    order = np.argsort(p, kind="stable")
    ordered, m = p[order], len(p)
    adjusted = ordered.copy()
    for size in range(2, m + 1):
        own = size / np.arange(1, size + 1)  # Simes' factors
        top = ordered[m - size :]
        simes = (own * top).min()
        # One of the smaller p with the size - 1 largest: it comes first.
        rest = (own[1:] * top[1:]).min()
        adjusted[m - size :] = np.maximum(adjusted[m - size :], simes)
        smaller = slice(0, m - size)
        adjusted[smaller] = np.maximum(adjusted[smaller], np.minimum(size * ordered[smaller], rest))
    return _in_place(np.minimum(adjusted, 1), order)


def replicability(p: ArrayLike, *, independent: bool = False, alpha: float = 0.05) -> Replicability:
    """On how many of n datasets is the claim true at least? Partial conjunction of p [n] (Dror et al. 2017, section 4).

    Bonferroni's combination holds under any dependence; Fisher's, with `independent`, needs disjoint data. Which
    datasets they are is Holm's to say.
    """
    p = np.sort(_checked(p))
    n = len(p)
    if independent:
        with np.errstate(divide="ignore"):
            logs = -2 * np.log(p)
        combined = np.array([chdtrc(2 * (n - u), logs[u:].sum()) for u in range(n)])
    else:
        combined = np.minimum((n - np.arange(n)) * p, 1)
    adjusted = np.maximum.accumulate(combined)
    return Replicability(adjusted, int((adjusted <= alpha).sum()))


def _checked(p: ArrayLike) -> Vector:
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p must be a vector of numbers between 0 and 1")
    return p


def _step_up(p: Vector, factors: NDArray) -> Vector:
    """Running minimum, from the largest p down, of p times the factors [m] of that order."""
    order = np.argsort(-p, kind="stable")
    stepped = np.minimum.accumulate(factors * p[order])
    return _in_place(np.minimum(stepped, 1), order)


def _in_place(ordered: Vector, order: NDArray[np.int64]) -> Vector:
    values = np.empty_like(ordered)
    values[order] = ordered
    return values
