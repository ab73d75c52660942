"""TransD: docs/notes/models.md 5, tests 1-10."""

import math

import pytest
import torch
from models import both, every_triple, model_of, scores, scoring_of

ENTITY = [[1, 2, 0.5, 0.5], [3, 1, 1, 0]]
RELATION = [[1, 1, 2, -1]]
EVERY_OPTION = [{"norm": p, "unit": u} for p in (1, 2) for u in (False, True)]


@pytest.mark.parametrize(
    ("options", "score"),
    [({}, 4.5), ({"norm": 2}, 12 - math.sqrt(28.25)), ({"unit": True}, 12 - 1.7713)],
)
def test_by_hand(options, score):
    model = model_of("transd", ENTITY, RELATION, width=2, margin=12.0, **options)
    assert both(model, 0, 0, 1).item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("options", EVERY_OPTION)
def test_both_sides_are_the_explicit_matrices(options):
    model = model_of("transd", **options)
    h, r, t = every_triple(model)
    e, v = model.entity.detach().chunk(2, dim=1)
    moved, w = model.relation.detach().chunk(2, dim=1)
    projected = []
    for end in (h, t):
        matrix = w[r].unsqueeze(2) @ v[end].unsqueeze(1) + torch.eye(4, dtype=torch.float64)
        x = (matrix @ e[end].unsqueeze(2)).squeeze(2)
        projected.append(x / x.norm(dim=1, keepdim=True) if options["unit"] else x)
    by = moved[r] / moved[r].norm(dim=1, keepdim=True) if options["unit"] else moved[r]
    distance = (projected[0] + by - projected[1]).norm(p=options["norm"], dim=1)
    torch.testing.assert_close(both(model, h, r, t), 3 - distance)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("zero", ["relations", "entities"])
def test_without_projections_it_is_transe(norm, zero):
    model = model_of("transd", norm=norm)
    (model.relation if zero == "relations" else model.entity).data[:, 4:] = 0
    plain = model_of("transe", model.entity.detach()[:, :4], model.relation.detach()[:, :4], norm=norm)
    h, r, t = every_triple(model)
    torch.testing.assert_close(both(model, h, r, t), both(plain, h, r, t))


def test_an_entity_without_projection_enters_as_in_transe():
    model = model_of("transd")
    model.entity.data[0, 4:] = 0
    h, r, t = torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64), torch.arange(1, 9)
    e, v = model.entity.detach().chunk(2, dim=1)
    by, w = model.relation.detach()[0].chunk(2)
    other = e[t] + (v[t] * e[t]).sum(1, keepdim=True) * w
    torch.testing.assert_close(both(model, h, r, t), 3 - (e[0] + by - other).abs().sum(1))


def test_all_projections_zero_is_a_saddle():
    model = model_of("transd")
    model.entity.data[:, 4:], model.relation.data[:, 4:] = 0, 0
    for grad in torch.autograd.grad(scores(model, *every_triple(model), False).sum(), [model.entity, model.relation]):
        assert not grad[:, 4:].any()
        assert grad[:, :4].any()


def test_turning_all_projections_round_changes_nothing():
    model, turned = model_of("transd"), model_of("transd")
    turned.entity.data[:, 4:] *= -1
    turned.relation.data[:, 4:] *= -1
    h, r, t = every_triple(model)
    torch.testing.assert_close(both(model, h, r, t), both(turned, h, r, t))


@pytest.mark.parametrize("norm", [1, 2])
def test_unit_vectors_bound_the_scores(norm):
    model = model_of("transd", norm=norm, unit=True)
    found = both(model, *every_triple(model))
    assert found.max() <= 3
    assert found.min() >= 3 - 3 * (2 if norm == 1 else 1)  # sqrt(d) = 2
    q = torch.zeros(1, 8, dtype=torch.float64)
    q[:, 4:] = 1.7
    score = model_of("transd", norm=2, unit=True).similarity.pairwise(q, model.entity)
    torch.testing.assert_close(3 - score, torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("options", EVERY_OPTION)
def test_all_entities_at_once(options):
    model = model_of("transd", dtype=torch.float32, n=70, **options)
    scoring, anchor = scoring_of(model), torch.arange(70)
    side = anchor % 2 == 0
    every = anchor.expand(70, 70).contiguous()
    torch.testing.assert_close(
        scoring.all(anchor, anchor % 3, side), scoring.ids(anchor, anchor % 3, side, every), rtol=1e-4, atol=1e-4
    )
