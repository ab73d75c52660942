"""Each kind of block against the textbook score, triple by triple; and that detached means detached."""

import cmath
import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import KGE, Generated, Negatives
from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.scoring import Scoring
from nsbench.kge.similarity import L1
from nsbench.registry import FUSIONS, MODELS
from nsbench.testing.rules import registered, toy
from nsbench.training.trainer import Trainer

MARGIN, WIDTH = 3.0, 4
MODELS_AND_OPTIONS = [("transe", ()), ("transe", ("kge.norm=2",)), ("distmult", ()), ("rotate", ())]


def textbook(name, trainer, h, r, t):
    """Score of vectors h, t [D] and r [Dr], lists of numbers, from the papers' formulas."""
    if name == "distmult":
        return sum(a * b * c for a, b, c in zip(h, r, t))
    if name == "transe":
        gaps = [abs(a + b - c) for a, b, c in zip(h, r, t)]
        norm = sum(gaps) if trainer.config.kge_options.norm == 1 else math.sqrt(sum(g * g for g in gaps))
        return MARGIN - norm
    d = len(r)
    unit = math.pi * WIDTH / (MARGIN + 2.0)  # the parameter's range stands for +-pi
    turned = [complex(h[i], h[d + i]) * cmath.exp(1j * r[i] * unit) for i in range(d)]
    return MARGIN - sum(abs(turned[i] - complex(t[i], t[d + i])) for i in range(d))


def build(kge, options=(), *more):
    settings = [f"protocol.width={WIDTH}", f"protocol.margin={MARGIN}", "protocol.batch=12", *options, *more]
    trainer = Trainer(configure("uniform", kge, "toy", protocol="quick", settings=settings), toy())
    positives = trainer.graph.positives(torch.arange(0, 120, 10))
    return trainer, positives, trainer.scoring()


def expected(kge, trainer, positives, side, candidate, kept=None):
    """[B, K] textbook scores; candidate(row, slot) and kept(row, slot) give vectors, side is [B, K]."""
    entity, relation = trainer.kge.entity.tolist(), trainer.kge.relation.tolist()
    rows = []
    for row, (h, r, t) in enumerate(positives.hrt.tolist()):
        scores = []
        for slot in range(side.shape[1]):
            head = bool(side[row, slot])
            anchor = kept(row, slot) if kept else entity[t if head else h]
            ends = (candidate(row, slot), anchor) if head else (anchor, candidate(row, slot))
            scores.append(textbook(kge, trainer, ends[0], relation[r], ends[1]))
        rows.append(scores)
    return torch.tensor(rows)


def close(a, b):
    return torch.allclose(a.detach(), b, atol=2e-5)


@pytest.mark.parametrize(("kge", "options"), MODELS_AND_OPTIONS)
@pytest.mark.parametrize("per_slot", [False, True])
def test_ids(kge, options, per_slot):
    trainer, positives, scoring = build(kge, options)
    rng = torch.Generator().manual_seed(0)
    side = torch.rand(12, 5 if per_slot else 1, generator=rng) < 0.5
    ids = torch.randint(40, (12, 5), generator=rng)
    entity = trainer.kge.entity.tolist()
    s_pos, s_neg = scoring.block(positives, Negatives(side if per_slot else side[:, 0], ids=ids))
    full = side.expand(12, 5)
    assert close(s_neg, expected(kge, trainer, positives, full, lambda row, slot: entity[ids[row, slot]]))
    truth = expected(kge, trainer, positives, torch.zeros(12, 1, dtype=torch.bool), lambda row, _: entity[positives.t[row]])
    assert close(s_pos, truth[:, 0])


@pytest.mark.parametrize(("kge", "options"), MODELS_AND_OPTIONS)
@pytest.mark.parametrize("with_anchors", [False, True])
@pytest.mark.parametrize("per_slot", [False, True])
def test_vectors_and_anchors(kge, options, with_anchors, per_slot):
    trainer, positives, scoring = build(kge, options)
    rng = torch.Generator().manual_seed(0)
    side = torch.rand(12, 3 if per_slot else 1, generator=rng) < 0.5
    vectors = torch.randn(12, 3, trainer.kge.entity.shape[1], generator=rng)
    anchors = torch.randn(vectors.shape, generator=rng) if with_anchors else None
    block = Negatives(side if per_slot else side[:, 0], generated=Generated(vectors, anchors=anchors))
    block.check(12)
    _, s_neg = scoring.block(positives, block)
    kept = (lambda row, slot: anchors[row, slot].tolist()) if with_anchors else None
    found = expected(kge, trainer, positives, side.expand(12, 3), lambda row, slot: vectors[row, slot].tolist(), kept)
    assert close(s_neg, found)


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
@pytest.mark.parametrize("per_slot", [False, True])
def test_delta_has_no_value_and_carries_the_gradient_of_the_scored_vector(kge, per_slot):
    trainer, positives, scoring = build(kge)
    side = (torch.arange(12) % 2 == 0).unsqueeze(1).expand(12, 5 if per_slot else 1)
    ids = torch.randint(40, (12, 5), generator=torch.Generator().manual_seed(0))
    delta = torch.zeros(12, 5, trainer.kge.entity.shape[1], requires_grad=True)
    given = side if per_slot else side[:, 0]
    _, plain = scoring.block(positives, Negatives(given, ids=ids))
    _, s_neg = scoring.block(positives, Negatives(given, ids=ids, delta=delta))
    assert close(s_neg, plain)
    s_neg.sum().backward()
    vectors = trainer.kge.entity.detach()[ids].requires_grad_()
    _, same = scoring.block(positives, Negatives(given, generated=Generated(vectors)))
    same.sum().backward()
    assert torch.allclose(delta.grad, vectors.grad, atol=1e-6)
    assert delta.grad.abs().max() > 0


def test_scores_of_all_entities_are_those_of_their_ids():
    for kge, options in MODELS_AND_OPTIONS:
        _, positives, scoring = build(kge, options)
        for head in (False, True):
            side = torch.full((12,), head)
            every = torch.arange(40).expand(12, 40)
            by_id = scoring.ids(positives.anchor(side), positives.r, side, every)
            assert close(scoring.all(positives.anchor(side), positives.r, side), by_id)


def test_a_relation_dependent_scale_reaches_every_path():
    class Scaled(KGE):
        """score = gamma - | e + r - c * (1 + r) |, as PairRE scales its candidates."""

        def __init__(self, *args):
            super().__init__(*args)
            self.similarity = L1(self.margin)

        def query(self, e, r, side):
            return e + r

        def scale(self, r, side):
            return 1 + r

    with registered(MODELS, "scaled", Scaled):
        trainer, positives, scoring = build("scaled")
        e, r = trainer.kge.entity.detach(), trainer.kge.relation.detach()
        side = torch.arange(12) % 2 == 0
        anchor, ids = positives.anchor(side), torch.randint(40, (12, 5), generator=torch.Generator().manual_seed(0))
        query = (e[anchor] + r[positives.r]).unsqueeze(1)
        every = MARGIN - (query - e.unsqueeze(0) * (1 + r[positives.r]).unsqueeze(1)).abs().sum(2)
        assert close(scoring.all(anchor, positives.r, side), every)
        assert close(scoring.block(positives, Negatives(side, ids=ids))[1], every.gather(1, ids))
        assert close(scoring.block(positives, Negatives(side, generated=Generated(e[ids])))[1], every.gather(1, ids))


@pytest.mark.parametrize("kge", ["distmult", "rotate"])
def test_few_entities_are_fused_as_in_the_whole_table(kge, monkeypatch):
    trainer = Trainer(configure("mmrns", kge, "toy", protocol="quick", fusion="adamf"), toy(features=True))
    positives = trainer.graph.positives(torch.arange(0, 120, 10))
    rng = torch.Generator().manual_seed(0)
    ids, side = torch.randint(3, 9, (12, 5), generator=rng), torch.arange(12) % 2 == 0
    delta = torch.zeros(12, 5, trainer.kge.entity.shape[1], requires_grad=True)
    vectors = torch.randn(12, 5, trainer.kge.entity.shape[1], generator=rng)
    blocks = [Negatives(side, ids=ids), Negatives(side, ids=ids, delta=delta), Negatives(side, generated=Generated(vectors))]
    blocks.append(Negatives(side.unsqueeze(1).expand(12, 5), ids=ids, delta=delta))
    learnt = [*trainer.kge.parameters(), *trainer.fusion.parameters(), delta]
    found = []
    for few in (False, True):
        scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph, few=few)
        if few:  # nobody makes the whole table
            monkeypatch.setattr(trainer.fusion, "views", None)
        values = [scoring.vectors(ids), *(x for block in blocks for x in scoring.block(positives, block))]
        assert not scoring.detached().vectors(ids).requires_grad
        found.append((values, torch.autograd.grad(sum(x.cos().sum() for x in values), learnt)))
    torch.testing.assert_close(*found, atol=5e-4, rtol=1e-4)
    monkeypatch.undo()
    torch.testing.assert_close(scoring.tables["fused"][ids], found[0][0][0])


def test_encode_is_what_gets_scored():
    from nsbench.kge.models.distmult import DistMult

    class Doubled(DistMult):
        def encode(self, table, relation, graph, absent):
            assert isinstance(graph, TrainGraph)
            assert absent is None
            return 2 * table

    with registered(MODELS, "doubled", Doubled):
        trainer, positives, scoring = build("doubled")
        side = torch.zeros(12, dtype=torch.bool)
        e, r = trainer.kge.entity.detach(), trainer.kge.relation.detach()
        by_hand = ((2 * e[positives.h]) * r[positives.r]) @ (2 * e).T
        assert close(scoring.all(positives.h, positives.r, side), by_hand)


def test_detached_scoring_reaches_no_parameter():
    trainer, positives, _ = build("rotate")
    side = torch.zeros(12, dtype=torch.bool)
    ids = positives.t.unsqueeze(1)
    live = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    assert live.block(positives, Negatives(side, ids=ids))[1].requires_grad
    for state in (live.detached(), Scoring(trainer.kge, trainer.fusion, trainer.graph, live=False)):
        assert not state.block(positives, Negatives(side, ids=ids))[1].requires_grad
        assert not state.slots(positives.h).requires_grad
        assert not state.vectors(positives.h).requires_grad
        assert not state.relations(positives.r).requires_grad
    assert live.slots(positives.h).requires_grad


@pytest.mark.parametrize("per_slot", [False, True])
def test_another_entity_per_view_against_the_sum_over_pairs_of_views(per_slot, monkeypatch):
    factors = {"one": 1.0, "two": -0.5}

    class Pair(FUSIONS.get("none")):
        def views(self, entity):
            return {name: factor * entity for name, factor in factors.items()}

    with registered(FUSIONS, "pair", Pair):
        config = configure("uniform", "transe", "toy", protocol="quick", fusion="pair", settings=["protocol.width=4"])
        trainer = Trainer(config, toy())
    positives = trainer.graph.positives(torch.arange(0, 120, 10))
    rng = torch.Generator().manual_seed(0)
    side = torch.rand(12, 5 if per_slot else 1, generator=rng) < 0.5
    ids = {view: torch.randint(40, (12, 5), generator=rng) for view in factors}
    scoring, calls = trainer.scoring(), []
    monkeypatch.setattr(scoring, "view_pairs", lambda *query: calls.append(query) or Scoring.view_pairs(scoring, *query))
    s_pos, s_neg = scoring.block(positives, Negatives(side if per_slot else side[:, 0], view_ids=ids))
    assert len(calls) == (3 if per_slot else 1)  # the positive together with its negatives
    e, relation, margin = trainer.kge.entity.detach(), trainer.kge.relation.detach(), trainer.protocol.margin

    def summed(h, r, t):
        pairs = [(a, b) for a in factors for b in factors]
        return sum(margin - (factors[a] * e[h[a]] + relation[r] - factors[b] * e[t[b]]).abs().sum().item() for a, b in pairs)

    for row, (h, r, t) in enumerate(positives.hrt.tolist()):
        there = {"h": dict.fromkeys(factors, h), "t": dict.fromkeys(factors, t)}
        assert s_pos[row].item() == pytest.approx(summed(there["h"], r, there["t"]), abs=1e-4)
        for slot in range(5):
            replaced = "h" if side.expand(12, 5)[row, slot] else "t"
            ends = {**there, replaced: {view: x[row, slot].item() for view, x in ids.items()}}
            assert s_neg[row, slot].item() == pytest.approx(summed(ends["h"], r, ends["t"]), abs=1e-4)


def test_vectors_are_refused_where_an_entity_has_several_views():
    class Twice(FUSIONS.get("none")):
        def views(self, entity):
            return {"one": entity, "two": 2 * entity}

    with registered(FUSIONS, "twice", Twice):
        config = configure("uniform", "distmult", "toy", protocol="quick", fusion="twice", settings=["protocol.width=4"])
        trainer = Trainer(config, toy())
        positives = trainer.graph.positives(torch.arange(3))
        block = Negatives(torch.ones(3, dtype=torch.bool), generated=Generated(torch.zeros(3, 2, 4)))
        with pytest.raises(ValueError, match="one view"):
            trainer.scoring().block(positives, block)
