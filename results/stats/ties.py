"""What ties and chance do to a metric: random tie-breaking, the share of ties, and figures adjusted for chance.

The realistic rank is what random tie-breaking gives on average; its reciprocal is not: E[1/rank] is larger wherever
there is a tie (Jensen). Terms after Berrendorf et al. 2020 (arXiv 2002.06914) and Hoyt et al. 2022 (arXiv 2203.07544).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsbench.metrics import HITS, chance, metrics

TIE_WARNING = 0.001  # MRR: a table with runs whose optimistic and pessimistic MRR differ by more says so


def random_ties(ranks: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Expected 1/rank (`mrr`) and `hits@k` [...] of each query under random tie-breaking: ranks [..., 2]."""
    ranks = np.asarray(ranks)
    first, last = ranks[..., 0].astype(np.int64), ranks[..., 1].astype(np.int64)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, last.max() + 1))])
    width = last - first + 1
    hits = {f"hits@{k}": np.clip(np.minimum(k, last) - first + 1, 0, None) / width for k in HITS}
    return {"mrr": (harmonic[last] - harmonic[first - 1]) / width, **hits}


def tie_share(ranks: ArrayLike) -> tuple[float, float]:
    """Share of queries whose answer is in a tie, and MRR of optimistic less that of pessimistic ranks: ranks [..., 2]."""
    ranks = np.asarray(ranks, np.float64)
    optimistic, pessimistic = ranks[..., 0], ranks[..., 1]
    return float(np.mean(optimistic < pessimistic)), float(np.mean(1 / optimistic) - np.mean(1 / pessimistic))


def chance_sd(candidates: ArrayLike) -> dict[str, float]:
    """Standard deviation of `metrics` for a scorer that knows nothing: independent uniform ranks in 1..candidates [...]."""
    n = np.asarray(candidates).ravel()
    steps = np.arange(1, n.max() + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / steps)])[n]
    squares = np.concatenate([[0.0], np.cumsum(1 / steps**2)])[n]
    hits = {k: np.minimum(k, n) / n for k in HITS}
    variance = {"mrr": squares / n - (harmonic / n) ** 2, "mr": (n**2 - 1) / 12}
    variance |= {f"hits@{k}": share * (1 - share) for k, share in hits.items()}
    return {name: float(value.sum() ** 0.5 / len(n)) for name, value in variance.items()}


def adjusted(ranks: ArrayLike, candidates: ArrayLike) -> dict[str, float]:
    """Figures that chance has been taken out of: ranks [..., 2], candidates [...].

    `amr` is MR over its expectation; `adjusted_` mrr and hits@k are (M - E)/(1 - E), 0 by chance and 1 at best; `z_`
    is the distance from chance in standard deviations, better is higher. A figure that could be nothing else is 0.
    """
    found, expected, sd = metrics(ranks, candidates), chance(candidates), chance_sd(candidates)
    result = {"amr": found["mr"] / expected["mr"], "amri": found["amri"]}
    for name in ("mrr", *(f"hits@{k}" for k in HITS)):
        room = 1 - expected[name]
        result[f"adjusted_{name}"] = (found[name] - expected[name]) / room if room > 0 else 0.0
    for name, spread in sd.items():
        above = expected[name] - found[name] if name == "mr" else found[name] - expected[name]
        result[f"z_{name}"] = above / spread if spread > 0 else 0.0
    return result
