"""docs/notes/classic_samplers.md, section 7, Tests."""

import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.campaign.plan import carry_out, plan
from nsbench.contracts.graph import TrainGraph
from nsbench.errors import OutOfMemory
from nsbench.samplers.sans import Adjacency, chained, k_hop

N = 9
TRIPLES = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, 1), st.integers(0, N - 1)), min_size=1, max_size=14)
PATH = [(i, 0, i + 1) for i in range(11)]  # 0 - 1 - ... - 11
# 0 and 1 are linked twice and each has a leaf; 4 loops on itself; 5 - 6 is a component of its own; 7 is never in train.
SMALL = [(0, 0, 1), (1, 1, 0), (0, 0, 2), (1, 0, 3), (3, 0, 4), (4, 0, 4), (5, 0, 6)]
WEB = [(0, 0, 1), (0, 1, 2), (1, 0, 2), (1, 0, 3), (2, 0, 4), (3, 0, 4), (0, 1, 5), (5, 0, 3)]


def within(triples, entity, distance):
    """Breadth-first search."""
    reached = {entity}
    for _ in range(distance):
        reached |= {b for h, _, t in triples for a, b in ((h, t), (t, h)) if a in reached}
    return reached


def transition(triples, entities, steps):
    """[N, N] law of the end point of a walk of so many steps."""
    links = torch.zeros(entities, entities, dtype=torch.float64)
    for h, _, t in triples:
        links[h, t] = links[t, h] = 1
    alone = links.sum(1) == 0
    links[alone, alone] = 1
    return torch.linalg.matrix_power(links / links.sum(1, keepdim=True), steps)


def fits(counts, law):
    """Whether counts [N] are of draws by law [N], which need not sum to 1; nothing else was drawn."""
    possible = law > 1e-9
    if counts[~possible].any():
        return False
    expected = law[possible] / law[possible].sum() * counts.sum()
    return len(expected) == 1 or scipy.stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-4


def known(triples, anchor, relation, head):
    return {h if head else t for h, r, t in triples if r == relation and (t if head else h) == anchor}


def prepared(trainer_on, *arguments):
    trainer = trainer_on("sans", *arguments)
    trainer.pretrain()
    return trainer


@settings(max_examples=60, deadline=None)
@given(TRIPLES, st.integers(1, 4))
def test_rows_are_what_breadth_first_search_finds(triples, k):
    members, size = k_hop(Adjacency(TrainGraph(torch.tensor(triples), N, 2)), k)
    assert members.dtype == torch.int32
    for entity, row in enumerate(members.split(size.tolist())):
        assert row.tolist() == sorted(within(triples, entity, k))


@pytest.mark.parametrize("anchor", [False, True])
@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_exact_draws_are_uniform_over_the_neighbourhood_without_known_facts(trainer_on, draw, anchor, sides):
    trainer = prepared(trainer_on, SMALL, 8, 2, 300, f"sampler.anchor={anchor}", f"protocol.sides={sides}")
    for row, (h, r, t) in enumerate(SMALL):
        _, block = draw(trainer, [row] * 100)
        heads = block.side if block.side.dim() == 2 else block.side.unsqueeze(1).expand_as(block.ids)
        for head in (False, True):
            kept = t if head else h
            facts = known(SMALL, kept, r, head)
            left = within(SMALL, kept, 2) - facts - (set() if anchor else {kept})
            left = left or set(range(8)) - facts
            law = torch.tensor([float(e in left) for e in range(8)], dtype=torch.float64)
            assert fits(torch.bincount(block.ids[heads == head], minlength=8), law)


@pytest.mark.parametrize("mode", ["exact", "rw"])
@pytest.mark.parametrize("anchor", [False, True])
def test_only_rows_with_nothing_left_fall_back_and_they_are_counted(trainer_on, draw, mode, anchor):
    trainer = prepared(trainer_on, SMALL, 8, 2, 400, f"sampler.mode={mode}", f"sampler.anchor={anchor}")
    expected = 0
    for row, (h, r, t) in enumerate(SMALL):
        _, block = draw(trainer, [row] * 20)
        for head, ids in zip(block.side.tolist(), block.ids):
            kept = t if head else h
            facts = known(SMALL, kept, r, head)
            near = within(SMALL, kept, 2)
            if mode == "rw":
                near = {e for e in range(8) if transition(SMALL, 8, 2)[kept, e] > 0}
            left = near - facts - (set() if anchor else {kept})
            expected += not left
            assert set(ids.tolist()) <= (left or set(range(8)) - facts)
    assert int(trainer.sampler.fallback_rows) == expected
    assert (expected > 0) == (not anchor)  # (5, 0, 6) has none but the kept entity
    assert trainer.sampler.describe()["fallback_rows"] == expected


@pytest.mark.parametrize("k", [1, 2, 3])
def test_walks_stay_within_distance_k_and_follow_the_transition_matrix(k):
    adjacency = Adjacency(TrainGraph(torch.tensor(SMALL), 8, 2))
    rng = torch.Generator().manual_seed(k)
    law = transition(SMALL, 8, k)
    for entity in range(8):
        here = torch.full((20_000,), entity)
        for _ in range(k):
            here = adjacency.step(here, rng)
        counts = torch.bincount(here, minlength=8)
        assert {e for e in range(8) if counts[e]} <= within(SMALL, entity, k)
        assert fits(counts, law[entity])


@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_rw_draws_by_the_walk_s_law_without_known_facts(trainer_on, draw, sides):
    """Lost walks are replaced by others of the row; one slot per row is looked at, for those of a row depend on it."""
    trainer = trainer_on("sans", WEB, 6, 2, 24, "sampler.mode=rw", f"protocol.sides={sides}")
    _, block = draw(trainer, [0] * 20_000)
    assert int(trainer.sampler.fallback_rows) == 0
    for slot in (0, 23):
        for head, kept in ((False, 0), (True, 1)):
            law = transition(WEB, 6, 2)[kept]
            law[[kept, *known(WEB, kept, 0, head)]] = 0
            chosen = (block.side if block.side.dim() == 1 else block.side[:, slot]) == head
            assert fits(torch.bincount(block.ids[chosen, slot], minlength=6), law)


def test_the_published_chain_leaves_the_neighbourhood_and_the_walk_does_not(trainer_on, draw):
    rows = [5] * 100  # (5, 0, 6)
    far = {}
    for variant in ("variant=released", "variant=paper", "mode=rw"):
        trainer = prepared(trainer_on, PATH, 12, 1, 50, f"sampler.{variant}")
        _, block = draw(trainer, rows)
        kept = torch.where(block.side, 6, 5).unsqueeze(1)
        far[variant] = int((block.ids - kept).abs().max())
        assert int(trainer.sampler.fallback_rows) == 0
    assert far["variant=released"] > 2
    assert far["variant=paper"] == far["mode=rw"] == 2


def test_a_chain_goes_on_where_it_stopped():
    """Its first recorded step is a walk from the entity, and one step of two hops keeps the colour of a path."""
    adjacency = Adjacency(TrainGraph(torch.tensor(PATH), 12, 1))
    members, size = chained(adjacency, 2, 1, torch.Generator().manual_seed(0))
    assert size.tolist() == [1] * 12
    assert all(abs(int(e) - i) in (0, 2) for i, e in enumerate(members))
    members, size = chained(adjacency, 2, 2000, torch.Generator().manual_seed(0))
    for entity, row in enumerate(members.split(size.tolist())):
        assert row.tolist() == list(range(entity % 2, 12, 2))


def test_a_checkpoint_holds_a_seed_and_no_rows(trainer_on, draw):
    first, second = (trainer_on("sans", PATH, 12, 1, 8, "sampler.variant=released", "sampler.omega=5") for _ in range(2))
    first.view.rng.manual_seed(9)  # another chain than the second would build
    first.pretrain()
    state = first.state_dict()
    assert set(state["sampler"]) == {"_extra_state", "fallback_rows"}
    second.load_state_dict(state)
    assert torch.equal(first.sampler.allowed.members, second.sampler.allowed.members)
    assert torch.equal(draw(first, range(11))[1].ids, draw(second, range(11))[1].ids)


def test_it_tells_the_sizes_of_its_rows(trainer_on):
    trainer = prepared(trainer_on, PATH, 12, 1, 4)
    found = trainer.sampler.describe()
    assert found["row_mean"] == pytest.approx((3 + 4 + 8 * 5 + 4 + 3) / 12)
    assert found["row_median"] == 5
    assert found["slots_below_64"] == 1
    assert found["slots_empty"] == 0


# k = 2: entries; row mean and median over entities; median over training anchors; share of slots with fewer than 64
# candidates, tail and head; slots where only the anchor is left, tail and head; slots with none at all, tail
FACTS = {
    "mkg_w": (14_490_000, 966, 39, 283, 0.33, 0.44, 448, 665, 4),
    "mkg_y": (175_000, 12, 8, 12, 0.96, 0.99, 822, 868, 0),
    "db15k": (53_620_000, 4175, 6786, 6816, 0.010, 0.028, 8, 6, 6),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "mkg_y")) for n in FACTS])
def test_row_sizes_of_the_real_datasets(name, trainer_on, public_graph):
    data = public_graph(name)
    entries, mean, median, anchor_median, tail_below, head_below, tail_one, head_one, tail_none = FACTS[name]
    trainer = prepared(trainer_on, data.train.tolist(), data.num_entities, data.num_relations, 4, "sampler.variant=paper")
    sampler, graph = trainer.sampler, trainer.graph
    size = sampler.row_size
    assert int(size.sum()) == pytest.approx(entries, rel=5e-3)
    assert size.double().mean().item() == pytest.approx(mean, abs=0.5)
    assert size.median().item() == median
    anchors = torch.cat([graph.triples[:, 0], graph.triples[:, 2]])
    assert size[anchors].median().item() == pytest.approx(anchor_median, rel=0.01)
    left = torch.where(sampler.allowed.empty, 0, sampler.allowed.free)
    for key, below in ((graph.key_tail, tail_below), (graph.key_head, head_below)):
        assert (left[key] < 64).double().mean().item() == pytest.approx(below, abs=6e-3)
    assert int((left[graph.key_tail] == 1).sum()) == tail_one
    assert int((left[graph.key_head] == 1).sum()) == head_one
    assert int((left[graph.key_tail] == 0).sum()) == tail_none


def test_where_memory_runs_out_it_is_told_what_holds_less(tmp_path, monkeypatch):
    monkeypatch.setattr("nsbench.samplers.sans.free_memory", lambda: 1000)  # less than 50 entities' neighbourhoods
    (config,) = plan(["sans"], ["transe"], ["planted:small"], [0], protocol="quick", settings=["protocol.steps=2"])
    with pytest.raises(OutOfMemory, match=r"^out of memory in sampler 'sans' \(sans.py, line \d+\); use sampler.mode=rw"):
        carry_out(config, tmp_path)


@given(seed=st.integers(0, 2**31), k=st.integers(1, 3))
def test_neighbourhoods_do_not_depend_on_how_many_are_found_at_a_time(seed, k):
    rng = torch.Generator().manual_seed(seed)
    triples = torch.stack([torch.randint(9, (12,), generator=rng) for _ in "hrt"], dim=1)
    adjacency = Adjacency(TrainGraph(triples, 9, 9))
    whole = k_hop(adjacency, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nsbench.samplers.sans.BLOCK", 2)
        parts = k_hop(adjacency, k)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts))
