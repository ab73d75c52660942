"""What may be said of a difference. "Not significant" is never "equal": that takes an interval inside the rope."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nsbench.results.stats.statistics import ALPHA

ROPE = 0.005  # MRR: a region of practical equivalence, to be declared before the runs

Word = Literal["better", "worse", "practically equal", "inconclusive"]


class Verdict(NamedTuple):
    """`negligible`: the interval lies inside the rope, so that better or worse is so by less than matters."""

    word: Word
    negligible: bool


def verdict(difference: float, interval: tuple[float, float], p_adjusted: float) -> Verdict:
    """The verdict on a difference with its interval and its p, adjusted for the family.

    Better or worse if and only if p < ALPHA, whatever the rope; else practically equal if the interval lies inside it.
    """
    low, high = interval
    negligible = low >= -ROPE and high <= ROPE
    if p_adjusted < ALPHA and difference != 0:
        return Verdict("better" if difference > 0 else "worse", negligible)
    return Verdict("practically equal" if negligible else "inconclusive", negligible)
