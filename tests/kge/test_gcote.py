"""GC-OTE: docs/notes/models.md 7, tests 1-10."""

import math

import pytest
import torch
from fusions import trainer_of
from models import both, every_triple, graph_of, model_of, scores, scoring_of

from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives, Positives
from nsbench.errors import Misuse

STAR = [(0, 0, 1), (2, 0, 1), (0, 1, 3), (4, 2, 0), (0, 0, 1)]  # a fact that train lists twice
QUARTER = [[0.0, 1.0, -1.0, 0.0]]  # (x, y) M = (-y, x), one block of two
CONTEXTS = ["mean", "attention"]


def matrices(model):
    """[R, G, b, b] orthogonal, by a Gram-Schmidt of our own, of rows."""
    size, blocks = model.options.size, model.width // model.options.size
    free = model.relation.detach().view(-1, size, size, blocks).permute(0, 3, 1, 2)
    made = torch.zeros_like(free)
    for i in range(size):
        row = free[..., i, :]
        for j in range(i):
            row = row - (row * made[..., j, :]).sum(-1, keepdim=True) * made[..., j, :]
        made[..., i, :] = row / row.norm(dim=-1, keepdim=True)
    return made


def times(x, m):
    """x [d] times the matrices [G, b, b] of one relation."""
    size, blocks = m.shape[1], m.shape[0]
    return torch.einsum("gi,gij->gj", x.view(size, blocks).T, m).T.flatten()


def lengths(x, size):
    return x.view(size, -1).norm(dim=0).sum()


def by_hand(model, facts, h, r, t):
    """The definition, with a loop over the facts."""
    e, m, size = model.entity.detach(), matrices(model), model.options.size

    def context(x, messages):
        if model.options.context == "mean":
            return (e[x] + sum(messages, torch.zeros_like(e[x]))) / (1 + len(messages))
        every = torch.stack([e[x], *messages])
        return torch.softmax(every @ e[x] / math.sqrt(model.width), dim=0) @ every

    into = context(t, [times(e[a], m[b]) for a, b, c in facts if c == t])
    out = context(h, [times(e[c], m[b].mT) for a, b, c in facts if a == h])
    there, back = times(e[h], m[r]), times(e[t], m[r].mT)
    terms = [lengths(x, size) for x in (there - e[t], there - into, back - e[h], back - out)]
    return 3 - sum(terms) / 4


def test_the_numbers_of_one_fact():
    model = model_of("gcote", [[1, 0], [0, 2]], QUARTER, width=2, size=2)
    assert both(model, 0, 0, 1, triples=[(0, 0, 1)]).item() == pytest.approx(2.25)
    assert both(model, 0, 0, 1, triples=[(0, 0, 1)], absent=torch.tensor([0])).item() == pytest.approx(2.0)
    tables = scoring_of(model, [(0, 0, 1)]).tables["entity"].tolist()
    assert tables == [pytest.approx(x) for x in ([1, 0, 1.5, 0], [0, 2, 0, 2], [1, 0, 1, 0], [0, 2, 0, 1.5])]


def test_a_star_of_two_facts():
    """Messages (0, 1) and (1, 0), own vector (2, 0): the context is (1, 1/3)."""
    model = model_of("gcote", [[1, 0], [2, 0], [0, -1]], QUARTER, width=2, size=2)
    encoded = scoring_of(model, [(0, 0, 1), (2, 0, 1)]).tables["entity"]
    assert encoded[3 + 1].tolist() == pytest.approx([2, 0, 1, 1 / 3])


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("width", "size"), [(4, 2), (6, 3), (4, 4), (4, 1)])
def test_both_sides_are_the_definition(context, width, size):
    model = model_of("gcote", width=width, n=5, context=context, size=size)
    h, r, t = every_triple(model)
    wanted = torch.stack([by_hand(model, STAR, *x) for x in zip(h.tolist(), r.tolist(), t.tolist())])
    torch.testing.assert_close(both(model, h, r, t, triples=STAR), wanted)


@pytest.mark.parametrize("context", CONTEXTS)
def test_absent_facts_are_as_if_they_were_not_there(context):
    model = model_of("gcote", n=5, context=context)
    h, r, t = every_triple(model)
    absent = torch.tensor([4, 2])
    without = both(model, h, r, t, triples=[STAR[i] for i in (0, 1, 3)])
    torch.testing.assert_close(both(model, h, r, t, triples=STAR, absent=absent), without)
    score = scores(model, [1], [0], [4], False, triples=[(1, 0, 2), (3, 1, 4)], absent=torch.tensor([0, 1]))
    (grad,) = torch.autograd.grad(score.sum(), model.entity)
    assert not grad[[2, 3]].any()
    score = scores(model, [1], [0], [4], False, triples=[(1, 0, 2), (3, 1, 4)])
    grads = torch.autograd.grad(score.sum(), [model.entity, model.relation])
    assert grads[0][[2, 3]].any(1).all()  # the neighbours
    assert grads[1][[0, 1]].any(1).all()


def test_a_step_does_not_see_the_facts_that_it_predicts(monkeypatch):
    trainer, seen = trainer_of("kge.size=2", kge="gcote", fusion="none"), []
    encode = trainer.kge.encode
    monkeypatch.setattr(trainer.kge, "encode", lambda *given: seen.append(given[-1]) or encode(*given))
    positives = trainer.graph.positives(torch.arange(5, 21))
    trainer.advance(positives)
    trainer.draw(positives, trainer.view.rng)
    trainer.scoring()
    assert [x if x is None else x.tolist() for x in seen] == [[*range(5, 21)], [*range(5, 21)], None]


def test_without_context_it_is_rotate_or_a_distance_of_signs():
    phase = torch.randn(3, 4, dtype=torch.float64)
    rotate = model_of("rotate", relation=phase, phase="radians", margin=3.0)
    cos, sin = phase.cos(), phase.sin()
    ours = model_of(
        "gcote", rotate.entity.detach(), torch.cat([cos, sin, -sin, cos], dim=1), width=8, size=2, context="none"
    )
    h, r, t = every_triple(ours)
    torch.testing.assert_close(both(ours, h, r, t), both(rotate, h, r, t))
    ours = model_of("gcote", size=1, context="none", relation=torch.ones(3, 4) * 0.3)
    e = ours.entity.detach()
    torch.testing.assert_close(both(ours, h, r, t), 3 - (e[h] - e[t]).abs().sum(1))


@pytest.mark.parametrize("size", [2, 4, 20])
def test_maps_are_orthogonal_and_their_gradients_finite_at_the_start(size):
    model = model_of("gcote", width=40, size=size, dtype=torch.float32)
    made = model.prepared(model.relation).detach()
    ours = made.view(3, size, size, -1).permute(0, 3, 1, 2)
    eye = torch.eye(size).expand_as(ours)
    assert (ours @ ours.mT - eye).abs().max() < 5e-6
    torch.testing.assert_close(ours, matrices(model), rtol=1e-3, atol=1e-4)
    (grad,) = torch.autograd.grad((model.prepared(model.relation) * torch.randn(3, 40 * size)).sum(), model.relation)
    assert grad.isfinite().all()
    hand = model_of("gcote", relation=[[1, 1, 1, 0]], width=2, size=2)
    torch.testing.assert_close(hand.prepared(hand.relation), torch.tensor([[1, 1, 1, -1]]).double() / math.sqrt(2))


@pytest.mark.parametrize("context", [*CONTEXTS, "none"])
def test_turning_the_space_changes_nothing(context):
    """e V and V^T M V for e and M."""
    model = model_of("gcote", n=5, context=context, width=6, size=3)
    h, r, t = every_triple(model)
    before = both(model, h, r, t, triples=STAR)
    m, turn = matrices(model), matrices(model_of("gcote", width=6, size=3, seed=9))[0]
    model.entity.data = torch.stack([times(e, turn) for e in model.entity.detach()])
    model.relation.data = (turn.mT @ m @ turn).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(both(model, h, r, t, triples=STAR), before)


def test_an_entity_without_facts_is_its_own_context():
    for context in CONTEXTS:
        model = model_of("gcote", n=6, context=context)
        encoded = scoring_of(model, STAR).tables["entity"].view(2, 6, 8)
        torch.testing.assert_close(encoded[:, 5], model.scored(model.entity)[5].expand(2, 8))
        torch.testing.assert_close(encoded[1, 4], model.scored(model.entity)[4])  # only as head is it in a fact


def test_generated_vectors_are_their_own_context():
    model = model_of("gcote", n=5)
    positives = Positives(torch.tensor([[0, 0, 1], [2, 1, 3]]), torch.arange(2), torch.zeros(2), torch.zeros(2))
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    side = torch.tensor([False, False])
    scoring = scoring_of(model, STAR)
    found = scoring.block(positives, Negatives(side, generated=Generated(x)))[1]
    kept = scoring.tables["entity"][[0, 2]]  # as heads
    q = model.query(kept, scoring.relation[[0, 1]], side)
    for b in range(2):
        for k in range(5):
            to_x, from_context = (lengths(part - x[b, k], 4) for part in q[b].chunk(2))
            assert found[b, k].item() == pytest.approx((3 - (3 * to_x + from_context) / 4).item())
    assert scoring.vectors(torch.tensor([0, 2])).tolist() == model.entity[[0, 2]].tolist()


@pytest.mark.parametrize("context", [*CONTEXTS, "none"])
@pytest.mark.parametrize("mixed", [False, True])
def test_all_entities_at_once(context, mixed):
    model = model_of("gcote", n=30, width=8, context=context, dtype=torch.float32)
    scoring, anchor = scoring_of(model, STAR), torch.arange(30)
    side = anchor % 2 == 0 if mixed else torch.ones(30, dtype=torch.bool)
    by_id = scoring.ids(anchor, anchor % 3, side, anchor.expand(30, 30).contiguous())
    torch.testing.assert_close(scoring.all(anchor, anchor % 3, side), by_id, rtol=1e-4, atol=1e-4)


def test_messages_are_the_queries_of_the_model():
    model = model_of("gcote", n=5)
    graph = graph_of(model, STAR)
    anchor, relation, side = graph.queries()
    model.encode(model.entity, model.prepared(model.relation), graph, None)
    found = model._keys.messages(model.entity, model._matrices(model.prepared(model.relation)))
    torch.testing.assert_close(found, model.query(model.entity[anchor], model.prepared(model.relation)[relation], side))


def test_a_width_that_blocks_do_not_divide_and_fakes_without_neighbours_are_refused():
    with pytest.raises(Misuse, match="size 3 does not divide protocol"):
        configure("uniform", "gcote", "mkg_y", protocol="quick", settings=["kge.size=3"])
    refused = {"protocol": "quick", "fusion": "adamf", "settings": ["aux.mat=1"]}
    with pytest.raises(Misuse, match="makes entities without neighbours"):
        configure("uniform", "gcote", "mkg_y", **refused)
    configure("uniform", "gcote", "mkg_y", **{**refused, "settings": ["aux.mat=1", "kge.context=none"]})
