"""PairRE: docs/notes/models.md 6, tests 1-10."""

import pytest
import torch
from models import both, every_triple, model_of, scores, scoring_of

from nsbench.contracts import Generated, Negatives, Positives


def test_by_hand():
    model = model_of("pairre", [[3, 4], [0, 2]], [[1, 2, 3, 1]], width=2, margin=6.0)
    assert both(model, 0, 0, 1).item() == pytest.approx(4.8)
    tail = torch.tensor([False])
    assert model.query(model.entity[[0]], model.relation, tail).tolist()[0] == pytest.approx([0.6, 1.6])
    assert model.scale(model.relation, tail).tolist() == [[3, 1]]


def test_both_sides_are_the_formula():
    model = model_of("pairre")
    h, r, t = every_triple(model)
    e = model.entity.detach()
    e = e / (e**2).sum(1, keepdim=True).sqrt()
    of_head, of_tail = model.relation.detach().chunk(2, dim=1)
    torch.testing.assert_close(both(model, h, r, t), 3 - (e[h] * of_head[r] - e[t] * of_tail[r]).abs().sum(1))


def test_the_length_of_an_entity_is_free_and_its_sign_is_not():
    model = model_of("pairre")
    h, r, t = every_triple(model)
    before = both(model, h, r, t)
    model.entity.data *= torch.rand(9, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(both(model, h, r, t), before)
    model.entity.data[0] *= -1
    assert not torch.allclose(both(model, h, r, t), before)


def test_swapped_halves_swap_the_ends_and_equal_ones_are_symmetric():
    model = model_of("pairre")
    h, r, t = every_triple(model)
    of_head, of_tail = model.relation.detach().chunk(2, dim=1)
    swapped = model_of("pairre", model.entity.detach(), torch.cat([of_tail, of_head], dim=1))
    torch.testing.assert_close(both(model, h, r, t), both(swapped, t, r, h))
    model.relation.data = torch.cat([of_head, of_head], dim=1)
    torch.testing.assert_close(both(model, h, r, t), both(model, t, r, h))


def test_relations_of_ones_and_of_nothing():
    model = model_of("pairre")
    h, r, t = every_triple(model)
    e = model.entity.detach()
    e = e / (e**2).sum(1, keepdim=True).sqrt()
    model.relation.data.fill_(1)
    torch.testing.assert_close(both(model, h, r, t), 3 - (e[h] - e[t]).abs().sum(1))
    model.relation.data[:, :4] = 0
    found = both(model, h, r, t).view(9, 3, 9)
    torch.testing.assert_close(found, found[:1].expand(9, 3, 9))


def test_bound():
    model = model_of("pairre")
    h, r, t = every_triple(model)
    of_head, of_tail = model.relation.detach().chunk(2, dim=1)
    assert (3 - both(model, h, r, t) <= of_head[r].norm(dim=1) + of_tail[r].norm(dim=1)).all()


def test_gradients_of_entities_stand_upright_on_them():
    model = model_of("pairre")
    (grad,) = torch.autograd.grad(scores(model, *every_triple(model), False).square().sum(), model.entity)
    assert grad.abs().max() > 1e-3
    assert (grad * model.entity).sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("anchors", [False, True])
def test_generated_vectors_count_by_their_direction(anchors):
    model = model_of("pairre")
    hrt = torch.tensor([[0, 0, 1], [2, 1, 3]])
    positives = Positives(hrt, torch.arange(2), torch.zeros(2), torch.zeros(2))
    vectors = torch.randn(2, 5, 4, dtype=torch.float64)
    found = []
    for factor in (1.0, 2.0):
        made = Generated(factor * vectors, anchors=factor * vectors.flip(1) if anchors else None)
        found.append(scoring_of(model).block(positives, Negatives(torch.tensor([True, False]), generated=made))[1])
    torch.testing.assert_close(*found)
    model.entity.data[4] = vectors[0, 2]
    if not anchors:
        torch.testing.assert_close(found[0][0, 2].unsqueeze(0), both(model, 4, 0, 1))


def test_an_entity_of_zeros_is_finite():
    model = model_of("pairre")
    model.entity.data[3] = 0
    score = scores(model, *every_triple(model), False)
    assert score.isfinite().all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(score.sum(), [model.entity, model.relation]))
