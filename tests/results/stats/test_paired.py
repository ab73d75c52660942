"""Facts are those of notes/statistics_and_reporting.md, section 5; scipy, enumeration and the papers are the oracles."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nsbench.results.stats import resampling
from nsbench.results.stats.clusters import mean_error
from nsbench.results.stats.paired import differences, paired_t, randomisation
from nsbench.results.stats.resampling import bootstrap_totals, flip_exceedance
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
    found = randomisation(a, b, rng())
    assert found.exact
    assert found.p == 1726 / 32768
    sums = np.array([np.dot(signs, MAIZE) for signs in product([-1, 1], repeat=15)])
    assert (sums >= 314).sum() == 863
    assert paired_t(a, b).p == pytest.approx(0.049703, abs=1e-6)


@pytest.mark.fact(14, oracle="brute force")
@given(arrays(np.int64, st.integers(2, 9), elements=st.integers(-5, 5)))
def test_exact_randomisation_against_enumeration(d):
    found = randomisation(*against_zero(d / 7), rng())
    sums = np.abs([np.dot(signs, d) for signs in product([-1, 1], repeat=len(d))])
    assert found.exact
    assert found.p == np.mean(sums >= abs(d.sum()))
    assert found.difference == pytest.approx(d.mean() / 7)


def test_zeros_do_not_hinder_the_exact_test():
    d = np.concatenate([MAIZE, np.zeros(500)])
    assert randomisation(*against_zero(d), rng())[1:3] == (1726 / 32768, True)


def test_randomisation_and_t_agree_for_thousands_of_triples(runs):
    a, b = runs
    drawn, t = randomisation(a, b, rng()), paired_t(a, b)
    assert not drawn.exact
    assert drawn.p == pytest.approx(t.p, abs=0.01)
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


@pytest.mark.fact(38)
def test_more_triples_are_more_evidence_and_sides_are_none(runs):
    """Copies of triples lower p; queries in the place of triples have no [T, 2] and are refused."""
    a, b = runs[0][:300], runs[1][:300]
    p = paired_t(a, b).p
    assert paired_t(np.tile(a, (4, 1)), np.tile(b, (4, 1))).p < p
    assert randomisation(np.tile(a, (4, 1)), np.tile(b, (4, 1)), rng()).p < randomisation(a, b, rng()).p
    for test in (paired_t, lambda x, y: randomisation(x, y, rng())):
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.ravel(), b.ravel())
        with pytest.raises(ValueError, match=r"must both be \[T, 2 sides\]"):
            test(a.reshape(-1, 1), b.reshape(-1, 1))


@pytest.mark.fact(40)
def test_same_seed_same_bytes_whatever_the_chunk_and_the_global_state(runs, monkeypatch):
    """The totals are exact, so that no order of summing them shows."""
    a, b = runs
    first = randomisation(a, b, rng(), draws=500)
    np.random.seed(1)
    assert randomisation(a, b, rng(), draws=500) == first
    values = rng(2).normal(size=(37, 3))
    whole = bootstrap_totals(values, 64, rng())
    for chunk in (1, 40, 1000):
        assert bootstrap_totals(values, 64, rng(), chunk=chunk).tobytes() == whole.tobytes()
        assert flip_exceedance(values[:, 0], 64, rng(), chunk=chunk) == flip_exceedance(values[:, 0], 64, rng())
    monkeypatch.setattr(resampling.np, "round", lambda x: x)  # without exact sums a chunk of one does show
    assert bootstrap_totals(values, 64, rng(), chunk=1).tobytes() != bootstrap_totals(values, 64, rng()).tobytes()


def test_clusters_flip_as_one():
    draw = rng(5)
    hubs = np.repeat(np.arange(40), draw.integers(1, 30, 40))
    common = draw.normal(0.1, 0.3, 40)[hubs]
    a, b = against_zero(common + draw.normal(0, 0.1, len(hubs)))
    plain, clustered = paired_t(a, b), paired_t(a, b, clusters=hubs)
    assert clustered.inflation > mean_error(common).inflation
    assert clustered.standard_error == pytest.approx(clustered.inflation * plain.standard_error)
    flipped = randomisation(a, b, rng(), clusters=hubs)
    assert clustered.clustered
    assert flipped.clustered
    assert flipped.p > randomisation(a, b, rng()).p
    assert flipped.p == pytest.approx(clustered.p, abs=0.05)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="finite"):
        differences([[1, np.nan]] * 3, [[1, 1]] * 3)
