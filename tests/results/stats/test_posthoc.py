"""Facts are those of notes/statistics_and_reporting.md, section 5; scikit-posthocs, enumeration and papers are oracles."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats.blocks import block_ranks
from nsbench.results.stats.multiplicity import holm
from nsbench.results.stats.posthoc import (
    blocks_needed,
    cliques,
    critical_difference,
    nemenyi_p,
    wilcoxon,
    wilcoxon_holm,
)
from tests.results.stats.examples import DEMSAR, DEMSAR_RANKS

NEMENYI_05 = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]  # Demšar 2006, Table 5a, k = 2..10


def unit_blocks(k):
    """The number of blocks that makes the standard error 1."""
    return k * (k + 1) / 6


def tukey(k, alpha=0.05, df=np.inf):
    """Upper point of the studentized range over the root of 2, by statsmodels (Gleason 1999, to three digits)."""
    from statsmodels.stats.libqsturng import qsturng

    return qsturng(1 - alpha, k, df) / 2**0.5


@pytest.mark.fact(5, 6, oracle="statsmodels")
def test_critical_differences_of_demsars_example():
    assert critical_difference(4, 14) == pytest.approx(1.253559, abs=1e-6)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.118060, abs=1e-6)
    for alpha in (0.05, 0.10):
        assert critical_difference(4, 14, alpha=alpha) == pytest.approx(tukey(4, alpha) * (4 * 5 / 6 / 14) ** 0.5, abs=1e-3)


@pytest.mark.fact(7, oracle="statsmodels")
def test_table_of_critical_values():
    """Within 0.002 of the printed one."""
    for k, nemenyi in zip(range(2, 11), NEMENYI_05):
        assert critical_difference(k, unit_blocks(k)) == pytest.approx(nemenyi, abs=0.002)
        assert critical_difference(k, unit_blocks(k)) == pytest.approx(tukey(k), abs=1e-3)


@pytest.mark.fact(10, 12, oracle="scikit-posthocs")
def test_nemenyi_against_scikit_posthocs():
    import scikit_posthocs

    rng = np.random.default_rng(0)
    for values in (DEMSAR, rng.normal(size=(8, 5)) + np.arange(5) / 3, rng.normal(size=(30, 5))):
        average = block_ranks(values).mean(axis=0)
        nemenyi = np.array(scikit_posthocs.posthoc_nemenyi_friedman(values))
        assert nemenyi_p(average, len(values)) == pytest.approx(nemenyi, abs=1e-5)


@pytest.mark.fact(11)
def test_wilcoxon_of_demsars_table():
    """Zeros split; the values must be those printed with the example, with `voting`."""
    # Rank sums of 93 and 12. The exact value: the normal one errs by two fifths at 14 blocks.
    assert wilcoxon(DEMSAR[:, 1] - DEMSAR[:, 0]) == 64 / 2**13


@pytest.mark.parametrize(("k", "all_pairs", "one_baseline"), [(3, 7, 7), (5, 9, 8), (7, 10, 8), (10, 11, 9), (12, 12, 9)])
def test_blocks_needed(k, all_pairs, one_baseline):
    """The table of section 1.3, by trying: with one block fewer the clearest possible result is not significant."""
    for comparisons, needed in ((k * (k - 1) // 2, all_pairs), (k - 1, one_baseline)):
        assert blocks_needed(comparisons) == needed
        p = [wilcoxon(np.arange(1.0, n + 1)) for n in (needed, needed - 1)]
        assert p[0] * comparisons <= 0.05 < p[1] * comparisons


@pytest.mark.fact(26, oracle="brute force")
@given(arrays(np.int64, st.integers(2, 9), elements=st.integers(-4, 4)))
def test_wilcoxon_against_enumeration_of_signs(d):
    """Ties and zeros among the differences; equal columns have p 1."""
    found = wilcoxon(d / 10)
    if not d.any():
        assert found == 1
        return
    ranks = scipy.stats.rankdata(np.abs(d))
    half = ranks[d == 0].sum() / 2
    sums = [half + ranks[d != 0] @ np.array(signs) for signs in product([0, 1], repeat=int((d != 0).sum()))]
    middle, plus = ranks.sum() / 2, half + ranks[d > 0].sum()
    far = np.mean([abs(total - middle) >= abs(plus - middle) - 1e-9 for total in sums])
    assert found == pytest.approx(far)
    assert wilcoxon(-d / 10) == pytest.approx(found)


def test_wilcoxon_with_holm():
    values = np.random.default_rng(2).normal(size=(12, 4)) + np.array([0, 1.5, 0.1, 3])
    found = wilcoxon_holm(values)
    p = [scipy.stats.wilcoxon(values[:, i] - values[:, j]).pvalue for i, j in combinations(range(4), 2)]
    assert [found[pair] for pair in combinations(range(4), 2)] == pytest.approx(holm(p))
    assert np.all(found == found.T)
    assert np.all(np.diag(found) == 1)


@pytest.mark.fact(52)
def test_cliques_of_demsars_example():
    """{A, C} and {B, C, D} at 0.10; no bar joins A with B or D."""
    assert cliques(nemenyi_p(DEMSAR_RANKS, 14), alpha=0.10) == [(0, 2), (1, 2, 3)]
    assert cliques(nemenyi_p(DEMSAR_RANKS, 14), alpha=0.05) == [(0, 1, 2, 3)]


@pytest.mark.fact(52, oracle="brute force")
@given(st.integers(1, 6).flatmap(lambda k: arrays(float, (k, k), elements=st.floats(0, 1))))
def test_cliques_against_all_subsets(p):
    p = np.minimum(p, p.T)
    k = len(p)
    free = [
        set(s)
        for n in range(2, k + 1)
        for s in combinations(range(k), n)
        if all(p[i, j] >= 0.3 for i, j in combinations(s, 2))
    ]
    maximal = sorted(tuple(sorted(s)) for s in free if not any(s < other for other in free))
    assert cliques(p, alpha=0.3) == maximal


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ValueError, match="finite"):
        wilcoxon([0.1, np.nan])
    with pytest.raises(ValueError, match="finite"):
        wilcoxon_holm([[0.1, np.nan]])


@pytest.mark.fact(11, oracle="scipy")
@given(arrays(np.int64, st.integers(51, 90), elements=st.integers(-6, 6)).filter(lambda d: np.count_nonzero(d) > 30))
def test_wilcoxon_of_many_blocks_is_nearly_normal(d):
    expected = scipy.stats.wilcoxon(d, zero_method="zsplit", method="asymptotic")
    assert wilcoxon(d) == pytest.approx(expected.pvalue, abs=0.03)


# Holm


@pytest.mark.fact(17, 18, oracle="statsmodels")
def test_holm_against_statsmodels():
    """p that are even, small, tied, 0 and 1. (statsmodels takes 0.1 s each time.)"""
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for p in (rng.uniform(size=9), rng.uniform(size=40) ** 4, rng.integers(0, 6, 12) / 5 * 0.1, np.array([0, 1, 0.02])):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(p=arrays(float, st.integers(1, 12), elements=st.floats(0, 1)), seed=st.integers(0, 99))
def test_holm_is_monotone_above_raw_p_and_follows_a_permutation(p, seed):
    adjusted, order = holm(p), np.random.default_rng(seed).permutation(len(p))
    assert np.all((adjusted >= p - 1e-15) & (adjusted <= 1))
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-15)
    assert holm(p[order]) == pytest.approx(adjusted[order])


@pytest.mark.parametrize("p", [[np.nan], [-0.1], [1.1], [[0.5]]])
def test_what_is_no_vector_of_p_values_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p)
