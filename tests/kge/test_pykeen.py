"""Scores of all triples against PyKEEN's interaction functions, on the same tables."""

import pytest
import torch
from models import both, every_triple, model_of

modules = pytest.importorskip("pykeen.nn.modules", reason="needs the extra nsbench[peers]")


def complex_(h, r, t):
    return modules.ComplExInteraction()(*(torch.complex(*x.chunk(2, dim=1)) for x in (h, r, t)))


def transd(norm):
    interaction = modules.TransDInteraction(p=norm, power_norm=False)
    return lambda *hrt: 3 + interaction(*(x.chunk(2, dim=1) for x in hrt))


def pairre(h, r, t):
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (h, t)]  # which PyKEEN leaves to its model
    return 3 + modules.PairREInteraction(p=1, power_norm=False)(unit[0], r.chunk(2, dim=1), unit[1])


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [("complex", {}, complex_), ("transd", {}, transd(1)), ("transd", {"norm": 2}, transd(2)), ("pairre", {}, pairre)],
)
def test_scores_are_pykeens(name, options, theirs):
    model = model_of(name, **options)
    model.entity.data *= 0.1  # PyKEEN's TransD clamps projected entities to length 1
    model.relation.data *= 0.3
    h, r, t = every_triple(model)
    entity, relation = model.entity.detach(), model.relation.detach()
    torch.testing.assert_close(both(model, h, r, t).detach(), theirs(entity[h], relation[r], entity[t]))
