"""Facts are those of specs/statistics_and_reporting.md, section 5; scipy, enumeration and the papers are the oracles."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from nsbench.results.stats import paired, resampling
from nsbench.results.stats.paired import (
    bootstrap,
    differences,
    effect,
    mcnemar,
    paired_t,
    randomisation,
    rejection_of_equals,
    sign_test,
)
from nsbench.results.stats.resampling import bootstrap_totals, flip_exceedance
from tests.results.examples import MAIZE


def rng(seed=0):
    return np.random.default_rng(seed)


def against_zero(d):
    """Two runs [T, 2] whose triples differ by d [T], unequally on the two sides."""
    d = np.asarray(d, float)
    return np.stack([1.5 * d, 0.5 * d], axis=1), np.zeros((len(d), 2))


@pytest.fixture(scope="module")
def runs():
    """Reciprocal ranks [3000, 2] of two runs, with many triples on which both agree."""
    draw = rng(4)
    a = 1 / draw.geometric(0.1, size=(3000, 2))
    changed = draw.random((3000, 2)) < 0.6
    return a, np.where(changed, 1 / (draw.geometric(0.1, size=(3000, 2)) + draw.integers(0, 2, (3000, 2))), a)


@pytest.mark.fact(14, oracle="brute force")
def test_darwins_maize():
    """Randomisation and t fall on opposite sides of 0.05; with it the sign test of 13 of 15."""
    a, b = against_zero(MAIZE)
    found = randomisation(a, b, rng())
    assert found.exact
    assert found.p == 1726 / 32768
    sums = np.array([np.dot(signs, MAIZE) for signs in product([-1, 1], repeat=15)])
    assert (sums >= 314).sum() == 863
    assert paired_t(a, b).p == pytest.approx(0.049703, abs=1e-6)
    assert sign_test(13, 2) == pytest.approx(0.00738525)


@pytest.mark.fact(15, 27, 42, oracle="scipy")
@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (29, 21, 0.322236),
        (25, 18, 0.360378),
        (11, 3, 0.057373),
        (12, 2, 0.012939),
        (14, 1, 0.000977),
        (30, 15, 0.035698),
    ],
)
def test_sign_test(wins, losses, p):
    """The last is McNemar's 30 against 15."""
    assert sign_test(wins, losses) == pytest.approx(p, abs=1e-6)
    assert sign_test(losses, wins) == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue)


@pytest.mark.fact(42, oracle="statsmodels")
def test_mcnemar_counts_discordant_pairs():
    """On hits."""
    a, b = np.repeat([True, False, True, False], [30, 15, 100, 60]), np.repeat([False, True, True, False], [30, 15, 100, 60])
    assert mcnemar(a, b) == pytest.approx(0.035698, abs=1e-6)
    assert mcnemar(a, b) == pytest.approx(statsmodels_mcnemar([[100, 30], [15, 60]], exact=True).pvalue)
    assert mcnemar(a, a) == 1


@pytest.mark.fact(14, oracle="brute force")
@given(arrays(np.int64, st.integers(2, 9), elements=st.integers(-5, 5)))
def test_exact_randomisation_against_enumeration(d):
    found = randomisation(*against_zero(d / 7), rng())
    sums = np.abs([np.dot(signs, d) for signs in product([-1, 1], repeat=len(d))])
    assert found.exact
    assert found.p == np.mean(sums >= abs(d.sum()))
    assert found.difference == pytest.approx(d.mean() / 7)


def test_randomisation_against_scipy(runs):
    d = differences(*runs)[:12]
    expected = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert randomisation(*against_zero(d), rng()).p == pytest.approx(expected.pvalue)


def test_zeros_do_not_hinder_the_exact_test():
    d = np.concatenate([MAIZE, np.zeros(500)])
    assert randomisation(*against_zero(d), rng())[1:3] == (1726 / 32768, True)


def test_randomisation_bootstrap_and_t_agree_for_thousands_of_triples(runs):
    a, b = runs
    drawn, t, boot = randomisation(a, b, rng()), paired_t(a, b), bootstrap(a, b, rng())
    assert not drawn.exact
    assert drawn.p == pytest.approx(t.p, abs=0.01)
    assert boot.interval == pytest.approx(t.interval, abs=0.1 * t.standard_error)
    expected = scipy.stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    assert (t.p, t.df) == pytest.approx((expected.pvalue, expected.df))
    assert t.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.fact(39, oracle="closed form")
@pytest.mark.parametrize("draws", [9_999, 999])
def test_p_is_never_zero(draws):
    found = randomisation(*against_zero(np.linspace(1, 2, 200)), rng(), draws=draws)
    assert found.p == 1 / (draws + 1)


@pytest.mark.fact(37)
def test_sides_and_runs_may_be_swapped(runs):
    """Swapping head and tail changes nothing; swapping the runs flips the difference and keeps p."""
    a, b = runs[0][:400], runs[1][:400]
    hubs = rng(1).integers(0, 90, 400)
    for clusters in (None, hubs):
        for test in (
            lambda x, y, c=clusters: paired_t(x, y, clusters=c),
            lambda x, y, c=clusters: randomisation(x, y, rng(), clusters=c),
        ):
            forth = test(a, b)
            assert test(a[:, ::-1], b[:, ::-1]) == forth
            back = test(b, a)
            assert (back.difference, back.p) == (-forth.difference, forth.p)
        boot = bootstrap(a, b, rng(), clusters=clusters)
        assert bootstrap(a[:, ::-1], b[:, ::-1], rng(), clusters=clusters) == boot
        low, high = bootstrap(b, a, rng(), clusters=clusters).interval
        assert (-high, -low) == pytest.approx(boot.interval)


@pytest.mark.fact(38)
def test_more_triples_are_more_evidence_and_sides_are_none(runs):
    """Copies of triples lower p; queries in the place of triples have no [T, 2] and are refused."""
    a, b = runs[0][:300], runs[1][:300]
    p = paired_t(a, b).p
    assert paired_t(np.tile(a, (4, 1)), np.tile(b, (4, 1))).p < p
    assert randomisation(np.tile(a, (4, 1)), np.tile(b, (4, 1)), rng()).p < randomisation(a, b, rng()).p
    for test in (paired_t, lambda x, y: randomisation(x, y, rng()), lambda x, y: bootstrap(x, y, rng()), effect):
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.ravel(), b.ravel())
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.reshape(-1, 1), b.reshape(-1, 1))


@pytest.mark.fact(22, oracle="closed form")
def test_clustering_by_triple_is_not_clustering_by_query():
    """G3: the plug-in SE^2 of the mean by triple and by query."""
    sides = np.array([[1, 0.5], [0.2, 0.1], [0.25, 1 / 3], [1, 1], [0.05, 0.1]])
    triple = paired_t(sides, np.zeros((5, 2))).standard_error ** 2 * 4 / 5  # ddof 0
    query = sides.var() / 10
    assert triple == pytest.approx(0.02592556, abs=1e-8)
    assert query == pytest.approx(0.01431000, abs=1e-8)
    assert triple > query


@pytest.mark.fact(41, oracle="closed form")
def test_bootstrap_error_of_a_mean(runs):
    """Within 3 % of sd(ddof 0)/sqrt(T)."""
    d = differences(*runs)
    assert bootstrap(*runs, rng()).standard_error == pytest.approx(d.std() / 3000**0.5, rel=0.03)


def test_bootstrap_interval_against_scipy(runs):
    d = differences(*runs)[:40]
    expected = scipy.stats.bootstrap((d,), np.mean, method="percentile", n_resamples=50_000, rng=rng(1), batch=1000)
    found = bootstrap(*against_zero(d), rng(), draws=50_000)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.02)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval), abs=0.1 * found.standard_error)


@pytest.mark.fact(40)
def test_same_seed_same_bytes_whatever_the_chunk_and_the_global_state(runs, monkeypatch):
    """The totals are exact, so that no order of summing them shows."""
    a, b = runs
    first = bootstrap(a, b, rng(), draws=500), randomisation(a, b, rng(), draws=500)
    np.random.seed(1)
    assert (bootstrap(a, b, rng(), draws=500), randomisation(a, b, rng(), draws=500)) == first
    values = rng(2).normal(size=(37, 3))
    whole = bootstrap_totals(values, 64, rng())
    for chunk in (1, 40, 1000):
        assert bootstrap_totals(values, 64, rng(), chunk=chunk).tobytes() == whole.tobytes()
        assert flip_exceedance(values[:, 0], 64, rng(), chunk=chunk) == flip_exceedance(values[:, 0], 64, rng())
    monkeypatch.setattr(resampling.np, "round", lambda x: x)  # without exact sums a chunk of one does show
    assert bootstrap_totals(values, 64, rng(), chunk=1).tobytes() != bootstrap_totals(values, 64, rng()).tobytes()


def test_drawn_flips_are_fair():
    """Far beyond 16 values: the share of exceedances is the normal tail's."""
    values = rng(3).normal(size=1003)
    values += (1.2 * np.sqrt((values**2).sum()) - values.sum()) / 1003
    p, exact = flip_exceedance(values, 40_000, rng())
    z = values.sum() / np.sqrt((values**2).sum())
    assert not exact
    assert p == pytest.approx(2 * scipy.stats.norm.sf(z), abs=4 * np.sqrt(0.2 / 40_000))


def test_clusters_flip_and_are_drawn_as_one():
    draw = rng(5)
    hubs = np.repeat(np.arange(40), draw.integers(1, 30, 40))
    common = draw.normal(0.1, 0.3, 40)[hubs]
    a, b = against_zero(common + draw.normal(0, 0.1, len(hubs)))
    plain, clustered = paired_t(a, b), paired_t(a, b, clusters=hubs)
    assert clustered.inflation > paired.mean_error(common).inflation
    assert clustered.standard_error == pytest.approx(clustered.inflation * plain.standard_error)
    flipped, drawn = randomisation(a, b, rng(), clusters=hubs), bootstrap(a, b, rng(), clusters=hubs)
    assert clustered.clustered
    assert flipped.clustered
    assert drawn.clustered
    assert flipped.p > randomisation(a, b, rng()).p
    assert flipped.p == pytest.approx(clustered.p, abs=0.05)
    # The closed form of a ratio's variance, to first order: clusters drawn with replacement.
    sums = np.array([(differences(a, b)[hubs == h] - plain.difference).sum() for h in range(40)])
    assert drawn.standard_error == pytest.approx(np.sqrt((sums**2).sum()) / len(hubs), rel=0.05)


def test_independent_triples_keep_the_plain_p_where_clusters_make_it_smaller(runs):
    a, b = runs[0][:200], runs[1][:200]
    d = differences(a, b)
    order = np.argsort(d)
    balanced = np.empty(200, int)
    balanced[order] = np.minimum(np.arange(200), 199 - np.arange(200))  # the largest with the smallest
    assert not paired_t(a, b, clusters=balanced).clustered
    assert paired_t(a, b, clusters=balanced).p == paired_t(a, b).p
    assert randomisation(a, b, rng(), clusters=balanced) == randomisation(a, b, rng())


def test_effects():
    a, b = np.array([[1, 0.5], [0.5, 0.1 + 0.2], [0.2, 0.2]]), np.array([[0.5, 0.5], [0.5, 0.3], [0.5, 0.5]])
    found = effect(a, b)
    assert found[:3] == pytest.approx((1 / 3, 1 / 3, 1 / 3))  # 0.1 + 0.2 is a tie with 0.3
    d = np.array([0.25, 0, -0.3])
    assert found.d_z == pytest.approx(d.mean() / d.std(ddof=1))
    assert effect(a, a) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("seed_sd", "triples", "rate"),
    [(0.001, 3134, 0.083), (0.001, 20466, 0.243), (0.003, 3134, 0.295), (0.003, 20466, 0.638)],
)
def test_single_runs_fool_the_more_the_larger_the_test_set(seed_sd, triples, rate):
    """The table of section 1.0."""
    assert rejection_of_equals(seed_sd, 0.15, triples) == pytest.approx(rate, abs=0.0005)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="finite"):
        differences([[1, np.nan]] * 3, [[1, 1]] * 3)
    with pytest.raises(ValueError, match="same triples"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="counts"):
        sign_test(-1, 2)
