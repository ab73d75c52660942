"""MMRNS as a whole: the contract, modalities, ablations, resuming (docs/notes/mmrns.md section 5, properties 18 to 21)."""

import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.samplers import mmrns
from nsbench.samplers.mmrns import Component, Structure, Tape, contrast, mixture, per_row
from tests.samplers.mmrns_cases import no_others, similarities, step_of


@pytest.mark.parametrize("features", [(), ("text",), ("image",), ("image", "text")])
def test_any_modalities_serve(on_toy, features):
    trainer = on_toy(features=features)
    trainer.step()
    assert trainer.sampler.attention.names == sorted(features)
    assert math.isfinite(trainer.loss_sum.item())


def test_features_are_loaded_where_there_are_any():
    assert configure("mmrns", "transe", "planted:small").wants_features
    assert not configure("uniform", "transe", "planted:small").wants_features


def test_parameters_are_as_many_as_counted():
    """Section 4.6, with the two layers of the released code."""
    for entity, relation, expected in ((200, 200, 207_542), (400, 200, 247_742), (400, 400, 306_142), (200, 400, 265_942)):
        attention = mmrns.CrossModalAttention({"image": (24, 383), "text": (4, 384)}, relation)
        parts = (*attention.parameters(), *Structure(entity, relation, 2).parameters())
        assert sum(p.numel() for p in parts) == expected


def test_who_lacks_a_modality_has_no_share_in_it_18(on_toy):
    """Entities 0, 7 and 11 of the toy lack text; 7 and 20 lack an image."""
    trainer = on_toy()
    found, _, answer, _, _ = similarities(trainer, torch.tensor([0, 1, 2, 7, 11]), range(60))
    structure, image, text = found
    p = mixture(found, 0.5).exp()
    assert (p > 0).all()
    only_text = mixture([text], 0.5).exp()
    whole = torch.isin(answer, torch.tensor([0, 7, 11]), invert=True)
    assert whole.any()
    assert not only_text[whole][:, [0, 3, 4]].any()
    textless = torch.isin(answer, torch.tensor([0, 11]))
    assert textless.any()
    without = (structure.near / 0.5).softmax(1)
    seen = image.near[:, [0, 1, 2, 4]] / 0.5  # candidate 7 has no image
    without[:, [0, 1, 2, 4]] += seen.softmax(1)
    torch.testing.assert_close(p[textless], without[textless] / 2)
    torch.testing.assert_close(p.sum(1), torch.ones(60))


def test_missing_as_zero_makes_twins_18(on_toy):
    data = {}
    for missing in ("zero", "mask"):
        trainer = on_toy(f"sampler.missing={missing}")
        features = trainer.setting.features["image"]
        features[11] = features[0]  # both lack text
        found, *_ = similarities(trainer, torch.tensor([0, 11, 7, 1]), range(20))
        data[missing] = found[2]
    assert torch.equal(data["zero"].near[:, 0], data["zero"].near[:, 1])
    assert data["zero"].has_candidate is None
    assert data["mask"].has_candidate.tolist() == [False, False, False, True]


def test_the_contrast_skips_what_lacks_the_modality_18():
    near = torch.tensor([[0.5, 0.0, -0.5], [0.1, 0.2, 0.3]])
    whole = Component(near, torch.ones(2), torch.zeros(0))
    gaps = Component(
        near,
        torch.ones(2),
        torch.zeros(0),
        torch.tensor([True, False, True]),
        torch.tensor([True, False]),
        torch.zeros(0, dtype=torch.bool),
    )
    tape = Tape([whole, gaps], torch.zeros(2, 3, dtype=torch.bool), torch.tensor([[0, 1], [0, 1]]), no_others())
    loss, empty = per_row(contrast(tape, torch.tensor([[0.75, 0.25], [0.5, 0.5]]), 0.25, True))
    e = math.exp
    first = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 + 0.25 * e(-0.5)))
    first_gaps = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 * e(-0.5)))
    second = -math.log(0.25 * e(1) / (0.5 * e(0.1) + 0.5 * e(0.2) + 0.25 * e(0.3)))
    assert loss.item() == pytest.approx(((first + first_gaps) / 2 + second) / 2, rel=1e-5)
    assert empty == 0


def test_ablations_19(on_toy):
    assert step_of(on_toy("sampler.beta=0"))[3].tape is None  # w/o CSS: no loss of its own
    trainer = on_toy("sampler.beta=0")
    assert trainer.sampler.feedback(step_of(trainer)[3], torch.zeros(16), torch.zeros(16, 3)) is None
    assert not len(on_toy("sampler.attention=false").sampler.attention.gate)
    trainer = on_toy("sampler.relation=false")
    found, *_ = similarities(trainer, torch.arange(6))
    with torch.no_grad():
        trainer.kge.relation.mul_(-3)
    moved, *_ = similarities(trainer, torch.arange(6))
    assert all(torch.equal(a.near, b.near) for a, b in zip(found, moved))


def test_describe_averages_over_the_steps(on_toy, monkeypatch):
    trainer = on_toy("sampler.exploration=1e6")
    sample, invalid = trainer.sampler.sample, []

    def watched(positives, view):
        block = sample(positives, view)
        invalid.append((~block.valid).double().mean().item())
        return block

    monkeypatch.setattr(trainer.sampler, "sample", watched)
    for _ in range(20):
        trainer.step()
    said = trainer.sampler.describe()
    assert said["invalid"] == pytest.approx(sum(invalid) / 20)
    assert said["invalid"] > 0  # eight candidates, and a query with 29 answers among 40 entities
    assert said["entropy"] == pytest.approx(1, abs=0.15)  # uniform, but for who lacks a modality
