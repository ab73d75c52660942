"""Facts are those of specs/statistics_and_reporting.md, section 5; enumeration is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbench.metrics import chance, metrics, realistic
from nsbench.results.stats.ties import adjusted, chance_sd, random_ties, tie_share

ties = st.tuples(st.integers(1, 60), st.integers(0, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@pytest.mark.fact(31, 36)
@pytest.mark.parametrize(
    ("tie", "rank", "reciprocal", "random", "optimistic", "first"),
    [
        ((1, 2), 1.5, 0.666667, 0.75, 1, 0.5),
        ((1, 3), 2, 0.5, 0.611111, 1, 0.333333),
        ((5, 8), 6.5, 0.153846, 0.158631, 0.2, 0),
        ((1, 10), 5.5, 0.181818, 0.292897, 1, 0.1),
        ((1, 14541), 7271, 0.0001375, 0.0006988, 1, 0.0000688),
    ],
)
def test_table_of_ties(tie, rank, reciprocal, random, optimistic, first):
    """Every row of section 1.9."""
    ranks = np.array([tie])
    assert realistic(ranks) == rank
    found = random_ties(ranks)
    assert 1 / realistic(ranks)[0] == pytest.approx(reciprocal, abs=1e-6)
    assert found["mrr"][0] == pytest.approx(random, abs=1e-6)
    assert found["hits@1"][0] == pytest.approx(first, abs=1e-6)
    assert metrics(np.array([[tie[0]] * 2]), [tie[1]])["mrr"] == optimistic


@pytest.mark.fact(36)
def test_constant_scores_of_ten_candidates():
    found = metrics(np.array([[1, 10]]), [10])
    assert (found["mr"], found["mrr"], found["hits@1"]) == (5.5, pytest.approx(0.181818, abs=1e-6), 0)
    assert metrics(np.array([[1, 1]]), [10])["hits@1"] == 1
    assert random_ties(np.array([1, 10]))["hits@1"] == pytest.approx(0.1)


@pytest.mark.fact(31, 36, oracle="brute force")
@given(ties)
def test_random_ties_against_the_mean_over_the_tie(tie):
    """E[RR] >= RR(realistic), equal if and only if there is no tie."""
    places = np.arange(tie[0], tie[1] + 1)
    found = random_ties(np.array([tie]))
    assert found["mrr"][0] == pytest.approx(np.mean(1 / places))
    for k in (1, 3, 10):
        assert found[f"hits@{k}"][0] == pytest.approx(np.mean(places <= k))
    gap = found["mrr"][0] - 1 / realistic(np.array(tie))
    assert gap == pytest.approx(0, abs=1e-12) if tie[0] == tie[1] else gap > 1e-9


@pytest.mark.fact(32)
@pytest.mark.parametrize(
    ("n", "mean", "sd"),
    [
        (4, 0.520833, 0.290922),
        (100, 0.0518738, 0.116872),
        (14541, 0.000698850, 0.0106128),
        (15000, 0.000679537, 0.0104497),
        (40943, 0.000273482, 0.00633252),
    ],
)
def test_mean_and_spread_of_a_random_reciprocal_rank(n, mean, sd):
    assert chance([n])["mrr"] == pytest.approx(mean, rel=1e-5)
    assert chance_sd([n])["mrr"] == pytest.approx(sd, rel=1e-5)


@pytest.mark.fact(32, 33, oracle="brute force")
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_spread_by_chance_against_enumeration(candidates):
    found = chance_sd(candidates)
    expected = dict.fromkeys(found, 0.0)
    for n in candidates:
        rank = np.arange(1, n + 1)
        for name, values in {"mrr": 1 / rank, "mr": rank, **{f"hits@{k}": rank <= k for k in (1, 3, 10)}}.items():
            expected[name] += np.var(values) / len(candidates) ** 2
    assert found == pytest.approx({name: variance**0.5 for name, variance in expected.items()})


@pytest.mark.fact(33)
def test_adjusted_figures_of_the_toy():
    toy = np.array([1, 1, 2, 4])
    found = adjusted(np.stack([toy, toy], axis=1), np.full(4, 4))
    assert found["amr"] == pytest.approx(0.8)
    assert found["amri"] == pytest.approx(1 / 3)
    assert found["adjusted_mrr"] == pytest.approx(8 / 23)
    assert found["adjusted_hits@1"] == pytest.approx(1 / 3)
    assert found["z_mr"] == pytest.approx(0.894427, abs=1e-6)
    assert found["z_mrr"] == pytest.approx(1.145784, abs=1e-6)


@pytest.mark.fact(33)
def test_random_ranks_are_at_chance():
    """z has mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    candidates = rng.integers(50, 200, size=(400, 500))
    ranks = rng.integers(1, candidates + 1)
    found = [adjusted(np.stack([r, r], axis=1), n) for r, n in zip(ranks, candidates)]
    for name in ("amri", "adjusted_mrr", "adjusted_hits@10"):
        assert abs(np.mean([each[name] for each in found])) < 0.005
    for name in ("z_mr", "z_mrr", "z_hits@3"):
        z = np.array([each[name] for each in found])
        assert abs(z.mean()) < 4 / 20
        assert z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * 400))


def test_a_perfect_scorer_is_adjusted_to_one():
    found = adjusted(np.ones((3, 2)), np.full(3, 7))
    assert [found[f"adjusted_{name}"] for name in ("mrr", "hits@1", "hits@3", "hits@10")] == [1, 1, 1, 0]
    assert adjusted(np.ones((1, 2)), [1])["z_mr"] == 0  # nothing to rank against


def test_share_of_ties():
    share, gap = tie_share(np.array([[[1, 1], [2, 4]], [[3, 3], [5, 5]]]))
    assert share == 0.25
    assert gap == pytest.approx((1 / 2 - 1 / 4) / 4)
