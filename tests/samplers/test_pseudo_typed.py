"""docs/notes/classic_samplers.md, section 10, Tests."""

import pytest
import scipy
import torch

from nsbench.contracts.graph import TrainGraph
from nsbench.samplers.pseudo_typed import typed_sets
from nsbench.testing.rules import toy

TOY = toy().train.tolist()
# Relation 0: H = {0, 1, 2, 3}, T = {4, 5, 6}. Relation 1: one head, two tails. Relation 2: one fact.
TRIPLES = [(0, 0, 4), (0, 0, 5), (1, 0, 4), (2, 0, 6), (3, 0, 6), (7, 1, 8), (7, 1, 9), (4, 2, 5)]


def ends_of(triples, relation):
    """H_r and T_r."""
    return {h for h, r, _ in triples if r == relation}, {t for _, r, t in triples if r == relation}


@pytest.mark.parametrize("side", ["bernoulli", "fair", "pykeen"])
@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_negatives_were_seen_in_their_slot_and_are_no_facts(trainer_on, draw, side, sides):
    trainer = trainer_on("pseudo_typed", TOY, 40, 5, 50, f"sampler.side={side}", f"protocol.sides={sides}")
    positives, block = draw(trainer, list(range(len(TOY))) * 4)
    known = set(map(tuple, TOY))
    heads = block.side if block.side.dim() == 2 else block.side.unsqueeze(1).expand(-1, 50)
    nothing_left = 0
    for (h, r, t), head_slots, ids in zip(positives.hrt.tolist(), heads.tolist(), block.ids.tolist()):
        head_set, tail_set = ends_of(TOY, r)
        left = {
            True: {e for e in head_set if (e, r, t) not in known},
            False: {e for e in tail_set if (h, r, e) not in known},
        }
        for head, e in zip(head_slots, ids):
            assert ((e, r, t) if head else (h, r, e)) not in known
            assert e in left[head] or not (left[True] or left[False])
        slots = head_slots if sides == "per_slot" else head_slots[:1]
        nothing_left += len(slots) * (not (left[True] or left[False]))
    assert int(trainer.sampler.uniform) == nothing_left


def test_the_draw_is_uniform_over_what_is_left(trainer_on, draw):
    trainer = trainer_on("pseudo_typed", TRIPLES, 12, 3, 2000, "sampler.side=fair")
    _, block = draw(trainer, [0] * 40)  # (0, 0, 4)
    for head, left in ((True, [2, 3]), (False, [6])):
        counts = torch.bincount(block.ids[block.side == head].flatten(), minlength=12)
        assert [e for e in range(12) if counts[e]] == left
        assert len(left) == 1 or scipy.stats.chisquare(counts[left].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("side", ["bernoulli", "fair", "pykeen"])
def test_side_rules_by_frequency(trainer_on, draw, side):
    trainer = trainer_on("pseudo_typed", TOY, 40, 5, 1, f"sampler.side={side}", "sampler.filter=false")
    for relation in range(4):  # without filter no set is ever empty, so no side is switched
        row = next(i for i, triple in enumerate(TOY) if triple[1] == relation)
        _, block = draw(trainer, [row] * 100_000)
        heads, tails = map(len, ends_of(TOY, relation))
        p = {"bernoulli": tails / (heads + tails), "fair": 0.5, "pykeen": heads / (heads + tails)}[side]
        assert abs(block.side.sum().item() - 1e5 * p) < 4 * (1e5 * p * (1 - p)) ** 0.5
    assert int(trainer.sampler.switched) == 0


def test_a_set_with_nothing_left_sends_the_draw_to_the_other_end_then_to_all_entities(trainer_on, draw):
    trainer = trainer_on("pseudo_typed", TRIPLES, 12, 3, 200, "sampler.side=fair")
    sampler = trainer.sampler
    # (?, 0, 6): heads 2 and 3 are known, 0 and 1 are left. (2, 0, ?): 4 and 5 are left. Neither end is switched.
    _, block = draw(trainer, [3] * 200)
    assert (int(sampler.switched), int(sampler.uniform)) == (0, 0)
    # (7, 1, 8): one head, and both tails are its own: nothing on either side.
    _, block = draw(trainer, [5] * 200)
    assert (int(sampler.switched), int(sampler.uniform)) == (0, 200)
    assert set(block.ids[block.side].flatten().tolist()) == set(range(12)) - {7}
    assert set(block.ids[~block.side].flatten().tolist()) == set(range(12)) - {8, 9}

    # One head and one tail too many: (?, 0, 1) has all heads, (0, 0, ?) has tail 3 left.
    trainer = trainer_on("pseudo_typed", [(0, 0, 1), (2, 0, 1), (2, 0, 3)], 6, 1, 50, "sampler.side=fair")
    _, block = draw(trainer, [0] * 1000)
    assert not block.side.any()
    assert (block.ids == 3).all()
    assert abs(int(trainer.sampler.switched) - 500) < 4 * 250**0.5
    assert int(trainer.sampler.uniform) == 0


def test_paper_returns_known_facts_and_says_so(trainer_on, draw):
    paper = trainer_on("pseudo_typed", TRIPLES, 12, 3, 100, "sampler.variant=paper")
    recommended = trainer_on("pseudo_typed", TRIPLES, 12, 3, 100)
    assert (paper.sampler.filtered, recommended.sampler.filtered) == (False, True)
    _, block = draw(paper, [7] * 50)
    assert ((block.ids == 4) == block.side.unsqueeze(1)).all()  # (4, 2, 5) has nothing but itself, and gets itself
    assert int(paper.sampler.uniform) == 0
    _, block = draw(recommended, [7] * 50)
    assert not ((block.ids == 4) & block.side.unsqueeze(1)).any()
    assert torch.allclose(paper.sampler.p_head, 1 - recommended.sampler.p_head)


FACTS = {  # section 10: training slots with nothing left, tail and head; 0.2: keys = members of all sets
    "mkg_w": (92, 95, 36593),
    "mkg_y": (1, 1, 22787),
    "db15k": (73, 74, 75105),
}


@pytest.mark.parametrize("name", FACTS)
def test_fallback_counts_of_the_real_datasets(name, public_graph):
    data = public_graph(name)
    graph = TrainGraph(data.train, data.num_entities, data.num_relations)
    allowed = typed_sets(graph, filtered=True)
    tail, head, members = FACTS[name]
    assert int(allowed.empty[graph.key_tail].sum()) == tail
    assert int(allowed.empty[graph.key_head].sum()) == head
    assert len(allowed.members) == members + data.num_entities  # the fallback's set behind the others
