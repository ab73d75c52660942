"""MMRNS as a whole: the contract, modalities, ablations, resuming (docs/notes/mmrns.md section 5, properties 18 to 21)."""

import math

import pytest
import torch

from nsbench.config.run import check_needs, configure
from nsbench.errors import Misuse
from nsbench.samplers.mmrns import MMRNS, Component, CrossModalAttention, Tape, contrast, mixture
from nsbench.samplers.parts.mmrns_released import HiddenStructure
from nsbench.testing import toy
from tests.samplers.mmrns_cases import no_others, reached, similarities, step_of


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
        attention = CrossModalAttention({"image": (24, 383), "text": (4, 384)}, relation)
        parts = (*attention.parameters(), *HiddenStructure(entity, relation).parameters())
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


def test_missing_as_zero_makes_twins_in_the_released_code_18(on_toy):
    data = {}
    for code in ("released", "paper"):
        trainer = on_toy(f"sampler.code={code}")
        features = trainer.setting.features["image"]
        features[11] = features[0]  # both lack text
        found, *_ = similarities(trainer, torch.tensor([0, 11, 7, 1]), range(20))
        data[code] = found[2]
    assert torch.equal(data["released"].near[:, 0], data["released"].near[:, 1])
    assert data["released"].has_candidate is None
    assert data["paper"].has_candidate.tolist() == [False, False, False, True]


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
    loss, empty = contrast(tape, torch.tensor([[0.75, 0.25], [0.5, 0.5]]), 4)
    e = math.exp
    first = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 + 0.25 * e(-0.5)))
    first_gaps = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 * e(-0.5)))
    second = -math.log(0.25 * e(1) / (0.5 * e(0.1) + 0.5 * e(0.2) + 0.25 * e(0.3)))
    assert loss.item() == pytest.approx(((first + first_gaps) / 2 + second) / 2, rel=1e-5)
    assert empty == 0


def test_without_structure_who_lacks_every_modality_is_drawn_by_nobody_and_draws_any(on_toy):
    """Entity 7 of the toy has neither image nor text."""
    trainer = on_toy("sampler.components=features")
    found, _, answer, _, _ = similarities(trainer, torch.tensor([0, 1, 2, 7, 11]), range(129))
    log_p = mixture(found, 0.5)
    bare = answer == 7
    assert bare.any()
    torch.testing.assert_close(log_p[bare].exp(), torch.full((int(bare.sum()), 5), 0.2))
    assert not log_p[~bare].exp()[:, 3].any()
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(129))
    log_p.gather(1, torch.zeros(129, 1, dtype=torch.int64)).sum().backward()
    assert all(trainer.sampler.get_parameter(name).grad.isfinite().all() for name in reached(trainer))


@pytest.mark.parametrize("components", ["all", "structure", "features"])
def test_the_chosen_components_alone_decide_and_learn(on_toy, components):
    drawn = {}
    for changed in ("nothing", "features", "entities"):
        trainer = on_toy(f"sampler.components={components}", "sampler.exploration=0.1")
        if changed == "features":
            trainer.setting.features.update({m: x.cos() for m, x in trainer.setting.features.items()})
        if changed == "entities":
            with torch.no_grad():
                trainer.kge.entity.copy_(trainer.kge.entity.cos())
        _, _, _, block, (s_pos, s_neg) = step_of(trainer)
        drawn[changed] = block.ids
    assert torch.equal(drawn["nothing"], drawn["features"]) == (components == "structure")
    assert torch.equal(drawn["nothing"], drawn["entities"]) == (components == "features")
    (s_neg.sum() + trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach())).backward()
    parts = {"structure": ("structure.",), "features": ("attention.",)}.get(components, ("structure.", "attention."))
    names = {name for name, _ in trainer.sampler.named_parameters() if name.startswith(parts)}
    assert reached(trainer) == names


def test_features_alone_need_features():
    config = configure("mmrns", "transe", "planted:small", settings=["sampler.components=features"])
    with pytest.raises(Misuse, match="needs features"):
        check_needs(config, toy(features=False))


@pytest.mark.parametrize(("components", "features", "read", "name"), [
    ("all", ["image", "text"], ["structure", "image", "text"], ""),
    ("all", ["text"], ["structure", "text"], "1 modality"),
    ("all", [], ["structure"], "structure only"),
    ("structure", ["image", "text"], ["structure"], "structure only"),
    ("features", ["image", "text"], ["image", "text"], "features only"),
    ("features", ["text"], ["text"], "features only"),
])  # fmt: skip
def test_what_it_reads_is_said(components, features, read, name):
    assert MMRNS.reads(MMRNS.Options(components=components), features, ()) == (read, name)


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
