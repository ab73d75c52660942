"""Facts are those of specs/statistics_and_reporting.md, section 5; statsmodels and scipy are the oracles."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.multitest import multipletests

from nsbench.results.stats import multiplicity
from nsbench.results.stats.multiplicity import (
    benjamini_hochberg,
    benjamini_yekutieli,
    bonferroni,
    hochberg,
    holm,
    hommel,
    replicability,
)
from tests.results.examples import BENJAMINI_HOCHBERG

METHODS = {
    "bonferroni": bonferroni,
    "holm": holm,
    "simes-hochberg": hochberg,
    "hommel": hommel,
    "fdr_bh": benjamini_hochberg,
    "fdr_by": benjamini_yekutieli,
}
vectors = arrays(float, st.integers(1, 12), elements=st.floats(0, 1))


@pytest.mark.fact(17)
def test_rejections_of_the_six_methods_on_benjamini_and_hochbergs_data():
    rejected = [int((adjust(BENJAMINI_HOCHBERG) < 0.05).sum()) for adjust in METHODS.values()]
    assert rejected == [3, 3, 3, 3, 4, 3]
    assert holm(BENJAMINI_HOCHBERG)[:5] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140, 0.2211])
    assert benjamini_hochberg(BENJAMINI_HOCHBERG)[:5] == pytest.approx([0.0015, 0.0030, 0.0095, 0.035625, 0.0603])


@pytest.mark.fact(9, 18)
@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.015720, 0.019172, 0.608408], [0.047160, 0.047160, 0.608408]),  # Demšar 2006, Table 6
        ([0.0001, 0.0004, 0.0019] + [0.5] * 12, [0.0015, 0.0056, 0.0247] + [1.0] * 12),  # its head: B. and H. 1995
        ([], []),
    ],
)
def test_holm_on_published_examples(raw, adjusted):
    """F9."""
    assert holm(raw).tolist() == pytest.approx(adjusted, abs=1e-12)


@pytest.mark.fact(17, 18, oracle="statsmodels")
@pytest.mark.parametrize("method", METHODS)
def test_adjusted_p_against_statsmodels(method):
    """p that are even, small, tied, 0 and 1. (statsmodels takes 0.1 s for Holm.)"""
    rng = np.random.default_rng(0)
    for p in (rng.uniform(size=9), rng.uniform(size=40) ** 4, rng.integers(0, 6, 12) / 5 * 0.1, np.array([0, 1, 0.02])):
        assert METHODS[method](p) == pytest.approx(multipletests(p, method=method)[1], abs=1e-12)


def test_false_discovery_rates_against_scipy():
    p = np.random.default_rng(0).uniform(size=40) ** 3
    assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p, method="bh"))
    assert benjamini_yekutieli(p) == pytest.approx(scipy.stats.false_discovery_control(p, method="by"))


@given(p=arrays(float, st.integers(1, 6), elements=st.floats(0, 1)))
def test_hommel_is_the_closure_of_simes_test(p):
    """By its definition: the largest Simes p over all intersections that contain the hypothesis."""
    expected = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for subset in combinations(range(len(p)), size):
            simes = min(size * value / (rank + 1) for rank, value in enumerate(sorted(p[list(subset)])))
            for i in subset:
                expected[i] = max(expected[i], simes)
    assert hommel(p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.fact(18)
@pytest.mark.parametrize("adjust", METHODS.values(), ids=METHODS)
@given(p=vectors, seed=st.integers(0, 99))
def test_adjusted_p_is_monotone_above_raw_and_follows_a_permutation(adjust, p, seed):
    adjusted, order = adjust(p), np.random.default_rng(seed).permutation(len(p))
    assert np.all(adjusted >= p - 1e-15)
    assert np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-15)
    assert adjust(p[order]) == pytest.approx(adjusted[order])


def test_methods_order_by_strength():
    p = np.random.default_rng(1).uniform(size=30) ** 2
    chain = [bonferroni(p), holm(p), hochberg(p), hommel(p), benjamini_hochberg(p)]
    assert all(np.all(strict >= lenient - 1e-15) for strict, lenient in pairwise(chain))


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("p", "independent", "adjusted", "at_least"),
    [
        ([0.001, 0.01, 0.02, 0.3], False, [0.004, 0.03, 0.04, 0.3], 3),
        ([0.01, 0.02, 0.03, 0.04], False, [0.04, 0.06, 0.06, 0.06], 1),
        ([0.04, 0.01, 0.03, 0.02], True, [0.000173, 0.001637, 0.009271, 0.04], 4),
    ],
)
def test_on_how_many_datasets_a_claim_holds(p, independent, adjusted, at_least):
    """G6: all four p below 0.05, and by Bonferroni only one dataset is sure."""
    found = replicability(p, independent=independent)
    assert found.adjusted == pytest.approx(adjusted, abs=1e-6)
    assert found.at_least == at_least


@pytest.mark.fact(25, oracle="scipy")
@given(p=arrays(float, st.integers(1, 8), elements=st.floats(1e-6, 1)))
def test_fishers_combination_against_scipy(p):
    expected = [scipy.stats.combine_pvalues(np.sort(p)[u:], method="fisher").pvalue for u in range(len(p))]
    assert replicability(p, independent=True).adjusted == pytest.approx(np.maximum.accumulate(expected))


@pytest.mark.parametrize("name", ["bonferroni", "hochberg", "hommel", "benjamini_hochberg", "replicability"])
def test_what_is_no_vector_of_p_values_is_refused(name):
    for p in ([np.nan], [-0.1], [1.1], [[0.5]]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            getattr(multiplicity, name)(p)
