"""ComplEx: docs/notes/models.md 4, tests 1-9."""

import itertools

import pytest
import torch
from models import both, every_triple, model_of, scores

H, R, T = [1.0, 2.0], [3.0, -1.0], [2.0, 1.0]  # h = 1 + 2i, r = 3 - i, t = 2 + i


def test_by_hand():
    model = model_of("complex", [H, T], [R], width=1)
    assert both(model, 0, 0, 1).item() == 15
    assert both(model, 1, 0, 0).item() == 9
    r = model.relation[[0]]
    for kept, head, query in ((0, False, [5, 5]), (1, True, [5, 5])):
        assert model.query(model.entity[[kept]], r, torch.tensor([head])).tolist() == [query]


def test_both_sides_are_the_formula():
    model = model_of("complex")
    e, w = (torch.complex(*x.detach().chunk(2, dim=1)) for x in (model.entity, model.relation))
    h, r, t = every_triple(model)
    torch.testing.assert_close(both(model, h, r, t), (e[h] * w[r] * e[t].conj()).sum(1).real)


def conjugate(x):
    return torch.cat([x[:, :4], -x[:, 4:]], dim=1)


def test_swapping_the_ends_is_conjugating_the_relation():
    model = model_of("complex")
    turned = model_of("complex", model.entity.detach(), conjugate(model.relation.detach()))
    h, r, t = every_triple(model)
    torch.testing.assert_close(both(model, h, r, t), both(turned, t, r, h))


def test_real_relations_are_symmetric_and_imaginary_ones_antisymmetric():
    model = model_of("complex")
    h, r, t = every_triple(model)
    real, imaginary = model.relation.detach().clone(), model.relation.detach().clone()
    real[:, 4:], imaginary[:, :4] = 0, 0
    model.relation.data = real
    torch.testing.assert_close(both(model, h, r, t), both(model, t, r, h))
    model.relation.data = imaginary
    torch.testing.assert_close(both(model, h, r, t), -both(model, t, r, h))
    assert both(model, h, r, h).abs().max() < 1e-12


def test_without_imaginary_parts_it_is_distmult():
    model = model_of("complex")
    plain = model_of("distmult")
    h, r, t = every_triple(model)
    for ours, theirs in ((model.entity, plain.entity), (model.relation, plain.relation)):
        ours.data[:, 4:] = 0
        theirs.data = ours.data[:, :4].clone()
    weight = torch.randn(len(h), dtype=torch.float64)
    found = []
    for one in (model, plain):
        score = scores(one, h, r, t, False)
        found.append([score, *torch.autograd.grad(score, [one.entity, one.relation], weight)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a if a.dim() == 1 else a[:, :4], b)


def test_relations_of_modulus_one_rank_as_rotations_do():
    """sum |h o r - t|^2 = |h|^2 + |t|^2 - 2 f."""
    model = model_of("complex")
    phase = torch.randn(3, 4, dtype=torch.float64)
    model.relation.data = torch.cat([phase.cos(), phase.sin()], dim=1)
    h, r, t = every_triple(model)
    e, w = (torch.complex(*x.detach().chunk(2, dim=1)) for x in (model.entity, model.relation))
    squared = (e[h] * w[r] - e[t]).abs().square().sum(1)
    torch.testing.assert_close(squared, (e[h].abs() ** 2 + e[t].abs() ** 2).sum(1) - 2 * both(model, h, r, t))


def test_turning_a_component_of_all_entities_changes_nothing():
    model = model_of("complex")
    h, r, t = every_triple(model)
    before = both(model, h, r, t)
    e = torch.complex(*model.entity.detach().chunk(2, dim=1))
    e[:, 2] *= torch.exp(torch.tensor(0.7j))
    model.entity.data = torch.cat([e.real, e.imag], dim=1)
    torch.testing.assert_close(both(model, h, r, t), before)


def test_squares_of_all_scores_in_closed_form():
    model = model_of("complex", [H], [R], width=1)
    assert both(model, 0, 0, 0).item() == 15
    assert model.sum_of_squares(model.entity, model.relation).item() == 225
    model = model_of("complex", n=7, r=3, width=5)
    tables = [model.entity, model.relation]
    one_by_one = sum(both(model, *x).square().sum() for x in itertools.product(range(7), range(3), range(7)))
    closed = model.sum_of_squares(*tables)
    assert closed.item() == pytest.approx(one_by_one.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(closed, tables), torch.autograd.grad(one_by_one, tables)):
        torch.testing.assert_close(a, b)
