"""Every model against a textbook formula per triple, in numpy float64, and the contract around it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import Largest, scoring_of

from nsbench.contracts import Setting
from nsbench.errors import Misuse
from nsbench.kernels import native
from nsbench.kge.fusions.none import NoFusion
from nsbench.kge.models.rotate import RotatE
from nsbench.options import build_options
from nsbench.registry import FUSIONS, MODELS

N, R, WIDTH, MARGIN = 13, 4, 6, 2.5


def build(name: str, seed: int = 0, **options):
    cls = MODELS.get(name)
    rng = torch.Generator().manual_seed(seed)
    return cls(N, R, WIDTH, MARGIN, build_options(cls.Options, options, f"kge.{name}"), rng)


def transe_l1(h, r, t):
    return MARGIN - np.abs(h + r - t).sum()


def transe_l2(h, r, t):
    return MARGIN - math.sqrt(((h + r - t) ** 2).sum())


def distmult(h, r, t):
    return (h * r * t).sum()


def rotate(h, phase, t):
    h, t = h[:WIDTH] + 1j * h[WIDTH:], t[:WIDTH] + 1j * t[WIDTH:]
    return MARGIN - np.abs(h * np.exp(1j * phase) - t).sum()


def rotate_scaled(h, r, t):
    return rotate(h, r / ((MARGIN + 2) / WIDTH / math.pi), t)


def complex_(h, r, t):
    h, r, t = (x[:WIDTH] + 1j * x[WIDTH:] for x in (h, r, t))
    return (h * r * t.conj()).sum().real


def transd(h, r, t):
    (h, v), (t, u), (r, w) = (np.split(x, 2) for x in (h, t, r))
    return MARGIN - np.abs(h + v @ h * w + r - t - u @ t * w).sum()


def transd_unit(h, r, t):
    (h, v), (t, u), (r, w) = (np.split(x, 2) for x in (h, t, r))
    h, r, t = (x / np.sqrt(x @ x) for x in (h + v @ h * w, r, t + u @ t * w))
    return MARGIN - math.sqrt(((h + r - t) ** 2).sum())


def pairre(h, r, t):
    of_head, of_tail = np.split(r, 2)
    return MARGIN - np.abs(h / np.sqrt(h @ h) * of_head - t / np.sqrt(t @ t) * of_tail).sum()


CASES = [
    pytest.param("complex", {}, complex_, id="complex"),
    pytest.param("transd", {}, transd, id="transd"),
    pytest.param("transd", {"norm": 2, "unit": True}, transd_unit, id="transd-unit-l2"),
    pytest.param("pairre", {}, pairre, id="pairre"),
    pytest.param("transe", {}, transe_l1, id="transe"),
    pytest.param("transe", {"norm": 2}, transe_l2, id="transe-l2"),
    pytest.param("distmult", {}, distmult, id="distmult"),
    pytest.param("rotate", {}, rotate_scaled, id="rotate"),
    pytest.param("rotate", {"phase": "radians"}, rotate, id="rotate-radians"),
]


@pytest.mark.parametrize(("name", "options", "formula"), CASES)
def test_scores_are_the_textbook_formula_on_both_sides(name, options, formula):
    model = build(name, **options)
    entity, relation = model.entity.detach(), model.relation.detach()
    kept, r = torch.arange(N), torch.arange(N) % R
    side = torch.arange(N) % 2 == 0
    with torch.no_grad():
        q, scale, table = model.query(entity[kept], relation[r], side), model.scale(relation[r], side), model.scored(entity)
        every = model.similarity.all_pairs(q, table, scale)
        some = model.similarity.gathered(q, table, torch.arange(N).expand(N, -1).contiguous(), scale)
    e, w = entity.double().numpy(), relation.double().numpy()
    for i in range(N):
        for c in range(N):
            h, t = (c, i) if side[i] else (i, c)
            wanted = formula(e[h], w[r[i]], e[t])
            assert every[i, c].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
            assert some[i, c].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("name", "options", "formula"), CASES)
def test_query_takes_sides_per_row_and_per_slot(name, options, formula):
    model = build(name, **options)
    b, k, s, d, width = 3, 4, 2, model.entity.shape[1], model.relation.shape[1]
    side = torch.rand(b, k) < 0.5
    e, r = torch.randn(b, k, s, d), torch.randn(b, width)
    one = torch.stack(
        [torch.stack([model.query(e[i, j], r[i].expand(s, -1), side[i, j].expand(s)) for j in range(k)]) for i in range(b)]
    )
    four = r.view(b, 1, 1, width)
    torch.testing.assert_close(model.query(e, four, side), one)
    torch.testing.assert_close(model.query(e, four, side.unsqueeze(-1)), one)
    torch.testing.assert_close(model.query(e[:, :, 0], r.unsqueeze(1), side), one[:, :, 0])
    column = model.query(e, four, side[:, :1])  # a side per row
    torch.testing.assert_close(column, model.query(e, four, side[:, 0]))
    torch.testing.assert_close(column[:, 0], one[:, 0])


@pytest.mark.parametrize(("name", "options", "formula"), CASES)
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_gradients_of_query(name, options, formula, shape):
    model = build(name, **options)
    e = torch.randn(*shape, model.entity.shape[1], dtype=torch.float64, requires_grad=True)
    lead = shape[:1] + (1,) * (len(shape) - 1)  # one relation for all K: its gradient is summed
    r = torch.randn(*lead, model.relation.shape[1], dtype=torch.float64, requires_grad=True)
    side = torch.rand(shape) < 0.5
    assert torch.autograd.gradcheck(lambda e, r: model.query(e, r, side), (e, r))


def test_the_same_generator_gives_the_same_model():
    for name in ("transe", "distmult", "rotate"):
        one, same, other = build(name, 1), build(name, 1), build(name, 2)
        assert torch.equal(one.entity, same.entity)
        assert torch.equal(one.relation, same.relation)
        assert not torch.equal(one.entity, other.entity)
        assert one.entity.abs().max() <= (MARGIN + 2) / WIDTH


def test_widths_and_exported_radians():
    scaled, radians = build("rotate"), build("rotate", phase="radians")
    assert scaled.entity.shape == (N, 2 * WIDTH)
    assert scaled.relation.shape == (R, WIDTH)
    assert radians.relation.abs().max() > (MARGIN + 2) / WIDTH  # uniform in +-pi, not in the range of the entities
    assert radians.relation.abs().max() <= math.pi + 1e-6
    torch.testing.assert_close(scaled.export()["relation"], radians.relation.detach())  # the same draw, two units
    assert torch.equal(radians.export()["relation"], radians.relation.detach())
    assert not scaled.export()["relation"].requires_grad
    assert build("transe").entity.shape == (N, WIDTH)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(Misuse, match="norm must be one of 1, 2"):
        build("transe", norm=3)
    with pytest.raises(Misuse, match="phase must be one of"):
        build("rotate", phase="degrees")
    with pytest.raises(ValueError, match="leading dimensions"):
        build("transe").query(torch.randn(2, 6), torch.randn(2, 6), torch.zeros(2, 3, dtype=torch.bool))


def test_no_fusion_is_the_structural_vector():
    features = {"text": torch.randn(N, 3)}
    setting = Setting(None, 5, MARGIN, 8, 8, features, {"text": torch.ones(N, dtype=torch.bool)})  # type: ignore[arg-type]
    fusion = FUSIONS.get("none")(setting, None)
    assert isinstance(fusion, NoFusion)
    entity, ids = torch.randn(N, 8, requires_grad=True), torch.tensor([[1, 2], [1, 0]])
    assert list(fusion.views(entity)) == ["entity"]
    assert fusion.views(entity)["entity"] is entity
    slots, mask = fusion.slots(entity, ids), fusion.slot_mask(ids)
    assert slots.shape == (2, 2, 1, 8)
    assert mask.tolist() == [[[True], [True]], [[True], [True]]]
    assert torch.equal(fusion.fuse(slots, mask), entity[ids])
    (grad,) = torch.autograd.grad(slots.sum(), entity)
    assert grad[:, 0].tolist() == [1, 2, 1] + [0] * (N - 3)


def wide_rotate(seed, phase):
    options = build_options(RotatE.Options, {"phase": phase}, "kge")
    return RotatE(9, 40, 30, 3.0, options, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("phase", ["scaled", "radians"])
def test_phases_start_all_around_the_circle(phase):
    radians = wide_rotate(0, phase).export()["relation"]
    assert radians.abs().max() <= math.pi * (1 + 1e-5)
    counts = torch.histc(radians, 6, -math.pi, math.pi)
    assert (counts - 200).abs().max() < 5 * 200**0.5


@pytest.mark.parametrize("phase", ["scaled", "radians"])
def test_a_saved_model_comes_back_as_it_was(phase):
    saved, other = wide_rotate(0, phase), wide_rotate(1, phase)
    assert not torch.allclose(saved.relation, other.relation)
    other.restore(saved.export())
    assert torch.allclose(saved.relation, other.relation)
    assert torch.equal(saved.entity, other.entity)


SIZES = [  # docs/notes/models.md 3: millions of parameters at d = 200 for MKG-W
    ("transe", {}, 3.03),
    ("complex", {}, 6.07),
    ("transd", {}, 6.07),
    ("pairre", {}, 3.07),
    ("gcote", {}, 3.14),
    ("gcote", {"size": 20}, 3.68),
]


@pytest.mark.parametrize(("name", "options", "millions"), SIZES)
def test_numbers_of_parameters(name, options, millions):
    cls = MODELS.get(name)
    model = cls(15_000, 169, 200, 3.0, build_options(cls.Options, options, "kge"), torch.Generator())
    assert sum(x.numel() for x in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)


@pytest.mark.parametrize("kernels", ["native", "eager"])
@pytest.mark.parametrize("name", ["transe", "complex", "transd", "pairre", "gcote"])
def test_nothing_is_as_large_as_queries_times_entities_times_width(name, kernels, monkeypatch):
    monkeypatch.setattr(native, "_chosen", kernels)
    queries, entities, width = 64, 9_000, 64
    cls = MODELS.get(name)
    model = cls(entities, 3, width, 3.0, cls.Options(), torch.Generator())
    scoring = scoring_of(model)
    anchor = torch.arange(queries)
    query = anchor, anchor % 3, torch.zeros(queries, dtype=torch.bool)
    ids = torch.randint(entities, (queries, 500))
    (encoded,) = scoring.tables.values()
    table, wide = encoded.numel(), encoded.shape[1]
    with torch.no_grad(), Largest() as ranked:
        scoring.all(*query)
    with Largest() as drawn:
        scoring.ids(*query, ids).sum().backward()
    assert ranked.numbers <= max(queries * entities, table)  # the scores themselves
    assert drawn.numbers <= table < queries * 500 * wide  # no row for each candidate
