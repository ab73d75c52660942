import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbench.metrics import HITS, breakdown, metrics, realistic, reciprocal


@st.composite
def rankings(draw):
    """(ranks [T, 2, 2], candidates [T, 2]) with 1 <= optimistic <= pessimistic <= candidates."""
    triples = draw(st.integers(1, 8))
    flat = []
    for _ in range(2 * triples):
        candidates = draw(st.integers(1, 40))
        pessimistic = draw(st.integers(1, candidates))
        flat.append((draw(st.integers(1, pessimistic)), pessimistic, candidates))
    flat = np.array(flat, np.int32).reshape(triples, 2, 3)
    return flat[..., :2], flat[..., 2]


@pytest.mark.fact(34, oracle="brute force")
@given(rankings())
def test_metrics_are_what_a_loop_over_queries_counts(ranking):
    ranks, candidates = ranking
    count = reciprocals = total = expected = 0
    hits = dict.fromkeys(HITS, 0)
    for side_ranks, side_candidates in zip(ranks.tolist(), candidates.tolist()):
        for (optimistic, pessimistic), n in zip(side_ranks, side_candidates):
            rank = (optimistic + pessimistic) / 2
            count, total, reciprocals = count + 1, total + rank, reciprocals + 1 / rank
            expected += (n + 1) / 2
            for k in HITS:
                hits[k] += 1 if rank <= k else 0
    found = metrics(ranks, candidates)
    assert found["mrr"] == pytest.approx(reciprocals / count)
    assert found["mr"] == pytest.approx(total / count)
    assert {k: found[f"hits@{k}"] for k in HITS} == pytest.approx({k: hits[k] / count for k in HITS})
    if expected > count:
        assert found["amri"] == pytest.approx(1 - (total / count - 1) / (expected / count - 1))


@given(rankings())
def test_reciprocal_ranks_of_triples_average_to_the_mrr(ranking):
    ranks, candidates = ranking
    assert reciprocal(ranks).shape == (len(ranks),)
    assert reciprocal(ranks).mean() == pytest.approx(metrics(ranks, candidates)["mrr"])
    assert reciprocal(ranks[:, ::-1]) == pytest.approx(reciprocal(ranks))  # the sides are exchangeable


@given(rankings())
def test_side_breakdown_splits_the_queries_between_the_sides(ranking):
    ranks, candidates = ranking
    sides = np.broadcast_to(["head", "tail"], candidates.shape)
    parts = breakdown(ranks, candidates, sides)
    for i, side in enumerate(("head", "tail")):
        assert parts[side] == {**metrics(ranks[:, i], candidates[:, i]), "queries": len(ranks)}
    whole = metrics(ranks, candidates)
    assert (parts["head"]["mrr"] + parts["tail"]["mrr"]) / 2 == pytest.approx(whole["mrr"])


@pytest.mark.parametrize("candidates", [1, 2, 10, 14541])
def test_constant_scorer_has_the_middle_rank_and_no_skill(candidates):
    ranks = np.array([[[1, candidates]] * 2], np.int32)
    found = metrics(ranks, np.full((1, 2), candidates))
    assert realistic(ranks).tolist() == [[(candidates + 1) / 2] * 2]
    assert found["mr"] == (candidates + 1) / 2
    assert found["amri"] == 0
    assert found["hits@1"] == (1.0 if candidates == 1 else 0.0)  # no credit for being first by chance


@pytest.mark.fact(32, oracle="brute force")
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4))
def test_amri_of_a_random_ranking_is_zero(candidates):
    """Its ranks are uniform, so their means over all rankings are those of 1..n."""
    ranks = np.array([[rank, rank] for n in candidates for rank in range(1, n + 1) for _ in range(60 // n)])
    among = np.array([n for n in candidates for _ in range(60 // n * n)])
    assert metrics(ranks, among)["amri"] == pytest.approx(0, abs=1e-9)


def test_breakdown_by_triple_covers_every_query_once():
    ranks = np.array([[[1, 1], [2, 2]], [[4, 4], [8, 8]], [[1, 3], [5, 5]]])
    candidates = np.full((3, 2), 9)
    parts = breakdown(ranks, candidates, ["1-n", "n-1", "1-n"])
    assert list(parts) == ["1-n", "n-1"]
    assert parts["1-n"] == {**metrics(ranks[[0, 2]], candidates[[0, 2]]), "queries": 4}
    assert parts["n-1"]["mr"] == 6


@pytest.mark.parametrize("ranks", [[[0, 1]], [[2, 1]], [[1, 6]], [[np.nan, np.nan]]])
def test_impossible_ranks_are_refused(ranks):
    with pytest.raises(ValueError, match="1 <= optimistic <= pessimistic <= candidates"):
        metrics(np.array(ranks), np.array([5]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no queries"):
        metrics(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ValueError, match="last axis"):
        metrics(np.ones((4, 2)), np.ones(3))
    with pytest.raises(ValueError, match="labels"):
        breakdown(np.ones((3, 2, 2)), np.ones((3, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="2 sides"):
        reciprocal(np.ones((6, 2)))  # queries, where triples belong
