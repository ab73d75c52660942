"""Keys, membership, and the exact kernel of docs/notes/classic_samplers.md 0.3."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.contracts.graph import NonPositives, TrainGraph

N, R = 7, 3
TRIPLES = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1)), min_size=1, max_size=40)


def enumerated(kernel, key, free):
    """What the kernel returns for each rank 0 .. free - 1, from evenly spaced numbers in place of random ones."""

    def rand(rows, k, **_):
        return ((torch.arange(k, dtype=torch.float64) + 0.5) / k).repeat(rows, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        return kernel.draw(torch.tensor([key]), free, None)[0].tolist()


@settings(max_examples=50, deadline=None)
@given(TRIPLES)
def test_kernel_enumerates_the_complement_of_the_positives(triples):
    graph = TrainGraph(torch.tensor(triples), N, R)
    for row, (h, r, t) in enumerate(triples):
        positives = graph.positives(torch.tensor([row]))
        for key, known in (
            (positives.key_tail, {b for a, q, b in triples if (a, q) == (h, r)}),
            (positives.key_head, {a for a, q, b in triples if (q, b) == (r, t)}),
        ):
            free = int(graph.non_positives.free[key])
            assert free == N - len(known)
            if free:
                assert enumerated(graph.non_positives, int(key), free) == sorted(set(range(N)) - known)
    assert enumerated(graph.non_positives, graph.num_keys, N) == list(range(N))  # the key of unseen queries


@settings(max_examples=50, deadline=None)
@given(TRIPLES)
def test_kernel_with_members_enumerates_the_allowed_set_without_the_positives(triples):
    """Allowed tails of (h, r, ?) are T_r, the tails seen with r."""
    facts = sorted(set(triples))
    queries = sorted({(h, r) for h, r, _ in facts})
    allowed = {r: sorted({t for _, q, t in facts if q == r}) for r in range(R)}
    members, start, size = [], [], []
    for _, r in queries:
        start.append(len(members))
        size.append(len(allowed[r]))
        members += allowed[r]
    key = torch.tensor([queries.index((h, r)) for h, r, _ in facts])
    rank = torch.tensor([allowed[r].index(t) for _, r, t in facts])
    kernel = NonPositives(key, rank, torch.tensor(size), torch.tensor(members), torch.tensor(start))
    for number, (h, r) in enumerate(queries):
        rest = sorted(set(allowed[r]) - {t for a, q, t in facts if (a, q) == (h, r)})
        assert int(kernel.free[number]) == len(rest)
        if rest:
            assert enumerated(kernel, number, len(rest)) == rest


@settings(max_examples=40, deadline=None)
@given(TRIPLES)
def test_draws_stay_in_range_whether_or_not_anything_is_free(triples):
    full = [(0, 0, e) for e in range(N)]
    graph = TrainGraph(torch.tensor([*triples, *full]), N, R)
    keys = torch.arange(graph.num_keys + 1)
    drawn = graph.draw(keys, 30, torch.Generator().manual_seed(0))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < N
    drawable = graph.drawable(keys, 30)
    assert torch.equal(drawable, (graph.non_positives.free > 0).unsqueeze(1).expand(-1, 30))
    assert not drawable[graph.key_of(torch.tensor([0]), torch.tensor([0]), torch.tensor([False]))].any()


def test_drawable_is_none_where_every_query_has_candidates():
    graph = TrainGraph(torch.tensor([(0, 0, 1), (1, 0, 2)]), 3, 1)
    assert graph.drawable(torch.tensor([0]), 2) is None


def test_a_key_per_slot_draws_from_its_own_complement():
    graph = TrainGraph(torch.tensor([(0, 0, 0), (0, 0, 1), (1, 0, 0), (2, 0, 2)]), 3, 1)
    positives = graph.positives(torch.tensor([0, 3]))  # of (0, 0, 0) tails 0, 1 and heads 0, 1 are known
    side = torch.tensor([[True, False] * 300] * 2)
    drawn = graph.draw(positives.key(side), 600, torch.Generator().manual_seed(0))
    assert set(drawn[0].tolist()) == {2}
    assert set(drawn[1][side[1]].tolist()) == set(drawn[1][~side[1]].tolist()) == {0, 1}


@settings(max_examples=40, deadline=None)
@given(TRIPLES)
def test_keys_number_the_sorted_queries(triples):
    graph = TrainGraph(torch.tensor(triples), N, R)
    tails = sorted({(h, r) for h, r, _ in triples})
    heads = sorted({(r, t) for _, r, t in triples})
    assert graph.num_tail_keys == len(tails)
    assert graph.num_keys == len(tails) + len(heads)
    assert graph.key_tail.tolist() == [tails.index((h, r)) for h, r, _ in triples]
    assert graph.key_head.tolist() == [len(tails) + heads.index((r, t)) for _, r, t in triples]
    tail_counts = [sum((a, q) == query for a, q, _ in triples) for query in tails]
    head_counts = [sum((q, b) == query for _, q, b in triples) for query in heads]
    assert graph.key_count.tolist() == [*tail_counts, *head_counts, 0]


@settings(max_examples=40, deadline=None)
@given(TRIPLES)
def test_membership_counts_and_keys_of_arbitrary_queries(triples):
    graph, known = TrainGraph(torch.tensor(triples), N, R), set(triples)
    every = torch.cartesian_prod(torch.arange(N), torch.arange(R), torch.arange(N))
    assert graph.is_positive(*every.unbind(1)).tolist() == [triple in known for triple in map(tuple, every.tolist())]
    tails = sorted({(h, r) for h, r, _ in triples})
    heads = sorted({(r, t) for _, r, t in triples})
    anchor, relation = torch.cartesian_prod(torch.arange(N), torch.arange(R)).unbind(1)
    for head in (False, True):
        expected = []
        for a, r in zip(anchor.tolist(), relation.tolist()):
            found, query, offset = (heads, (r, a), len(tails)) if head else (tails, (a, r), 0)
            expected.append(offset + found.index(query) if query in found else graph.num_keys)
        assert graph.key_of(anchor, relation, torch.full_like(anchor, head, dtype=torch.bool)).tolist() == expected
    assert graph.heads_of.tolist() == [len({h for h, q, _ in known if q == r}) for r in range(R)]
    assert graph.tails_of.tolist() == [len({t for _, q, t in known if q == r}) for r in range(R)]
    assert graph.degree.tolist() == [sum((h == e) + (t == e) for h, _, t in known) for e in range(N)]


def test_positives_know_query_anchor_and_answer_per_row_and_per_slot():
    graph = TrainGraph(torch.tensor([(0, 0, 1), (2, 1, 3)]), 4, 2)
    positives = graph.positives(torch.tensor([1, 0]))
    assert positives.hrt.tolist() == [[2, 1, 3], [0, 0, 1]]
    assert positives.rows.tolist() == [1, 0]
    side = torch.tensor([True, False])
    assert positives.anchor(side).tolist() == [3, 0]
    assert positives.answer(side).tolist() == [2, 1]
    assert positives.key(side).tolist() == [3, 0]
    slots = torch.tensor([[True, False], [True, False]])
    assert positives.anchor(slots).tolist() == [[3, 2], [1, 0]]
    assert positives.answer(slots).tolist() == [[2, 3], [0, 1]]
    assert positives.key(slots).tolist() == [[3, 1], [2, 0]]


FACTS = {  # docs/notes/classic_samplers.md 0.2: K_hr, K_rt, most tails, most heads, chance of a known positive per side
    "mkg_w": (29023, 7570, 18, 3533, 0.00010, 0.0268),
    "mkg_y": (10474, 12313, 27, 76, 0.00024, 0.00025),
    "db15k": (53538, 21567, 26, 6777, 0.00020, 0.0516),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_the_real_datasets(name, public_graph):
    data = public_graph(name)
    graph = TrainGraph(data.train, data.num_entities, data.num_relations)
    k_hr, k_rt, most_tails, most_heads, tail_chance, head_chance = FACTS[name]
    assert graph.num_tail_keys == k_hr
    assert graph.num_keys == k_hr + k_rt
    assert int(graph.key_count[:k_hr].max()) == most_tails
    assert int(graph.key_count[k_hr:].max()) == most_heads
    taken = 1 - graph.non_positives.free.double() / data.num_entities
    assert taken[graph.key_tail].mean().item() == pytest.approx(tail_chance, abs=5e-6)
    assert taken[graph.key_head].mean().item() == pytest.approx(head_chance, abs=5e-6 if name == "mkg_y" else 5e-5)


@settings(max_examples=30, deadline=None)
@given(TRIPLES, st.permutations(range(N)), st.integers(1, N))
def test_answers_among_some_entities_are_those_columns(triples, order, size):
    graph = TrainGraph(torch.tensor(triples), N, R)
    positives = graph.positives(torch.arange(len(triples)))
    expected = [[(h, r, c) in set(triples) for c in order[:size]] for h, r, _ in triples]
    expected += [[(c, r, t) in set(triples) for c in order[:size]] for _, r, t in triples]
    key = torch.cat([positives.key_tail, positives.key_head])
    assert graph.answers(key, torch.tensor(order[:size])).tolist() == expected
