"""Facts are those of notes/statistics_and_reporting.md, section 5; scipy, enumeration and the papers are the oracles."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats.blocks import (
    block_ranks,
    friedman,
    friedman_of_ranks,
    friedman_permutation,
)
from tests.results.stats.examples import DEMSAR, DEMSAR_RANKS


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
    """The paper's 9.28 and 3.69 are uncorrected, as its average ranks give them; scipy's tests have the corrected figure."""
    plain, corrected = friedman_of_ranks(DEMSAR_RANKS, 14), friedman(DEMSAR)
    assert (plain.chi2, plain.f) == pytest.approx((9.278571, 3.686313), abs=1e-6)
    assert (plain.p, plain.f_p) == pytest.approx((0.02581, 0.01982), abs=1e-5)
    assert (corrected.chi2, corrected.p) == pytest.approx((10.2283464566929, 0.0167215803284414))
    assert (corrected.f, corrected.f_p) == pytest.approx((4.185130, 0.01162), abs=1e-5)
    assert (plain.w, corrected.w) == pytest.approx((0.220918, 0.243532), abs=1e-6)


@pytest.mark.fact(29, oracle="closed form")
def test_perfect_agreement_has_an_infinite_f():
    found = friedman(np.tile([3.0, 2.0, 1.0], (4, 1)))
    assert (found.chi2, found.w, found.f, found.f_p) == (8, 1, np.inf, 0)
    assert found.p == pytest.approx(0.018316, abs=1e-6)
    assert found.p == pytest.approx(np.exp(-4))  # chi-square of two degrees is exponential
    assert friedman_permutation(np.tile([3.0, 2.0, 1.0], (4, 1)), np.random.default_rng(0)).p == pytest.approx(6**-3)


@pytest.mark.fact(30)
def test_blocks_that_are_all_ties_are_not_tested():
    """scipy gives nan here."""
    assert friedman(np.ones((5, 3))) is None
    assert friedman_permutation(np.ones((5, 3)), np.random.default_rng(0)).p == 1


@pytest.mark.fact(2, oracle="scipy")
@given(arrays(np.int64, st.tuples(st.integers(2, 8), st.integers(3, 5)), elements=st.integers(0, 6)))
def test_friedman_against_scipy(values):
    found = friedman(values / 7)
    if found is None:
        assert np.all(values == values[:, :1])
        return
    expected = scipy.stats.friedmanchisquare(*values.T)
    assert (found.chi2, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
    assert np.isfinite([found.p, found.f_p, found.w]).all()


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
    found = friedman_permutation(values, np.random.default_rng(0))
    assert found.exact
    assert found.p == pytest.approx(np.mean(every))


def test_drawn_permutations_agree_with_counted_ones(monkeypatch):
    values = np.random.default_rng(5).normal(size=(6, 4)) + np.arange(4) / 4
    counted = friedman_permutation(values, np.random.default_rng(0))
    monkeypatch.setattr("nsbench.results.stats.blocks.STATES", 1)
    drawn = friedman_permutation(values, np.random.default_rng(0), draws=4999)
    assert counted.exact
    assert not drawn.exact
    assert drawn.p == pytest.approx(counted.p, abs=4 * np.sqrt(counted.p / 4999))
    agreed = friedman_permutation(np.tile(np.arange(4.0), (9, 1)), np.random.default_rng(0), draws=99)
    assert agreed.p == 0.01  # never 0


def test_incomplete_blocks_are_refused_by_number():
    values = np.ones((4, 3))
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"blocks \[2\] lack a value"):
        friedman(values)


def test_equal_up_to_round_off_is_a_tie():
    assert block_ranks([[0.3 - 0.2, 0.2 - 0.1, 0.5]]).tolist() == [[2.5, 2.5, 1]]
