"""Bayesian signed-rank test: how probable it is that one sampler is practically better over blocks.

Benavoli, Corani, Demšar and Zaffalon 2017 (JMLR 18(77)), section 4.2: a Dirichlet process over the differences with one
pseudo-observation at zero of weight one half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

PRIOR = 0.5
CHUNK = 4096


class Posterior(NamedTuple):
    """P(practically worse), P(practically equal), P(practically better)."""

    left: float
    rope: float
    right: float


def bayesian_signed_rank(differences: ArrayLike, rope: float, rng: np.random.Generator, *, draws: int = 50_000) -> Posterior:
    """Of differences [N], a minus b: shares of the posterior in which Walsh averages are most often left, in, right.

    A Walsh average is in the rope up to `rope` inclusive; without a rope, averages of zero count half for either side.
    """
    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or len(d) < 1 or not np.all(np.isfinite(d)) or rope < 0:
        raise ValueError("differences must be a vector of finite numbers, and the rope at least 0")
    z = np.concatenate([[0.0], d])
    sums = np.round(z[:, None] + z, 12)  # [N + 1, N + 1]
    edge = np.round(2 * rope, 12)
    right, left = (sums > edge).astype(float), (sums < -edge).astype(float)
    if rope == 0:
        right, left = right + (sums == 0) / 2, left + (sums == 0) / 2
    alpha = np.concatenate([[PRIOR], np.ones(len(d))])
    won = np.zeros(3)
    for first in range(0, draws, CHUNK):
        weights = rng.dirichlet(alpha, min(CHUNK, draws - first))  # [rows, N + 1]
        mass_right = ((weights @ right) * weights).sum(axis=1)
        mass_left = ((weights @ left) * weights).sum(axis=1)
        middle = 1 - mass_right - mass_left if rope > 0 else np.full(len(weights), -1.0)
        mass = np.stack([mass_left, middle, mass_right], axis=1)
        best = mass >= mass.max(axis=1, keepdims=True) - 1e-12
        won += (best / best.sum(axis=1, keepdims=True)).sum(axis=0)
    return Posterior(*(float(share) for share in won / draws))
