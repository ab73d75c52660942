"""Ranking against a naive double loop, ties forced; and the labels of a breakdown."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.config.run import configure
from nsbench.contracts.graph import TrainGraph
from nsbench.errors import RunFailed
from nsbench.kernels import native
from nsbench.kernels import operators as kernels
from nsbench.testing.rules import toy
from nsbench.training.evaluation import Ranking, labels, twins
from nsbench.training.trainer import Trainer

N, R = 6, 2
TRIPLE = st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1))
TRIPLES = st.lists(TRIPLE, min_size=1, max_size=12)
KERNELS = ["eager", pytest.param("native", marks=pytest.mark.skipif(kernels.name() != "native", reason="no compiler"))]


class Table:
    """Scores from a table [2 (tail, head), N anchors, R, N candidates]; few distinct values, so many ties."""

    def __init__(self, values):
        self.values = values

    def all(self, anchor, relation, side):
        return self.values[side.long(), anchor, relation]


def table(seed, levels=3):
    return Table(torch.randint(levels, (2, N, R, N), generator=torch.Generator().manual_seed(seed)).float())


def naive(scorer, triples, known, num_entities):
    """For each triple, head then tail: (optimistic, pessimistic) rank and number of candidates."""
    facts, values = set(map(tuple, known)), scorer.values.tolist()
    ranks, candidates = [], []
    for h, r, t in triples:
        both, counts = [], []
        for head in (True, False):
            anchor, answer = (t, h) if head else (h, t)
            score = values[head][anchor][r]
            rivals = [e for e in range(num_entities) if e != answer and ((e, r, t) if head else (h, r, e)) not in facts]
            better = sum(score[e] > score[answer] for e in rivals)
            tied = sum(score[e] == score[answer] for e in rivals)
            both.append([better + 1, better + tied + 1])
            counts.append(len(rivals) + 1)
        ranks.append(both)
        candidates.append(counts)
    return ranks, candidates


def ranking(triples, known, **how):
    known = torch.tensor(known, dtype=torch.int64).reshape(-1, 3)
    return Ranking(torch.tensor(triples), known, N, R, **how)


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(native, "_chosen", request.param)
    return request.param


@pytest.mark.parametrize("choice", KERNELS)
@settings(max_examples=60, deadline=None)
@given(TRIPLES, st.lists(TRIPLE, max_size=20), st.integers(0, 10**6), st.sampled_from([1, 2, 50]))
def test_equals_the_naive_double_loop(choice, triples, others, seed, queries_per_chunk):
    """Triples may repeat, may be among the known facts or not, and share queries."""
    known = others + triples[::2]
    scorer = table(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_chosen", choice)
        ranks, candidates = ranking(triples, known, chunk_bytes=4 * N * queries_per_chunk).ranks(scorer)
    expected_ranks, expected_candidates = naive(scorer, triples, known, N)
    assert ranks.tolist() == expected_ranks
    assert candidates.tolist() == expected_candidates
    assert ranks.dtype == candidates.dtype == torch.int32


def test_the_hub_that_owns_every_other_answer(kernel):
    known = [(e, 0, 5) for e in range(N)]
    ranks, candidates = ranking([(3, 0, 5)], known).ranks(table(0))
    assert ranks[0, 0].tolist() == [1, 1]  # every other head is known, so nothing is left to rank against
    assert candidates[0].tolist() == [1, 6]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_fail_the_run(kernel, value):
    scorer = table(1)
    scorer.values[0, 0, 0, 5] = value  # of a candidate, not of the answer
    with pytest.raises(RunFailed, match="not finite"):
        ranking([(0, 0, 1)], [(0, 0, 5)]).ranks(scorer)


def test_progress_counts_every_query_once():
    heard = []
    triples = [(0, 0, 1), (0, 0, 2), (3, 1, 2)]  # 2 tail queries, 3 head queries
    ranking(triples, [], chunk_bytes=4 * N).ranks(table(0), lambda done, total: heard.append((done, total)))
    assert heard == [(done, 5) for done in range(1, 6)]


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_a_trained_model_is_ranked_as_its_scores_say(kge, kernel):
    data = toy()
    trainer = Trainer(
        configure("uniform", kge, "toy", protocol="quick", settings=["protocol.width=4", "protocol.batch=32"]), data
    )
    for _ in range(10):
        trainer.step()
    scoring = trainer.scoring()
    anchor, relation = torch.cartesian_prod(torch.arange(40), torch.arange(5)).unbind(1)
    values = torch.stack([scoring.all(anchor, relation, torch.full((200,), head)).view(40, 5, 40) for head in (False, True)])
    ranks, candidates = Ranking(data.test, data.known, 40, 5, chunk_bytes=1000).ranks(scoring)
    expected = naive(Table(values), data.test.tolist(), data.known.tolist(), 40)
    assert (ranks.tolist(), candidates.tolist()) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(TRIPLE, min_size=1, max_size=25))
def test_categories_by_dictionaries(triples):
    found = TrainGraph(torch.tensor(triples), N, R + 1).categories()
    for relation in range(R + 1):
        tails, heads = {}, {}
        for h, r, t in triples:
            if r == relation:
                tails.setdefault(h, set()).add(t)
                heads.setdefault(t, set()).add(h)

        def many(sets):
            return bool(sets) and sum(map(len, sets.values())) / len(sets) >= 1.5

        assert found[relation] == f"{'n' if many(heads) else '1'}-{'n' if many(tails) else '1'}"


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_twins_by_sets(train, data):
    """Repeats in train, and facts that are in train themselves, make no twin."""
    triples = data.draw(st.lists(st.one_of(st.sampled_from(train), st.tuples(*[st.integers(0, 2)] * 3)), min_size=1))
    expected = [any((h, other, t) in train for other in {0, 1, 2} - {r}) for h, r, t in triples]
    assert twins(TrainGraph(torch.tensor(train), 3, 3), torch.tensor(triples)).tolist() == expected


def test_labels_of_the_toy():
    data = toy()
    graph = TrainGraph(data.train, 40, 5)
    assert graph.categories() == ["n-n", "1-n", "n-1", "1-1", "1-1"]
    triples = torch.tensor([(0, 2, 39), (20, 0, 1)])
    found = labels(graph, triples)
    assert found["side"] == [["head", "tail"]] * 2
    assert found["category"] == [["n-1"] * 2, ["n-n"] * 2]
    assert found["seen"] == [["seen"] * 2, ["unseen"] * 2]
    facts = set(map(tuple, data.train.tolist()))

    def bin_of(entity):
        degree = sum((h == entity) + (t == entity) for h, _, t in facts)
        return "0" if degree == 0 else "1-3" if degree <= 3 else "4-10" if degree <= 10 else "11+"

    assert found["frequency"] == [[bin_of(h), bin_of(t)] for h, _, t in triples.tolist()]
    assert found["frequency"][0][1] == "11+"
    assert found["frequency"][1][0] == "0"


def test_frequency_bins_at_their_borders():
    triples = [(0, 0, t) for t in range(1, 5)] + [(1, 0, t) for t in range(2, 5)] + [(5, 1, t) for t in range(6, 17)]
    graph = TrainGraph(torch.tensor(triples), 20, 2)  # degrees: 0 and 1: 4, 2..4: 2, 5: 11, 6..16: 1, the rest 0
    found = labels(graph, torch.tensor([(0, 0, 2), (5, 1, 17), (1, 0, 6)]))
    assert found["frequency"] == [["4-10", "1-3"], ["11+", "0"], ["4-10", "1-3"]]
