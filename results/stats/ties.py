"""What the order of ties does to a metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

TIE_WARNING = 0.001  # MRR: a table with runs whose optimistic and pessimistic MRR differ by more says so


def tie_gap(ranks: ArrayLike) -> float:
    """MRR of the best order of ties less that of the worst: ranks [..., 2 (optimistic, pessimistic)]."""
    ranks = np.asarray(ranks)
    tied = ranks[..., 0] != ranks[..., 1]  # most runs have none, and thousands are read
    optimistic, pessimistic = ranks[tied].astype(np.float64).T
    return float((1 / optimistic - 1 / pessimistic).sum() / tied.size)
