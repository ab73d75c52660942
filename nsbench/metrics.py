"""Metrics from filtered ranks: the one implementation, for the trainer and for the tables.

A query is a test triple with one end hidden. Its optimistic rank puts the answer before the candidates of equal score,
its pessimistic rank after them; their mean, the realistic rank, is what every metric uses (names as in Berrendorf et
al. 2020, arXiv 2002.06914). Hits@k counts realistic ranks of at most k: an answer in a tie over ranks 1..2 has rank 1.5
and misses Hits@1; its chance of one half under random tie-breaking is not credited. All figures are fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

HITS = (1, 3, 10)


def realistic(ranks: ArrayLike) -> NDArray[np.float64]:
    """Mean of optimistic and pessimistic rank: [..., 2] -> [...]."""
    return np.asarray(ranks).mean(axis=-1, dtype=np.float64)


def reciprocal(ranks: ArrayLike) -> NDArray[np.float64]:
    """Reciprocal realistic rank of each triple, mean of its two sides: [T, 2, 2] -> [T]. The unit of every test."""
    ranks = np.asarray(ranks)
    if ranks.ndim != 3 or ranks.shape[1:] != (2, 2):
        raise ValueError(f"ranks must be [T, 2 sides, 2 (optimistic, pessimistic)], not {list(ranks.shape)}")
    each = 2 / (ranks[..., 0] + ranks[..., 1])  # 1 / realistic rank; written out, as whole stores are read through here
    return (each[:, 0] + each[:, 1]) / 2


def metrics(ranks: ArrayLike, candidates: ArrayLike) -> dict[str, float]:
    """mrr, mr, hits@k and amri over all queries: ranks [..., 2 (optimistic, pessimistic)], candidates [...].

    `candidates` counts what each answer was ranked among, itself included. amri is the adjusted mean rank index
    1 - (mr - 1) / (E[mr] - 1): 1 when every answer is first, 0 for a random or a constant scorer, and 0 also where
    no query has anything to rank against. Raises ValueError without queries or unless 1 <= optimistic <= pessimistic <=
    candidates (comparisons with nan would give the answer rank 0.5).
    """
    ranks, candidates = np.asarray(ranks), np.asarray(candidates)
    if ranks.shape != (*candidates.shape, 2):
        raise ValueError(f"ranks {list(ranks.shape)} must be candidates {list(candidates.shape)} with a last axis of 2")
    if candidates.size == 0:
        raise ValueError("no queries, so no metrics")
    optimistic, pessimistic = ranks[..., 0], ranks[..., 1]
    if not (np.all(optimistic >= 1) and np.all(optimistic <= pessimistic) and np.all(pessimistic <= candidates)):
        raise ValueError("ranks must satisfy 1 <= optimistic <= pessimistic <= candidates")
    rank = realistic(ranks)
    expected = float(np.mean((candidates + 1) / 2))  # of a scorer that knows nothing: ranks uniform in 1..candidates
    hits = {f"hits@{k}": float(np.mean(rank <= k)) for k in HITS}
    amri = 1 - (rank.mean() - 1) / (expected - 1) if expected > 1 else 0.0
    return {"mrr": float(np.mean(1 / rank)), "mr": float(rank.mean()), **hits, "amri": float(amri)}


def breakdown(ranks: ArrayLike, candidates: ArrayLike, labels: ArrayLike) -> dict[str, dict[str, Any]]:
    """`metrics` of each label's queries, and their number as `queries`; labels in sorted order.

    ranks [T, 2, 2], candidates [T, 2], labels [T] (of a triple) or [T, 2] (of a query), of any type that compares.
    """
    ranks, candidates, labels = np.asarray(ranks), np.asarray(candidates), np.asarray(labels)
    if labels.shape not in {candidates.shape, candidates.shape[:1]}:
        raise ValueError(f"labels {list(labels.shape)} must be [T] or [T, 2] with candidates {list(candidates.shape)}")
    if labels.ndim < candidates.ndim:
        labels = np.broadcast_to(labels[:, None], candidates.shape)
    parts = {}
    for label in np.unique(labels):
        chosen = labels == label
        parts[str(label)] = {**metrics(ranks[chosen], candidates[chosen]), "queries": int(chosen.sum())}
    return parts
