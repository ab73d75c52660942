"""Facts are those of specs/statistics_and_reporting.md, section 5; scikit-posthocs, enumeration and papers are oracles."""

from itertools import combinations, product

import numpy as np
import pytest
import scikit_posthocs
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.libqsturng import qsturng

from nsbench.results.stats.blocks import block_ranks
from nsbench.results.stats.multiplicity import hochberg, holm, hommel
from nsbench.results.stats.posthoc import (
    blocks_needed,
    bonferroni_dunn,
    cliques,
    critical_difference,
    nemenyi_p,
    rank_p,
    smallest_wilcoxon_p,
    walsh_interval,
    wilcoxon,
    wilcoxon_holm,
)
from tests.results.examples import DEMSAR, DEMSAR_AS_PRINTED, DEMSAR_RANKS, GARCIA_P, GARCIA_RANKS, MAIZE

NEMENYI_05 = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]  # Demšar 2006, Table 5a, k = 2..10
DUNN_05 = [1.960, 2.241, 2.394, 2.498, 2.576, 2.638, 2.690, 2.734, 2.773]  # Table 5b, where 2.724 is a misprint


def unit_blocks(k):
    """The number of blocks that makes the standard error 1."""
    return k * (k + 1) / 6


def tukey(k, alpha=0.05, df=np.inf):
    """Upper point of the studentized range over the root of 2, by statsmodels (Gleason 1999, to three digits)."""
    return qsturng(1 - alpha, k, df) / 2**0.5


@pytest.mark.fact(5, 6, oracle="statsmodels")
def test_critical_differences_of_demsars_example():
    assert critical_difference(4, 14) == pytest.approx(1.253559, abs=1e-6)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.118060, abs=1e-6)
    assert bonferroni_dunn(4, 14) == pytest.approx(1.168143, abs=1e-6)
    for alpha in (0.05, 0.10):
        assert critical_difference(4, 14, alpha=alpha) == pytest.approx(tukey(4, alpha) * (4 * 5 / 6 / 14) ** 0.5, abs=1e-3)
    dunn = scipy.stats.norm.isf(0.05 / 2 / 3) * (4 * 5 / 6 / 14) ** 0.5
    assert bonferroni_dunn(4, 14) == pytest.approx(dunn)


@pytest.mark.fact(7, oracle="statsmodels")
def test_tables_of_critical_values():
    """Within 0.002 of the printed tables, and the misprint shows."""
    for k, nemenyi, dunn in zip(range(2, 11), NEMENYI_05, DUNN_05):
        assert critical_difference(k, unit_blocks(k)) == pytest.approx(nemenyi, abs=0.002)
        assert bonferroni_dunn(k, unit_blocks(k)) == pytest.approx(dunn, abs=0.002)
        assert critical_difference(k, unit_blocks(k)) == pytest.approx(tukey(k), abs=1e-3)
    assert abs(bonferroni_dunn(9, unit_blocks(9)) - 2.724) > 0.005


@pytest.mark.fact(8, oracle="statsmodels")
@pytest.mark.parametrize(("k", "blocks", "cd"), [(5, 6, 2.4901), (7, 9, 3.0024), (10, 12, 3.9104), (15, 12, 6.1915)])
def test_critical_differences(k, blocks, cd):
    assert critical_difference(k, blocks) == pytest.approx(cd, abs=1e-4)
    assert critical_difference(k, blocks) == pytest.approx(tukey(k) * (unit_blocks(k) / blocks) ** 0.5, abs=2e-3)


@pytest.mark.fact(9)
def test_mean_ranks_against_a_control():
    """With Holm, and with Hochberg and Hommel."""
    p = rank_p(DEMSAR_RANKS, 14)[0, [3, 1, 2]]
    assert p == pytest.approx([0.015720, 0.019172, 0.608408], abs=1e-6)
    assert holm(p) == pytest.approx([0.047160, 0.047160, 0.608408], abs=1e-6)
    assert (holm(p) < 0.05).sum() == 2
    assert hochberg(p) == pytest.approx([0.038345, 0.038345, 0.608408], abs=1e-6)
    assert hommel(p) == pytest.approx([0.031440, 0.038345, 0.608408], abs=1e-6)


@pytest.mark.fact(10)
def test_nemenyi_of_demsars_example():
    p = nemenyi_p(DEMSAR_RANKS, 14)
    upper = [0.088673, 0.956177, 0.074185, 0.259228, 0.999859, 0.226697]
    assert p[np.triu_indices(4, 1)] == pytest.approx(upper, abs=1e-5)
    assert np.all(p == p.T)
    assert np.all(p >= 0.05)
    assert [(i, j) for i, j in combinations(range(4), 2) if p[i, j] < 0.10] == [(0, 1), (0, 3)]


@pytest.mark.fact(9, 10, 12, oracle="scikit-posthocs")
def test_mean_rank_tests_against_scikit_posthocs():
    rng = np.random.default_rng(0)
    for values in (DEMSAR, rng.normal(size=(8, 5)) + np.arange(5) / 3, rng.normal(size=(30, 5))):
        average = block_ranks(values).mean(axis=0)
        nemenyi = np.array(scikit_posthocs.posthoc_nemenyi_friedman(values))
        assert nemenyi_p(average, len(values)) == pytest.approx(nemenyi, abs=1e-5)
        siegel = np.array(scikit_posthocs.posthoc_siegel_friedman(values))
        np.fill_diagonal(siegel, 1)
        assert rank_p(average, len(values)) == pytest.approx(siegel, abs=1e-9)


@pytest.mark.fact(11)
def test_wilcoxon_of_demsars_table():
    """Zeros split, dropped and Pratt's; the values must be those printed with the example, with `voting`."""
    d = DEMSAR[:, 1] - DEMSAR[:, 0]
    found = wilcoxon(d)
    assert (found.plus, found.minus, found.statistic) == (93, 12, 12)
    assert wilcoxon(d, exact=False).p == pytest.approx(0.010968, abs=1e-6)
    assert found.p == 64 / 2**13  # its exact value: the normal one errs by two fifths at 14 blocks
    assert [wilcoxon(d, zeros).statistic for zeros in ("zsplit", "wilcox", "pratt")] == [12, 6.5, 10.5]
    assert [wilcoxon(d, zeros, exact=False).p for zeros in ("wilcox", "pratt")] == pytest.approx(
        [0.0107571, 0.0107920], abs=1e-6
    )


@pytest.mark.fact(14, oracle="scipy")
def test_wilcoxon_of_the_maize():
    found = wilcoxon(MAIZE)
    assert (found.statistic, found.p) == (24, pytest.approx(0.041259765625))
    assert (found.statistic, found.p) == pytest.approx(tuple(scipy.stats.wilcoxon(MAIZE, method="exact")))


@pytest.mark.fact(12, 13, oracle="statsmodels")
def test_rank_sums_of_thirty_datasets():
    """p of all ten pairs, Holm rejects five of them, Nemenyi four; two conventions of the CD."""
    p, nemenyi = rank_p(GARCIA_RANKS, 30), nemenyi_p(GARCIA_RANKS, 30)
    assert [p[pair] for pair in GARCIA_P] == pytest.approx(list(GARCIA_P.values()), rel=1e-6)
    adjusted = holm([p[pair] for pair in GARCIA_P])
    assert (adjusted < 0.05).sum() == 5
    assert adjusted[4] == pytest.approx(0.047781, abs=1e-6)
    assert sum(nemenyi[pair] < 0.05 for pair in GARCIA_P) == 4
    assert critical_difference(5, 30) == pytest.approx(1.113609, abs=1e-6)
    assert critical_difference(5, 30, df=5 * 29) == pytest.approx(1.127747, abs=1e-6)
    for df in (np.inf, 5 * 29):
        assert critical_difference(5, 30, df=df) == pytest.approx(tukey(5, df=df) * (5 * 6 / 6 / 30) ** 0.5, abs=1e-3)


@pytest.mark.fact(26, oracle="closed form")
@pytest.mark.parametrize("blocks", range(5, 12))
def test_smallest_p_of_wilcoxon(blocks):
    assert wilcoxon(np.arange(1.0, blocks + 1)).p == pytest.approx(2 / 2**blocks)
    assert smallest_wilcoxon_p(blocks) == 2 / 2**blocks


@pytest.mark.parametrize(("k", "all_pairs", "one_baseline"), [(3, 7, 7), (5, 9, 8), (7, 10, 8), (10, 11, 9), (12, 12, 9)])
def test_blocks_needed(k, all_pairs, one_baseline):
    """The table of section 1.3, by trying: with one block fewer the clearest possible result is not significant."""
    for comparisons, needed in ((k * (k - 1) // 2, all_pairs), (k - 1, one_baseline)):
        assert blocks_needed(comparisons) == needed
        p = [wilcoxon(np.arange(1.0, n + 1)).p for n in (needed, needed - 1)]
        assert p[0] * comparisons <= 0.05 < p[1] * comparisons


@pytest.mark.fact(26, oracle="brute force")
@given(arrays(np.int64, st.integers(2, 9), elements=st.integers(-4, 4)))
def test_wilcoxon_against_enumeration_of_signs(d):
    """Ties and zeros among the differences; equal columns have p 1."""
    found = wilcoxon(d / 10)
    if not d.any():
        assert found.p == 1
        return
    ranks = scipy.stats.rankdata(np.abs(d))
    half = ranks[d == 0].sum() / 2
    sums = [half + ranks[d != 0] @ np.array(signs) for signs in product([0, 1], repeat=int((d != 0).sum()))]
    middle = ranks.sum() / 2
    far = np.mean([abs(total - middle) >= abs(found.plus - middle) - 1e-9 for total in sums])
    assert found.p == pytest.approx(far)
    assert found.plus + found.minus == pytest.approx(ranks.sum())
    assert wilcoxon(-d / 10).p == pytest.approx(found.p)


@pytest.mark.fact(28, oracle="statsmodels")
def test_pool_dependence_of_mean_ranks():
    """A always just above B; others in the pool decide whether Nemenyi sees it, and never whether Wilcoxon."""
    a, b = np.linspace(0.5, 0.6, 10), np.linspace(0.5, 0.6, 10) - np.arange(1, 11) / 1e4
    pair, crowd = np.stack([a, b], 1), np.stack([a, b, a + 0.1, b - 0.1, b - 0.2], 1)
    for k, cd in ((2, 0.619795), (5, 1.928829)):
        assert critical_difference(k, 10) == pytest.approx(cd, abs=2e-6)
        assert critical_difference(k, 10) == pytest.approx(tukey(k) * (unit_blocks(k) / 10) ** 0.5, abs=1e-3)
    seen = []
    for values in (pair, crowd):
        average = block_ranks(values).mean(axis=0)
        assert average[1] - average[0] == 1
        seen.append(nemenyi_p(average, 10)[0, 1] < 0.05)
        assert wilcoxon(values[:, 0] - values[:, 1]).p == pytest.approx(0.001953, abs=1e-6)
    assert seen == [True, False]


def test_wilcoxon_with_holm():
    values = np.random.default_rng(2).normal(size=(12, 4)) + np.array([0, 1.5, 0.1, 3])
    pairs = wilcoxon_holm(values)
    assert [(pair.first, pair.second) for pair in pairs] == list(combinations(range(4), 2))
    p = [scipy.stats.wilcoxon(values[:, i] - values[:, j]).pvalue for i, j in combinations(range(4), 2)]
    assert [pair.p for pair in pairs] == pytest.approx(p)
    assert [pair.p_adjusted for pair in pairs] == pytest.approx(holm(p))
    against = wilcoxon_holm(values, baseline=2)
    assert [(pair.first, pair.second) for pair in against] == [(0, 2), (1, 2), (3, 2)]
    assert against[2].median == pytest.approx(np.median(values[:, 3] - values[:, 2]))
    assert all(pair.testable for pair in against)
    assert not any(pair.testable for pair in wilcoxon_holm(values[:6], baseline=2))


@settings(max_examples=20, deadline=None)
@given(arrays(float, st.integers(6, 9), elements=st.floats(-1, 1)).filter(lambda d: len(np.unique(np.abs(d))) == len(d)))
def test_walsh_interval_is_the_inverse_of_the_test(d):
    """A shift inside the interval is kept by Wilcoxon's test at the attained level, one outside is rejected."""
    estimate, (low, high), level = walsh_interval(d)
    assert low <= estimate <= high
    assert 0.95 <= level < 1
    averages = np.unique([(x + y) / 2 for x, y in product(d, d)])
    between = (averages[1:] + averages[:-1]) / 2
    for shift in between[np.diff(averages) > 1e-6]:
        kept = scipy.stats.wilcoxon(d - shift, method="exact").pvalue > 1 - level + 1e-9
        assert kept == (low < shift < high)


def test_walsh_interval_needs_six_blocks():
    assert walsh_interval([0.1, 0.2, 0.3, 0.4, 0.5]) == (pytest.approx(0.3), (-np.inf, np.inf), 1.0)
    assert walsh_interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])[1:] == ((0.1, 0.6), pytest.approx(1 - 2 / 64))


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


def test_values_as_printed_change_the_test():
    assert wilcoxon(DEMSAR_AS_PRINTED[:, 2] - DEMSAR_AS_PRINTED[:, 3]).p != wilcoxon(DEMSAR[:, 2] - DEMSAR[:, 3]).p


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ValueError, match="finite"):
        wilcoxon([0.1, np.nan])
    with pytest.raises(ValueError, match="complete"):
        wilcoxon_holm([[0.1, np.nan]])


@pytest.mark.fact(11, oracle="scipy")
@given(arrays(np.int64, st.integers(2, 60), elements=st.integers(-6, 6)).filter(np.any))
def test_normal_wilcoxon_against_scipy(d):
    for zeros in ("zsplit", "wilcox", "pratt"):
        expected = scipy.stats.wilcoxon(d, zero_method=zeros, method="asymptotic")
        found = wilcoxon(d, zeros, exact=False)
        assert (found.p, found.statistic) == pytest.approx((expected.pvalue, expected.statistic))
    assert wilcoxon(np.tile(d, 51)).p == pytest.approx(wilcoxon(np.tile(d, 51), exact=False).p)
