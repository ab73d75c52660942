"""Facts are those of notes/statistics_and_reporting.md, section 5; scipy, enumeration and the papers are the oracles."""

from itertools import product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats import paired
from nsbench.results.stats.clusters import mean_error
from nsbench.results.stats.paired import differences, paired_t, randomisation
from tests.results.stats.examples import MAIZE


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
    """Randomisation and t fall on opposite sides of 0.05."""
    a, b = against_zero(MAIZE)
    exact = 1726 / 32768
    assert randomisation(a, b, rng()) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9_999))
    sums = np.array([np.dot(signs, MAIZE) for signs in product([-1, 1], repeat=15)])
    assert (sums >= 314).sum() == 863
    assert paired_t(a, b).p == pytest.approx(0.049703, abs=1e-6)


@pytest.mark.fact(14, oracle="brute force")
@given(arrays(np.int64, st.integers(2, 9), elements=st.integers(-5, 5)))
def test_randomisation_against_enumeration(d):
    sums = np.abs([np.dot(signs, d) for signs in product([-1, 1], repeat=len(d))])
    exact = np.mean(sums >= abs(d.sum()))
    assert randomisation(*against_zero(d / 7), rng()) == pytest.approx(exact, abs=5 * 0.5 / 9_999**0.5)


def test_randomisation_against_scipy(runs):
    d = differences(*runs)[:12]
    expected = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert randomisation(*against_zero(d), rng()) == pytest.approx(expected.pvalue, abs=4 * 0.5 / 9_999**0.5)


def test_randomisation_and_t_agree_for_thousands_of_triples(runs):
    a, b = runs
    drawn, t = randomisation(a, b, rng()), paired_t(a, b)
    assert drawn == pytest.approx(t.p, abs=0.01)
    expected = scipy.stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    assert (t.p, t.df) == pytest.approx((expected.pvalue, expected.df))
    assert t.interval == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.fact(39, oracle="closed form")
@pytest.mark.parametrize("draws", [9_999, 999])
def test_p_is_never_zero(draws):
    assert randomisation(*against_zero(np.linspace(1, 2, 200)), rng(), draws=draws) == 1 / (draws + 1)


@pytest.mark.fact(37)
def test_sides_and_runs_may_be_swapped(runs):
    """Swapping head and tail changes nothing; swapping the runs flips the difference and keeps p."""
    a, b = runs[0][:400], runs[1][:400]
    hubs = rng(1).integers(0, 90, 400)
    for clusters in (None, hubs):
        forth, back = paired_t(a, b, clusters=clusters), paired_t(b, a, clusters=clusters)
        assert paired_t(a[:, ::-1], b[:, ::-1], clusters=clusters) == forth
        assert (back.difference, back.p) == (-forth.difference, forth.p)
        drawn = randomisation(a, b, rng(), clusters)
        assert randomisation(a[:, ::-1], b[:, ::-1], rng(), clusters) == drawn == randomisation(b, a, rng(), clusters)


@pytest.mark.fact(38)
def test_more_triples_are_more_evidence_and_sides_are_none(runs):
    """Copies of triples lower p; queries in the place of triples have no [T, 2] and are refused."""
    a, b = runs[0][:300], runs[1][:300]
    p = paired_t(a, b).p
    assert paired_t(np.tile(a, (4, 1)), np.tile(b, (4, 1))).p < p
    assert randomisation(np.tile(a, (4, 1)), np.tile(b, (4, 1)), rng()) < randomisation(a, b, rng())
    for test in (paired_t, lambda x, y: randomisation(x, y, rng())):
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.ravel(), b.ravel())
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.reshape(-1, 1), b.reshape(-1, 1))


@pytest.mark.fact(40)
def test_same_seed_same_p_whatever_is_drawn_at_once_and_the_global_state(runs, monkeypatch):
    first = randomisation(*runs, rng(), draws=500)
    np.random.seed(1)
    monkeypatch.setattr(paired, "AT_ONCE", 40)
    assert randomisation(*runs, rng(), draws=500) == first


def test_clusters_flip_as_one():
    draw = rng(5)
    hubs = np.repeat(np.arange(40), draw.integers(1, 30, 40))
    common = draw.normal(0.1, 0.3, 40)[hubs]
    a, b = against_zero(common + draw.normal(0, 0.1, len(hubs)))
    plain, clustered = paired_t(a, b), paired_t(a, b, clusters=hubs)
    assert clustered.inflation > mean_error(common).inflation
    assert clustered.standard_error == pytest.approx(clustered.inflation * plain.standard_error)
    flipped = randomisation(a, b, rng(), hubs)
    assert clustered.clustered
    assert flipped > randomisation(a, b, rng())
    assert flipped == pytest.approx(clustered.p, abs=0.05)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="finite"):
        differences([[1, np.nan]] * 3, [[1, 1]] * 3)
