"""Facts are those of docs/notes/statistics_and_reporting.md, section 5."""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nsbench.results.stats.effects import superiority

A, B = [0.30, 0.32, 0.31, 0.33, 0.34], [0.29, 0.31, 0.30, 0.30, 0.32]


@pytest.mark.fact(23)
def test_superiority_of_the_worked_example():
    """G4, and complete separation of 5 and of 3 seeds."""
    found = superiority(A, B)
    assert (found.a12, found.delta) == pytest.approx((0.8, 0.6))
    assert superiority(range(5), range(10, 15)) == (0, -1, pytest.approx(2 / 252))
    assert superiority(range(3, 6), range(3)) == (1, 1, pytest.approx(0.1))


seeds = st.lists(st.integers(0, 5), min_size=1, max_size=5)


@pytest.mark.fact(23, oracle="brute force")
@given(seeds, seeds)
def test_superiority_against_enumeration(a, b):
    found = superiority(np.array(a) / 3, np.array(b) / 3)
    assert found.a12 == pytest.approx(np.mean([(x > y) + (x == y) / 2 for x in a for y in b]))
    ranks = scipy.stats.rankdata(a + b)
    away = [abs(ranks[list(c)].mean() - ranks.mean()) for c in combinations(range(len(ranks)), len(a))]
    assert found.p == pytest.approx(np.mean(np.array(away) >= abs(ranks[: len(a)].mean() - ranks.mean()) - 1e-9))


def test_what_does_not_compare_is_refused():
    with pytest.raises(ValueError, match="one value for each seed"):
        superiority([], [1])
