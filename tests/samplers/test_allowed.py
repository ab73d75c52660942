"""AllowedSets against sets of Python ints."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.contracts.graph import TrainGraph
from nsbench.samplers.parts.allowed import AllowedSets, list_buffers

N, R = 7, 3
TRIPLES = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1)), min_size=1, max_size=25)


def queries_of(graph):
    """(anchor, relation, side) per key."""
    return list(zip(*(x.tolist() for x in graph.queries())))


def known_to(query, triples):
    anchor, relation, head = query
    return {h if head else t for h, r, t in triples if r == relation and (t if head else h) == anchor}


def candidates(kernel, key):
    """Everything that the kernel can draw, by rank."""
    free = int(kernel.free[key])
    return kernel.at(torch.tensor([[key]]), torch.arange(free).unsqueeze(0))[0].tolist()


@settings(max_examples=60, deadline=None)
@given(TRIPLES)
def test_queries_and_answers_are_those_of_train(triples):
    graph = TrainGraph(torch.tensor(triples), N, R)
    queries = queries_of(graph)
    tails = sorted({(h, r, False) for h, r, _ in triples})
    heads = sorted({(t, r, True) for _, r, t in triples}, key=lambda q: (q[1], q[0]))
    assert queries == tails + heads
    pairs = list(zip(*(x.tolist() for x in graph.answered())))
    assert sorted(pairs) == sorted((key, e) for key, query in enumerate(queries) for e in known_to(query, triples))


@settings(max_examples=100, deadline=None)
@given(TRIPLES, st.data())
def test_what_can_be_drawn_is_the_set_without_what_is_removed_or_all_but_the_answers(triples, data):
    graph = TrainGraph(torch.tensor(triples), N, R)
    queries = queries_of(graph)
    anything = st.sets(st.integers(0, N - 1))
    sets = data.draw(st.lists(anything, min_size=len(queries), max_size=len(queries)))
    removed = data.draw(st.lists(anything, min_size=len(queries), max_size=len(queries)))
    members = [e for row in sets for e in sorted(row)] or [0]
    size = torch.tensor([len(row) for row in sets])
    pairs = [(key, e) for key, row in enumerate(removed) for e in row for _ in range(2)]  # twice, as duplicates do
    key, entity = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    kernel = AllowedSets(graph, torch.tensor(members).int(), size.cumsum(0) - size, size, (key, entity))
    drawn = kernel.draw(torch.arange(len(queries) + 1), 5, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64
    for number, (row, gone, query) in enumerate(zip(sets, removed, queries)):
        left = row - gone
        assert bool(kernel.empty[number]) == (not left)
        left = left or set(range(N)) - known_to(query, triples)
        assert candidates(kernel, number) == sorted(left)
        assert not left or set(drawn[number].tolist()) <= left
    assert kernel.empty[-1]
    assert candidates(kernel, len(queries)) == list(range(N))  # the key of unseen queries


def test_what_is_removed_from_a_set_is_not_looked_for_in_the_next():
    """Entity 2 is removed from a set that lacks it, and is the first member of the set that follows."""
    graph = TrainGraph(torch.tensor([(0, 0, 3)]), 4, 1)  # keys: (0, 0, ?), (?, 0, 3)
    removed = torch.tensor([0]), torch.tensor([2])
    kernel = AllowedSets(graph, torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([1, 1]), removed)
    assert not kernel.empty[0]
    assert candidates(kernel, 0) == [1]


def test_it_describes_what_is_left_and_its_tensors_become_buffers_outside_checkpoints():
    graph = TrainGraph(torch.tensor([(0, 0, 1), (2, 0, 1)]), 4, 1)  # keys: (0, 0, ?), (2, 0, ?), (?, 0, 1)
    size = torch.tensor([1, 3, 2])
    members = torch.tensor([1, 0, 1, 3, 0, 2]).int()
    kernel = AllowedSets(graph, members, size.cumsum(0) - size, size, graph.answered())
    assert kernel.empty.tolist() == [True, False, True, True]
    found = kernel.describe(torch.tensor([0, 1, 1]))
    assert found == {"candidates_mean": pytest.approx(4 / 3), "candidates_median": 2, "slots_below_64": 1, "slots_empty": 1}
    module = torch.nn.Module()
    list_buffers(module, kernel)
    assert dict(module.named_buffers())["members"].dtype == torch.int32
    assert not module.state_dict()
