"""docs/notes/classic_samplers.md, section 2, Tests."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.contracts.graph import TrainGraph
from nsbench.samplers.bernoulli import head_probability
from nsbench.testing.rules import check_sampler, toy

TRIPLE = st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7))


def test_the_battery_knows_that_it_chooses_the_side_itself():
    assert {f.rule for f in check_sampler("bernoulli", device="cpu") if f.passed is None} == {"fixed side"}


def by_sets(triples, relation):
    """tph / (tph + hpt) from dictionaries of sets of Python ints, as the paper words it."""
    tails, heads = {}, {}
    for h, r, t in triples:
        if r == relation:
            tails.setdefault(h, set()).add(t)
            heads.setdefault(t, set()).add(h)
    if not tails:
        return 0.5
    tph = sum(map(len, tails.values())) / len(tails)
    hpt = sum(map(len, heads.values())) / len(heads)
    return tph / (tph + hpt)


@settings(max_examples=60, deadline=None)
@given(st.lists(TRIPLE, min_size=1, max_size=30))
def test_probability_is_the_papers_and_the_closed_form(triples):
    p = head_probability(TrainGraph(torch.tensor(triples), 8, 4)).tolist()
    for relation in range(4):  # the last is never in train
        assert p[relation] == pytest.approx(by_sets(triples, relation), abs=1e-6)
        heads = {h for h, r, _ in triples if r == relation}
        tails = {t for _, r, t in triples if r == relation}
        if heads:
            assert p[relation] == pytest.approx(len(tails) / (len(heads) + len(tails)), abs=1e-6)


@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_heads_are_replaced_as_often_as_the_probability_says(trainer_on, draw, sides):
    triples = toy().train.tolist()
    trainer = trainer_on("bernoulli", triples, 40, 5, 4, f"protocol.sides={sides}")
    p = head_probability(trainer.graph)
    for relation in range(4):
        row = next(i for i, triple in enumerate(triples) if triple[1] == relation)
        _, block = draw(trainer, [row] * 100_000)
        n, expected = block.side.numel(), p[relation].item()
        assert abs(block.side.sum().item() - n * expected) < 4 * (n * expected * (1 - expected)) ** 0.5
