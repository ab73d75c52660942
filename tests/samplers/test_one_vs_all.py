"""The reference row: losses against enumeration in float64, and what they have to do with uniform's."""

import math

import pytest
import torch

from nsbench.contracts import Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.kernels import native
from nsbench.samplers import one_vs_all
from nsbench.testing.rules import toy
from nsbench.training.losses import block_loss

TRIPLES = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (5, 0, 1), (11, 0, 0), (7, 1, 7), (3, 1, 4), (6, 1, 4)]  # 12 entities


@pytest.fixture
def lossy(trainer_on):
    """lossy(*settings): a trainer on TRIPLES in float64, its loss and its scores."""

    def make(*settings, triples=TRIPLES, entities=12):
        trainer = trainer_on("one_vs_all", triples, entities, 2, 4, *settings)
        trainer.kge.double()
        return trainer

    return make


def loss_of(trainer, rows=None):
    rows = torch.arange(len(trainer.graph)) if rows is None else torch.as_tensor(rows)
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    return trainer.sampler.loss(trainer.graph.positives(rows), scoring, trainer.view)


def score(trainer, h, r, t):
    """DistMult by hand."""
    entity, relation = trainer.kge.entity, trainer.kge.relation
    return (entity[h] * relation[r] * entity[t]).sum()


def enumerated(trainer, kind, filtered):
    """The loss, triple by triple, side by side, entity by entity."""
    total = torch.zeros((), dtype=torch.float64)
    for h, r, t in TRIPLES:
        for side in ("head", "tail"):
            asked = [(e, r, t) if side == "head" else (h, r, e) for e in range(12)]
            skipped = set(TRIPLES) if filtered else {(h, r, t)}
            negatives = torch.stack([score(trainer, *x) for x in asked if x not in skipped])
            own = score(trainer, h, r, t)
            if kind == "softmax":
                total = total + torch.logsumexp(torch.cat([own.view(1), negatives]), 0) - own
            else:
                total = total - (own.sigmoid().log() + (-negatives).sigmoid().log().mean()) / 2
    return total / (2 * len(TRIPLES))


@pytest.mark.parametrize("kind", ["softmax", "logistic"])
@pytest.mark.parametrize("filtered", [True, False])
def test_value_and_gradient_are_the_enumerated_ones(lossy, kind, filtered):
    trainer = lossy(f"sampler.loss={kind}", f"sampler.filtered={filtered}")
    parameters = list(trainer.kge.parameters())
    ours, expected = loss_of(trainer), enumerated(trainer, kind, filtered)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters)):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize(
    ("triples", "entities"), [(toy().train.tolist(), 40), ([(e, 0, t) for e in range(4) for t in range(4)], 4)]
)
@pytest.mark.parametrize("kge", ["distmult", "transe", "rotate"])
def test_the_compiled_loss_is_that_of_plain_torch_in_double_precision(
    trainer_on, monkeypatch, kge, triples, entities, filtered
):
    """In pieces, the last of them short; also where every entity answers a query."""
    monkeypatch.setattr(native, "_chosen", "native")
    monkeypatch.setattr(one_vs_all, "PIECE", 50)
    trainer = trainer_on("one_vs_all", triples, entities, 5, 4, f"sampler.filtered={filtered}", kge=kge)
    found = loss_of(trainer)
    gradients = torch.autograd.grad(found, list(trainer.kge.parameters()))
    trainer.kge.double()
    wanted = loss_of(trainer)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    for x, y in zip(gradients, torch.autograd.grad(wanted, list(trainer.kge.parameters())), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-6)


def test_logistic_is_the_expected_loss_of_uniform(lossy):
    """The benchmark's loss with every negative of the query in place of K drawn ones."""
    trainer = lossy("sampler.loss=logistic")
    scoring = trainer.scoring()
    losses = []
    for row in range(len(TRIPLES)):
        positives = trainer.graph.positives(torch.tensor([row]))
        for head in (True, False):
            side = torch.tensor([head])
            free = (~trainer.graph.answers(positives.key(side))[0]).nonzero().T
            block = Negatives(side, ids=free)
            losses.append(block_loss(*scoring.block(positives, block), block, 0.0, None))
    assert loss_of(trainer).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)


def test_paper_counts_the_other_answers_of_a_query_as_negatives(lossy):
    recommended, paper = lossy(), lossy("sampler.variant=paper")
    several, alone = [0, 1, 2], [5]  # (7, 1, 7) is the only answer of both its queries
    assert loss_of(paper, several) > loss_of(recommended, several)
    assert loss_of(paper, alone).item() == pytest.approx(loss_of(recommended, alone).item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_a_query_that_every_entity_answers_has_nothing_to_learn_from_negatives(lossy, kind):
    triples = [(e, 0, t) for e in range(4) for t in range(4)]
    trainer = lossy(f"sampler.loss={kind}", triples=triples, entities=4)
    expected = 0.0
    if kind == "logistic":
        expected = sum(math.log1p(math.exp(-score(trainer, *x).item())) for x in triples) / 16 / 2
    assert loss_of(trainer).item() == pytest.approx(expected, rel=1e-12)


def test_an_alternating_protocol_changes_nothing(lossy):
    trainer = lossy()
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    for head in (True, False):
        positives = trainer.graph.positives(torch.arange(8), torch.full((8,), head))
        assert trainer.sampler.loss(positives, scoring, trainer.view).item() == loss_of(trainer).item()


def test_answers_are_the_training_facts(trainer_on):
    triples = toy().train.tolist()
    graph = trainer_on("one_vs_all", triples, 40, 5, 4).graph
    positives = graph.positives(torch.tensor([3, 3, 60, 128, 0]))  # a row twice
    for head in (True, False):
        table = graph.answers(positives.key(torch.full((5,), head)))
        for (h, r, t), row in zip(positives.hrt.tolist(), table):
            known = {a if head else b for a, q, b in triples if q == r and (b == t if head else a == h)}
            assert set(row.nonzero().flatten().tolist()) == known
    assert not graph.answers(torch.tensor([graph.num_keys])).any()
