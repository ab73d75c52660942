"""The numbers come from specs/statistics_and_reporting.md (G1, F8, F9, F3, fact 44), recomputed there by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.errors import Misuse
from nsbench.results.statistics import holm, sd, t_interval, two_way_t

A = np.array([[0.50, 0.20, 1.0, 0.10, 0.40], [0.50, 0.25, 1.0, 0.20, 0.50], [0.40, 0.20, 0.90, 0.10, 0.50]])
B = np.array([[0.40, 0.20, 0.80, 0.10, 0.30], [0.50, 0.10, 0.90, 0.10, 0.40], [0.40, 0.15, 0.70, 0.05, 0.40]])


def test_two_way_t_on_the_worked_example():
    found = two_way_t(A, B, minimum_seeds=3)
    assert found.difference == pytest.approx(1 / 12)
    assert found.standard_error == pytest.approx(0.0360555, rel=1e-5)
    assert found.df == pytest.approx(7.701266, rel=1e-6)
    assert found.p == pytest.approx(0.0508065, rel=1e-5)
    assert found.interval == pytest.approx((-0.0003756, 0.1670422), abs=1e-6)


def test_two_way_t_against_scipy_when_one_source_of_variance_is_left():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 1)) + np.zeros((6, 50)), rng.normal(1, 2, size=(9, 1)) + np.zeros((9, 50))
    welch = scipy.stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)  # all triples alike: Welch's t on seeds
    found = two_way_t(a, b)
    assert (found.p, found.df) == pytest.approx((welch.pvalue, welch.df))
    assert found.interval == pytest.approx(tuple(welch.confidence_interval()))

    a, b = np.tile(rng.normal(size=50), (5, 1)), np.tile(rng.normal(0.5, 1, size=50), (5, 1))
    paired = scipy.stats.ttest_rel(a[0], b[0])  # all seeds alike: the paired t over triples
    assert two_way_t(a, b).p == pytest.approx(paired.pvalue)


@given(arrays(float, (5, 12), elements=st.floats(0, 1)), arrays(float, (6, 12), elements=st.floats(0, 1)))
def test_two_way_t_is_symmetric_and_its_interval_agrees_with_p(a, b):
    forth, back = two_way_t(a, b), two_way_t(b, a)
    assert back.difference == -forth.difference
    assert back.p == forth.p
    assert back.interval == pytest.approx((-forth.interval[1], -forth.interval[0]))
    assert 0 <= forth.p <= 1
    low, high = forth.interval
    if abs(forth.p - 0.05) > 1e-6:
        assert (forth.p < 0.05) == (not low <= 0 <= high)


def test_more_triples_and_more_seeds_sharpen_the_test():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.02, 0.1, size=(5, 40)), rng.normal(0, 0.1, size=(5, 40))
    assert two_way_t(np.tile(a, 4), np.tile(b, 4)).standard_error < two_way_t(a, b).standard_error
    assert two_way_t(np.tile(a, (4, 1)), np.tile(b, (4, 1))).df > two_way_t(a, b).df


def test_identical_arms_have_p_one_and_a_constant_difference_no_error():
    same = two_way_t(np.ones((5, 4)), np.ones((5, 4)))
    assert (same.difference, same.p) == (0, 1)
    constant = two_way_t(np.full((5, 4), 0.75), np.full((5, 4), 0.5))
    assert constant == (0.25, 0, np.inf, 0, (0.25, 0.25))


def test_tiny_variances_do_not_underflow():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 30)), rng.normal(size=(5, 30))
    assert two_way_t(a * 1e-120, b * 1e-120).p == pytest.approx(two_way_t(a, b).p)


def test_too_few_seeds_are_refused_unless_asked_for():
    with pytest.raises(Misuse, match="at least 5 seeds on each side and here is 3"):
        two_way_t(A, B)
    with pytest.raises(Misuse, match="here is 1"):
        two_way_t(A[:1], B, minimum_seeds=2)
    with pytest.raises(ValueError, match="two seeds"):
        two_way_t(A, B, minimum_seeds=1)
    with pytest.raises(ValueError, match="same triples"):
        two_way_t(A, B[:, :4])


def simulate(rng, seeds, triples=150, effect=0.0):
    """Two samplers of equal mean: triples' difficulty, seed sd 0.003, sampler-by-triple sd 0.10, residual sd 0.08."""
    difficulty = rng.normal(0, 0.3, triples)
    arms = []
    for shift in (effect, 0.0):
        own = difficulty + rng.normal(0, 0.1, triples)
        seed = rng.normal(0, 0.003, (seeds, 1))
        arms.append(shift + own + seed + rng.normal(0, 0.08, (seeds, triples)))
    return arms


def rejection_rate(repetitions, seeds, effect=0.0, minimum=5):
    rng = np.random.default_rng(20240717)
    p = [two_way_t(*simulate(rng, seeds, effect=effect), minimum_seeds=minimum).p for _ in range(repetitions)]
    return np.mean(np.array(p) < 0.05)


def test_two_way_t_keeps_its_size_where_pooling_does_not():
    repetitions = 1000
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
    assert 0.02 < rejection_rate(repetitions, seeds=5) < bound

    rng = np.random.default_rng(20240717)
    pooled = []
    for _ in range(200):
        a, b = simulate(rng, seeds=5)
        pooled.append(scipy.stats.ttest_rel(a.ravel(), b.ravel()).pvalue < 0.05)
    assert np.mean(pooled) > 2 * bound  # what the test is there to avoid


def test_two_way_t_sees_a_real_difference():
    assert rejection_rate(200, seeds=5, effect=0.05) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_size_of_the_two_way_t(seeds):
    repetitions = 20_000
    rate = rejection_rate(repetitions, seeds, minimum=3)
    assert 0.025 < rate < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.015720, 0.019172, 0.608408], [0.047160, 0.047160, 0.608408]),  # Demšar 2006, Table 6
        ([0.0001, 0.0004, 0.0019] + [0.5] * 12, [0.0015, 0.0056, 0.0247] + [1.0] * 12),  # its head: B. and H. 1995
        ([], []),
    ],
)  # fmt: skip
def test_holm_on_published_examples(raw, adjusted):
    assert holm(raw).tolist() == pytest.approx(adjusted, abs=1e-12)


@given(arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_is_monotone_above_raw_and_does_not_depend_on_order(p):
    adjusted = holm(p)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= 1)
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)
    assert holm(p[::-1])[::-1] == pytest.approx(adjusted)


def test_holm_against_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).uniform(size=40) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


@pytest.mark.parametrize("p", [[np.nan], [-0.1], [1.1], [[0.5]]])
def test_holm_refuses_what_is_no_vector_of_p_values(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p)


def test_spread_over_seeds():
    values = [0.341, 0.343, 0.348]
    assert sd(values) == pytest.approx(0.00360555, rel=1e-5)
    assert t_interval(values) == pytest.approx((0.335043, 0.352957), abs=1e-6)
    with pytest.raises(ValueError, match="two values"):
        sd([0.3])
