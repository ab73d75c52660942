"""Two views of an entity: tables and scores against loops in numpy float64, missing features, and whole steps."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from nsbench.contracts import Need
from nsbench.errors import Misuse
from nsbench.kge.fusions.maps import chosen
from nsbench.kge.fusions.two_view import TwoView
from nsbench.testing.rules import assert_contract, toy
from tests.kge.fusions import made, same, steps, trainer_of, with_features

trainer_for = functools.partial(trainer_of, fusion="two_view")
fusion_of = functools.partial(made, TwoView)


# The views


@pytest.mark.parametrize("modality", ["image", "text"])
def test_tables_are_the_structure_and_the_projected_feature(modality):
    data = toy(features=True)
    data.features["text"][3, 1:] = 0  # a single token
    fusion, entity = fusion_of(data, modality=modality), torch.randn(40, 5)
    tables = fusion.views(entity)
    assert list(tables) == ["structure", modality]
    assert tables["structure"] is entity
    w, b = (x.detach().double().numpy() for x in (fusion.project.weight, fusion.project.bias))
    for e in range(40):
        x = data.features[modality][e].double().numpy()
        if modality == "text":
            tokens = [token for token in x if np.any(token != 0)]
            x = sum(tokens) / len(tokens)
        wanted = w @ x + b if data.present[modality][e] else entity[e].numpy()
        np.testing.assert_allclose(tables[modality][e].detach().numpy(), wanted, atol=1e-5)
    assert not data.present[modality].all()


def plausible(kge, gamma, h, r, t):
    """The three models as their papers write them; RotatE's r is in radians."""
    if kge == "distmult":
        return (h * r * t).sum()
    if kge == "transe":
        return gamma - np.abs(h + r - t).sum()
    h, t = (x[: len(r)] + 1j * x[len(r) :] for x in (h, t))
    return gamma - np.abs(h * np.exp(1j * r) - t).sum()


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_a_score_is_the_sum_of_four_pairs_and_ranking_uses_it(kge):
    trainer = trainer_for(kge=kge)
    scoring = trainer.scoring()
    tables = {name: x.double().numpy() for name, x in scoring.tables.items()}
    r = trainer.kge.export()["relation"].double().numpy()
    anchor, relation, side = torch.tensor([3, 7, 20]), torch.tensor([0, 1, 2]), torch.tensor([False, True, False])
    every = scoring.all(anchor, relation, side)
    some = scoring.ids(anchor, relation, side, torch.arange(40).expand(3, -1).contiguous())
    for q in range(3):
        for e in range(40):
            h, t = (e, anchor[q]) if side[q] else (anchor[q], e)
            wanted = sum(
                plausible(kge, trainer.kge.margin, a[h], r[relation[q]], b[t])
                for a in tables.values()
                for b in tables.values()
            )
            assert every[q, e].item() == pytest.approx(wanted, abs=1e-4)
            assert some[q, e].item() == pytest.approx(wanted, abs=1e-4)


# Which modality


def test_the_second_view_is_the_image_or_the_first_by_name_or_the_one_asked_for():
    assert chosen("auto", ["audio", "image", "text"]) == "image"
    assert chosen("auto", ["names", "official:textual", "official:visual"]) == "official:visual"
    assert chosen("auto", ["audio", "text"]) == "audio"
    assert chosen("auto", []) is None
    assert chosen("text", ["image", "text"]) == "text"
    with pytest.raises(Misuse, match="'imag', which the dataset does not have; did you mean 'image'"):
        chosen("imag", ["image", "text"])
    with pytest.raises(Misuse, match="it has none"):
        fusion_of(toy(), modality="image")


@pytest.mark.parametrize("names", [("text", "audio"), ("audio", "text")])
def test_the_second_view_is_the_first_by_name(names):
    features = {"audio": torch.ones(40, 3), "text": torch.ones(40, 4)}
    everyone = torch.ones(40, dtype=torch.bool)
    data = with_features({name: features[name] for name in names}, dict.fromkeys(names, everyone))
    fusion = fusion_of(data)
    assert list(fusion.views(torch.zeros(toy().num_entities, 5))) == ["structure", "audio"]
    assert fusion.project.phi.shape == (40, 3)


def test_it_offers_views_alone():
    assert TwoView.provided(None) == {Need.VIEWS, Need.PARTS, Need.SQUARE}
    with pytest.raises(Misuse, match="has several views; use --fusion none or adamf"):
        steps(trainer_for(sampler="dhns"), 1)


# Missing features


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_where_nobody_has_the_feature_candidates_are_ordered_as_by_structure_alone(kge):
    data = toy(features=True)
    absent = with_features(data.features, {m: torch.zeros_like(x) for m, x in data.present.items()})
    query = torch.tensor([3, 20]), torch.tensor([0, 2]), torch.tensor([False, True])
    both, alone = (trainer_for(kge=kge, fusion=fusion, data=absent).scoring().all(*query) for fusion in ("two_view", "none"))
    torch.testing.assert_close(both, 4 * alone)


def test_what_the_features_of_those_without_hold_has_no_influence():
    data = toy(features=True)
    found = []
    for fill in (0.0, torch.nan):
        table = {m: x.clone() for m, x in data.features.items()}
        for m, x in table.items():
            x[~data.present[m]] = fill
        trainer = trainer_for(data=with_features(table, data.present))
        steps(trainer, 10)
        found.append(trainer.model_state() | {"loss": trainer.loss_sum} | trainer.scoring().tables)
    assert same(*found)
    assert all(x.isfinite().all() for x in found[1].values())


def test_without_modalities_it_is_no_fusion_at_all():
    found = []
    for fusion in ("two_view", "none"):
        trainer = trainer_for(fusion=fusion, data=toy())
        steps(trainer, 12)
        (table,) = trainer.scoring().tables.values()
        found.append(trainer.model_state() | {"loss": trainer.loss_sum, "table": table})
    assert same(*found)


# Learning and state


def test_features_are_frozen_and_the_projection_learns():
    trainer = trainer_for()
    raw, before = trainer.fusion.project.phi.clone(), trainer.model_state()
    steps(trainer, 5)
    after = trainer.model_state()
    assert torch.equal(raw, trainer.fusion.project.phi)
    assert [name for name in before if name.startswith("fusion.")] == ["fusion.project.weight", "fusion.project.bias"]
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_gradients_of_an_entity_reach_its_structure_and_the_map_if_it_has_the_feature():
    fusion = fusion_of(toy(features=True))
    entity = torch.randn(40, 5, requires_grad=True)
    for e, has in ((3, True), (7, False)):  # 7 has no image
        tables = fusion.views(entity)
        to_entity, to_map = torch.autograd.grad(tables["image"][e].sum(), (entity, fusion.project.weight))
        assert to_entity[e].eq(0 if has else 1).all()
        assert to_map.any().item() is has


def test_the_battery():
    assert_contract("uniform", "rotate", fusion="two_view", device="cpu")
