"""Facts are those of docs/notes/statistics_and_reporting.md, section 5; scipy, statsmodels and enumeration are oracles.

(statsmodels is imported where it is used: that takes seconds.)
"""

from itertools import product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats import statistics
from nsbench.results.stats.paired import randomisation
from nsbench.results.stats.statistics import (
    crossed_bootstrap,
    percentile_interval,
    prediction_interval,
    sd,
    t_interval,
    two_way_t,
)

A = np.array([[0.50, 0.20, 1.0, 0.10, 0.40], [0.50, 0.25, 1.0, 0.20, 0.50], [0.40, 0.20, 0.90, 0.10, 0.50]])
B = np.array([[0.40, 0.20, 0.80, 0.10, 0.30], [0.50, 0.10, 0.90, 0.10, 0.40], [0.40, 0.15, 0.70, 0.05, 0.40]])


@pytest.mark.fact(20)
def test_two_way_t_on_the_worked_example():
    """G1: seed means 0.44, 0.49, 0.42 and 0.36, 0.40, 0.34; every term by its definition."""
    terms = []
    for arm in (A, B):
        rest = arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean()
        terms.append((arm.mean(axis=1).var(ddof=1) / 3, 2))
        assert rest.shape == (3, 5)
    d = A - B
    rest = d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean()
    held = (rest**2).sum() / (2 * 4) / d.size
    triples = d.mean(axis=0).var(ddof=1) / 5
    found = two_way_t(A, B)
    variance = triples + max(0, sum(v for v, _ in terms) - held)
    assert found.difference == pytest.approx(1 / 12)
    assert found.standard_error**2 == pytest.approx(variance)
    df = variance**2 / (sum(v**2 / n for v, n in terms) + held**2 / 8 + triples**2 / 4)
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(found.difference / found.standard_error, df))
    averaged = [np.repeat(arm.mean(axis=0)[:, None], 2, axis=1) for arm in (A, B)]
    assert randomisation(*averaged, np.random.default_rng(0)) == pytest.approx(2 / 32, abs=0.01)


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


def test_identical_arms_have_p_one_and_a_constant_difference_no_error():
    same = two_way_t(np.ones((5, 4)), np.ones((5, 4)))
    assert (same.difference, same.p) == (0, 1)
    constant = two_way_t(np.full((5, 4), 0.75), np.full((5, 4), 0.5))
    assert constant[:5] == (0.25, 0, np.inf, 0, (0.25, 0.25))


def test_tiny_variances_do_not_underflow():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 30)), rng.normal(size=(5, 30))
    assert two_way_t(a * 1e-120, b * 1e-120).p == pytest.approx(two_way_t(a, b).p)


def test_what_has_no_variance_is_refused():
    with pytest.raises(ValueError, match="two seeds"):
        two_way_t(A[:1], B)
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


def rejection_rate(repetitions, seeds, effect=0.0):
    rng = np.random.default_rng(20240717)
    p = [two_way_t(*simulate(rng, seeds, effect=effect)).p for _ in range(repetitions)]
    return np.mean(np.array(p) < 0.05)


def test_two_way_t_keeps_its_size():
    repetitions = 1000
    bound = 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)
    assert 0.02 < rejection_rate(repetitions, seeds=5) < bound


def test_two_way_t_sees_a_real_difference():
    assert rejection_rate(200, seeds=5, effect=0.05) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_size_of_the_two_way_t(seeds):
    repetitions = 20_000
    rate = rejection_rate(repetitions, seeds)
    assert 0.025 < rate < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repetitions)


def anova(y):
    """The analysis of variance of y [6 seeds, 40 triples], by statsmodels."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    frame = pd.DataFrame({"y": y.ravel(), "seed": np.repeat(np.arange(6), 40), "triple": np.tile(np.arange(40), 6)})
    return anova_lm(ols("y ~ C(seed) + C(triple)", frame).fit())


@pytest.mark.fact(20, oracle="statsmodels")
def test_two_way_t_of_arms_whose_seeds_begin_alike():
    """Seeds from each arm's own analysis of variance; triples and their interaction with seeds from that of a - b."""

    rng = np.random.default_rng(9)
    alike = rng.normal(0, 0.1, (6, 40))
    arms = [rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.2, 40) + alike + rng.normal(0, 0.02, (6, 40)) for _ in range(2)]
    tables = []
    for y in (*arms, arms[0] - arms[1]):
        table = anova(y)
        tables.append((table["sum_sq"] / table["df"] / y.size, table["df"]))
    parts = [(tables[0], "C(seed)", 1), (tables[1], "C(seed)", 1), (tables[2], "C(triple)", 1), (tables[2], "Residual", -1)]
    variance = sum(sign * share[source] for (share, _), source, sign in parts)
    found = two_way_t(*arms)
    assert found.standard_error**2 == pytest.approx(variance)
    assert found.df == pytest.approx(variance**2 / sum(share[source] ** 2 / df[source] for (share, df), source, _ in parts))


def test_clusters_enter_the_triples_term():
    import statsmodels.api as sm

    rng = np.random.default_rng(2)
    hubs = np.repeat(np.arange(25), 8)
    a = rng.normal(0, 0.1, (5, 200)) + rng.normal(0, 0.2, 25)[hubs]
    b = rng.normal(0, 0.1, (5, 200))
    plain, clustered = two_way_t(a, b), two_way_t(a, b, clusters=hubs)
    fit = sm.OLS(a.mean(axis=0) - b.mean(axis=0), np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": hubs})
    seeds = 0.0  # of balanced arms: mean squares of seeds less those of the residuals, over S T
    for arm in (a, b):
        rest = arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean()
        seeds += arm.mean(axis=1).var(ddof=1) / 5 - (rest**2).sum() / (4 * 199) / arm.size
    assert clustered.standard_error**2 == pytest.approx(max(seeds, 0) + fit.cov_params()[0, 0])
    assert clustered.inflation > 1.25
    assert clustered.p > plain.p
    assert clustered.df < plain.df


# The crossed bootstrap

Y = np.array([[0.2, 0.5, 1, 0.1], [0.3, 0.4, 0.9, 0.2], [0.1, 0.6, 0.8, 0.5]])


@pytest.mark.fact(21, oracle="brute force")
def test_crossed_bootstrap_variance_has_a_closed_form():
    """G2: against the enumeration of all 27 x 256 resamples, whose seeds' part is then widened by S/(S - 1) = 1.5."""
    rows = np.array(list(product(range(3), repeat=3)))
    columns = np.array(list(product(range(4), repeat=4)))
    means = Y[rows[:, None, :, None], columns[None, :, None, :]].mean(axis=(2, 3))
    assert means.shape == (27, 256)
    assert means.var() == pytest.approx(0.0199074074, abs=1e-10)
    assert sum(variances(Y)) == pytest.approx(means.var())
    seeds, triples, interaction = variances(Y)
    drawn = crossed_bootstrap(Y, np.zeros((2, 4)), np.random.default_rng(0), draws=200_000)
    assert drawn.mean() == pytest.approx(Y.mean(), abs=0.002)
    assert drawn.var() == pytest.approx(1.5 * (seeds + interaction) + triples, rel=0.02)


def variances(y):
    """The bootstrap variance of the mean of y [S, T] by source (Owen 2007): seeds, triples, interaction."""
    seeds, triples = y.mean(axis=1) - y.mean(), y.mean(axis=0) - y.mean()
    rest = y - y.mean() - seeds[:, None] - triples
    s, t = y.shape
    return seeds @ seeds / s**2, triples @ triples / t**2, (rest**2).sum() / (s * t) ** 2


def test_crossed_bootstrap_of_a_difference_lets_shared_difficulty_cancel():
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 0.3, 400)
    a, b = (difficulty + rng.normal(0, 0.05, (5, 400)) + rng.normal(0, 0.01, (5, 1)) for _ in range(2))
    found = crossed_bootstrap(a, b, np.random.default_rng(0))
    parts = [variances(arm) for arm in (a, b)]
    of_triples = (a.mean(axis=0) - b.mean(axis=0)).var() / 400
    expected = of_triples + 1.25 * sum(seeds + interaction for seeds, _, interaction in parts)
    assert found.var() == pytest.approx(expected, rel=0.05)
    t = two_way_t(a, b)
    assert found.mean() == pytest.approx(a.mean() - b.mean(), abs=0.05 * t.standard_error)
    assert found.std() < crossed_bootstrap(a, np.zeros((2, 400)), np.random.default_rng(0)).std() / 1.5
    assert percentile_interval(found) == pytest.approx(t.interval, abs=0.5 * t.standard_error)


def test_crossed_bootstrap_draws_whole_clusters():
    rng = np.random.default_rng(4)
    hubs = np.repeat(np.arange(30), 10)
    y = rng.normal(0, 0.1, (5, 300)) + rng.normal(0, 0.3, 30)[hubs]
    by_hub = y.reshape(5, 30, 10).mean(axis=2)  # equal sizes: a triple per hub
    found = crossed_bootstrap(y, np.zeros((2, 300)), np.random.default_rng(0), clusters=hubs)
    np.testing.assert_allclose(found, crossed_bootstrap(by_hub, np.zeros((2, 30)), np.random.default_rng(0)), rtol=1e-9)


@pytest.mark.fact(40)
def test_crossed_bootstrap_is_reproducible_whatever_is_drawn_at_once(monkeypatch):
    rng = np.random.default_rng(5)
    a, b = rng.uniform(size=(5, 200)), rng.uniform(size=(6, 200))
    first = crossed_bootstrap(a, b, np.random.default_rng(0), draws=300)
    np.random.seed(3)
    monkeypatch.setattr(statistics, "AT_ONCE", 1)
    np.testing.assert_allclose(crossed_bootstrap(a, b, np.random.default_rng(0), draws=300), first, atol=1e-14)
    assert not np.allclose(crossed_bootstrap(a, b, np.random.default_rng(1), draws=300), first)


def test_crossed_arrays_are_asked_for():
    with pytest.raises(ValueError, match="same triples"):
        crossed_bootstrap(np.ones((3, 4)), np.ones((3, 5)), np.random.default_rng(0))


@pytest.mark.fact(44, oracle="scipy")
def test_spread_over_seeds():
    values = [0.341, 0.343, 0.348]
    assert sd(values) == pytest.approx(0.00360555, rel=1e-5)
    assert t_interval(values) == pytest.approx((0.335043, 0.352957), abs=1e-6)
    assert sd(values) == pytest.approx(scipy.stats.tstd(values))
    assert t_interval(values) == pytest.approx(scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values)))
    with pytest.raises(ValueError, match="two values"):
        sd([0.3])


@pytest.mark.fact(43, oracle="scipy")
@pytest.mark.parametrize(("seeds", "factor"), [(3, 4.968275), (5, 3.041443), (10, 2.372570)])
def test_prediction_interval_for_one_new_run(seeds, factor):
    values = np.arange(seeds, dtype=float)
    low, high = prediction_interval(values)
    assert (high - low) / 2 == pytest.approx(factor * sd(values), rel=1e-6)
    assert factor == pytest.approx(scipy.stats.t.isf(0.025, seeds - 1) * (1 + 1 / seeds) ** 0.5, rel=1e-6)
    assert (high + low) / 2 == pytest.approx(values.mean())
