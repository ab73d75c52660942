"""Facts are those of notes/statistics_and_reporting.md, section 5; scipy, enumeration and the papers are the oracles."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats.blocks import block_ranks, friedman, friedman_permutation
from tests.results.stats.examples import DEMSAR, DEMSAR_RANKS


def chi2(values):
    """Friedman's statistic, from the share that rows explain."""
    blocks, k = np.shape(values)
    return friedman(values).w * blocks * (k - 1)


@pytest.mark.fact(1, oracle="brute force")
def test_average_ranks_of_demsars_table():
    """As the paper prints them, and one more than the number of better ones plus half the number of equal ones."""
    ranks = block_ranks(DEMSAR)
    assert ranks.mean(axis=0) == pytest.approx(DEMSAR_RANKS)
    assert ranks[5].tolist() == [1, 2.5, 4, 2.5]
    assert ranks[9].tolist() == [2.5] * 4
    for row, found in zip(DEMSAR.tolist(), ranks.tolist()):
        assert found == [1 + sum(y > x for y in row) + (row.count(x) - 1) / 2 for x in row]


@pytest.mark.fact(2, 3)
def test_friedman_and_iman_davenport_on_demsars_table():
    """Corrected for ties; the paper's 9.28 and 3.69 are not."""
    assert chi2(DEMSAR) == pytest.approx(10.2283464566929)
    assert friedman(DEMSAR) == pytest.approx((4.185130, 0.243532), abs=1e-6)


@pytest.mark.fact(29, oracle="closed form")
def test_perfect_agreement_has_an_infinite_f():
    values = np.tile([3.0, 2.0, 1.0], (4, 1))
    assert friedman(values) == (np.inf, 1)
    assert chi2(values) == 8
    assert friedman_permutation(values, np.random.default_rng(0)) == pytest.approx(6**-3, abs=4 * np.sqrt(6**-3 / 9_999))


@pytest.mark.fact(30)
def test_blocks_that_are_all_ties_are_not_tested():
    """scipy gives nan here."""
    assert friedman(np.ones((5, 3))) is None
    assert friedman_permutation(np.ones((5, 3)), np.random.default_rng(0)) == 1


@pytest.mark.fact(2, oracle="scipy")
@given(arrays(np.int64, st.tuples(st.integers(2, 8), st.integers(3, 5)), elements=st.integers(0, 6)))
def test_friedman_against_scipy(values):
    found = friedman(values / 7)
    if found is None:
        assert np.all(values == values[:, :1])
        return
    assert chi2(values / 7) == pytest.approx(scipy.stats.friedmanchisquare(*values.T).statistic, abs=1e-9)


@pytest.mark.fact(16, oracle="brute force")
@pytest.mark.parametrize(("blocks", "k", "decimals"), [(4, 3, 9), (3, 4, 9), (4, 3, 0)])
def test_permutation_p_against_enumeration(blocks, k, decimals):
    values = np.random.default_rng(blocks).normal(size=(blocks, k)).round(decimals)
    ranks = block_ranks(values)
    observed = (ranks.sum(axis=0) ** 2).sum()
    every = [
        (np.sum([row[list(order)] for row, order in zip(ranks, orders)], axis=0) ** 2).sum() >= observed - 1e-9
        for orders in product(permutations(range(k)), repeat=blocks)
    ]
    found = friedman_permutation(values, np.random.default_rng(0), draws=4999)
    assert found == pytest.approx(np.mean(every), abs=4 * 0.5 / 4999**0.5)


@pytest.mark.fact(39)
def test_a_permuted_p_is_never_zero():
    assert friedman_permutation(np.tile(np.arange(4.0), (9, 1)), np.random.default_rng(0), draws=99) == 0.01


def test_incomplete_blocks_are_refused_by_number():
    values = np.ones((4, 3))
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"blocks \[2\] lack a value"):
        friedman(values)


def test_equal_up_to_round_off_is_a_tie():
    assert block_ranks([[0.3 - 0.2, 0.2 - 0.1, 0.5]]).tolist() == [[2.5, 2.5, 1]]
