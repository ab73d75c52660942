"""What generated negatives do to the model: notes/dhns.md section 5, properties 22 (a test per row of its table) to 31."""

import dataclasses
import math

import pytest
import torch

from nsbench.contracts import Generated, Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.samplers.parts.chain import both_ends
from nsbench.testing.rules import toy
from nsbench.training.losses import block_loss
from tests.samplers.dhns_cases import KGES, drawn, generated, make, trained


def pulled(made):
    """Which of the model's parts hold a gradient."""
    entity = made.kge.entity.grad
    parts = {"entity": entity, "relation": made.kge.relation.grad, "attention": getattr(made.fusion, "q", None)}
    found = {name: x is not None and (x if name != "attention" else x.grad) is not None for name, x in parts.items()}
    projections = [p.grad for p in made.fusion.project.parameters()] if hasattr(made.fusion, "project") else []
    found["projections"] = any(g is not None and bool(g.abs().sum() > 0) for g in projections)
    theta = [p.grad for p in made.sampler.parameters()]
    return {name for name, has in found.items() if has} | ({"theta"} if any(g is not None for g in theta) else set())


def rows_pulled(made):
    grad = made.kge.entity.grad
    return set() if grad is None else set(grad.abs().sum(1).nonzero().squeeze(1).tolist())


def one_triple(made):
    """A positive with both features on either end, so that nothing is masked."""
    mask = made.fusion.slot_mask(made.graph.triples[:, [0, 2]]).all(2).all(1)
    mask &= made.graph.triples[:, 0] != made.graph.triples[:, 2]
    return made.graph.positives(mask.nonzero()[:1, 0])


EVERYTHING = {"entity", "relation", "projections", "attention"}


@pytest.mark.parametrize(("fusion", "reached"), [("none", {"entity", "relation"}), ("adamf", EVERYTHING)])
def test_gradient_of_the_base_loss(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring = Scoring(made.kge, made.fusion, made.graph)
    base = made.sampler.sample(positives, made._view(scoring, live=False))[0]
    block_loss(*scoring.block(positives, base), base, 0.0, None).backward()
    assert pulled(made) == reached


@pytest.mark.parametrize("leak", [False, True])
def test_gradient_of_the_noise_loss(leak):
    made = make("distmult", f"sampler.leak={leak}", "sampler.weight=0" if leak else "sampler.weight=0.01")
    positives = one_triple(made)
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    scoring = Scoring(made.kge, made.fusion, made.graph)
    blocks = made.sampler.sample(positives, made._view(scoring, live=leak))
    assert any((a != b).any() for a, b in zip(before, made.sampler.diffusion.parameters()))  # theta has moved
    zero = torch.zeros(1)
    found = [made.sampler.feedback(block, zero, zero.expand(1, block.shape[1])) for block in blocks]
    if not leak:
        assert found == [None] * len(blocks)
        assert pulled(made) == set()
        return
    (loss,) = [x for x in found if x is not None]
    loss.backward()
    assert pulled(made) == {"entity", "relation", "projections"}
    assert rows_pulled(made) == {positives.h.item(), positives.t.item()}


@pytest.mark.parametrize("variant", ["recommended", "released"])
@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_gradient_of_generated_negatives(fusion, variant):
    joint = "sampler.joint=fuse" if variant == "released" else "sampler.joint=score"
    made = make("distmult", f"sampler.variant={variant}", joint, "sampler.timesteps=25", fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    kept = {"head": {positives.t.item()}, "tail": {positives.h.item()}, "both": set()}
    assert [block.tape.ends for block in blocks] == list(kept)[: len(blocks)]
    for block in blocks:
        _, s_neg = scoring.block(positives, block)
        (s_neg * block.weight).sum().backward(retain_graph=True)
        reached = {"relation"} if block.generated.anchors is not None else {"entity", "relation"}
        if fusion == "adamf":  # the kept end is fused; so, in `released`, is what was generated
            reached |= {"attention"} if block.generated.anchors is not None else {"attention", "projections"}
        assert pulled(made) == reached, block.tape.ends
        assert rows_pulled(made) == kept[block.tape.ends]
        for module in (made.kge, made.fusion):
            module.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("fusion", "reached"), [("none", {"entity", "relation"}), ("adamf", EVERYTHING)])
def test_gradient_of_the_positive_term(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    s_pos, s_neg = scoring.block(positives, blocks[0])
    block_loss(s_pos, s_neg.detach(), blocks[0], 0.0, None).backward()
    assert pulled(made) == reached
    assert rows_pulled(made) == {positives.h.item(), positives.t.item()}


@pytest.mark.parametrize("kge", KGES)
@pytest.mark.parametrize("silent", ["sampler.weight=0", "sampler.warmup=1000", "sampler.variant=wo_diffheg"])
def test_without_generated_negatives_the_model_is_the_bases_bit_for_bit(kge, silent):
    plain, silenced = make(kge, sampler="uniform"), make(kge, silent)
    for made in (plain, silenced):
        trained(made, 3)
    for name, x in plain.model_state().items():
        assert torch.equal(x, silenced.model_state()[name]), name
    loud = trained(make(kge), 3)
    assert not torch.equal(loud.kge.entity, plain.kge.entity)


def test_with_the_leak_and_no_negatives_the_projections_still_learn():
    """Property 24. The fusion scores here, so that what the leak adds is compared with its absence."""
    moved = {}
    for leak in (False, True):
        made = make("distmult", "sampler.variant=released", f"sampler.leak={leak}", "sampler.weight=0")
        moved[leak] = trained(made, 3).model_state()
    plain = trained(make("distmult", sampler="uniform"), 3)
    assert all(torch.equal(x, moved[False][name]) for name, x in plain.model_state().items())
    assert not torch.equal(moved[True]["fusion.project.0.weight"], plain.model_state()["fusion.project.0.weight"])


def test_leaked_gradient_is_that_of_the_noise_loss_by_finite_differences():
    made = make("rotate", "sampler.variant=released", "sampler.weight=0", "sampler.timesteps=6", fusion="none", width=2)
    sampler, positives = made.sampler, made.graph.positives(torch.tensor([4]))
    state = {name: x.clone() for name, x in sampler.diffusion.state_dict().items()}
    stream = sampler.rng.get_state()

    def loss():
        sampler.diffusion.load_state_dict(state)
        sampler.rng.set_state(stream)
        with torch.no_grad():
            return sampler.diffusion.loss(both_ends(positives, made.view, masked=False), sampler.rng)[0].item()

    value = loss()
    sampler.rng.set_state(stream)
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=True)
    sampler.sample(positives, view)
    leaked = sampler.leaked
    assert leaked.item() == pytest.approx(value, rel=1e-5)
    leaked.backward()
    sampler.leaked = None
    for table, row in ((made.kge.entity, positives.h), (made.kge.entity, positives.t), (made.kge.relation, positives.r)):
        for column in range(table.shape[1]):
            found = table.grad[row.item(), column].item()
            step = 1e-2 * table.abs().max().item()
            with torch.no_grad():
                table[row, column] += step
                up = loss()
                table[row, column] -= 2 * step
                down = loss()
                table[row, column] += step
            assert found == pytest.approx((up - down) / (2 * step), rel=0.05, abs=0.01)


def test_temperature_does_not_reach_generated_negatives():
    made = make()
    positives = made.graph.positives(torch.arange(5))
    scoring, blocks = generated(made, positives)
    for block in blocks:
        scores = scoring.block(positives, block)
        cold, hot = (block_loss(*scores, block, temperature, None).item() for temperature in (0.0, 3.0))
        assert cold == hot


def test_released_factors():
    """Property 27: with constant scores, 0.75 mu on the generated part and (1 + 0.75 mu) / 2 on positives."""
    made = make("transe", "sampler.variant=released", "sampler.timesteps=50", "sampler.weight=0.2")
    positives = made.graph.positives(torch.arange(5))
    _, blocks = generated(made, positives)
    s_pos, s_neg = torch.full((5,), 0.7), torch.full((5, 4), -0.4)
    assert len(blocks) == 3
    total = sum(block_loss(s_pos, s_neg, dataclasses.replace(block, margin_shift=None), 0.0, None) for block in blocks)
    expected = 0.5 * 0.75 * 0.2 * (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(-0.4)))
    assert total.item() == pytest.approx(expected, rel=1e-5)
    level_by_level = 0.0  # sum over levels and corruptions of w_l / 12, as in Trainer_dhns
    for weight, margin in zip((0.5, 1, 1, 0.5), (0.3, 0.5, 0.7, 0.9)):
        shifted = -0.4 - (1 - margin) * made.protocol.margin
        level_by_level += 0.5 * 0.2 * 3 * weight / 12 * (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(shifted)))
    assert sum(block_loss(s_pos, s_neg, b, 0.0, None) for b in blocks).item() == pytest.approx(level_by_level, rel=1e-5)


def test_paper_loss_by_hand():
    """Eq. 13: positives get each level's margin and no weight; levels, sides and batch are averaged."""
    made = make("transe", "sampler.timesteps=50", "sampler.weight=0.3")
    positives = made.graph.positives(torch.arange(2))
    _, blocks = generated(made, positives)
    s_pos = torch.tensor([0.5, -1.0])
    s_neg = torch.tensor([[0.1, 0.2, 0.3, 0.4], [-1.0, 0.0, 1.0, 2.0]])
    expected = 0.0
    for row in range(2):
        for place, (w, m) in enumerate(zip((0.05, 0.1, 0.2, 0.5), (0.3, 0.5, 0.7, 0.9))):
            shift = (1 - m) * made.protocol.margin
            w *= 4 / 0.85
            expected += math.log1p(math.exp(-(s_pos[row].item() - shift)))
            expected += w * math.log1p(math.exp(s_neg[row, place].item() - shift))
    expected *= 0.5 * 0.3 / (2 * 4)  # 1/2 of the common trainer; equal for both sides
    assert sum(block_loss(s_pos, s_neg, b, 0.0, None) for b in blocks).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kge", "gamma0", "gamma"), [("transe", 9.0, 3.0), ("rotate", 9.0, 3.0), ("distmult", 4.0, 4.0)])
def test_margins_are_the_models_or_gamma0(kge, gamma0, gamma):
    made = make(kge, f"sampler.gamma0={gamma0}", "protocol.margin=3")
    _, _, blocks = drawn(made)
    expected = torch.tensor([-0.7, -0.5, -0.3, -0.1]) * gamma
    for block in blocks[1:]:
        assert torch.allclose(block.margin_shift, expected.expand(16, 4))
    if kge != "distmult":  # the negative's logit is m_l gamma - distance
        positives = made.graph.positives(torch.arange(0, 48, 3))
        scores = made.scoring().block(positives, blocks[2])[1]
        assert torch.allclose(scores + blocks[2].margin_shift, (scores - gamma) + torch.tensor([0.3, 0.5, 0.7, 0.9]) * gamma)


def test_released_distmult_has_no_margins_in_effect():
    made = make("distmult", "sampler.variant=released")
    _, _, blocks = drawn(made)
    assert all((block.margin_shift == 0).all() for block in blocks[1:])


@pytest.mark.parametrize("variant", ["recommended", "released"])
def test_the_order_of_slots_does_not_matter(variant):
    made = make("distmult", f"sampler.variant={variant}")
    positives, _, blocks = drawn(made)
    block, generated = blocks[2], blocks[2].generated
    assert generated.joint == ("score" if variant == "recommended" else "fuse")
    order = [2, 0, 1]
    turned = Generated(generated.vectors[:, :, order], generated.slot_mask[:, order], joint=generated.joint)
    found = [made.scoring().block(positives, dataclasses.replace(block, generated=g))[1] for g in (generated, turned)]
    assert torch.allclose(*found, atol=1e-5)


def test_joint_mean_is_over_the_slots_there_are_and_the_score_for_one():
    made = make()
    positives, _, blocks = drawn(made)
    scoring, block = made.scoring(), blocks[2]
    kept = scoring.vectors(positives.h) * made.kge.relation[positives.r]  # DistMult's query of the fused head
    by_hand = torch.einsum("bd,blsd->bls", kept, block.generated.vectors) * block.generated.slot_mask.unsqueeze(1)
    expected = by_hand.sum(2) / block.generated.slot_mask.sum(1, keepdim=True)
    assert torch.allclose(scoring.block(positives, block)[1], expected, atol=1e-5)
    alone = make(fusion="none")
    positives, _, blocks = drawn(alone)
    assert blocks[2].generated.vectors.shape == (16, 4, 1, 8)
    structural = Negatives(blocks[2].side, generated=Generated(blocks[2].generated.vectors.squeeze(2)))
    scoring = alone.scoring()
    assert torch.allclose(scoring.block(positives, blocks[2])[1], scoring.block(positives, structural)[1])


@pytest.mark.parametrize("chain", ["reverse", "forward", "gauss"])
def test_invalid_slots_do_not_matter(chain, monkeypatch):
    """Property 31: what a missing slot holds, nan included, changes no loss and no gradient."""
    totals = []
    for filling in (0.0, torch.nan):
        made = make("distmult", f"sampler.chain={chain}")
        slots = made.fusion.slots

        def filled(entity, ids, made=made, slots=slots, filling=filling):
            return torch.where(made.fusion.slot_mask(ids).unsqueeze(-1), slots(entity, ids), filling)

        monkeypatch.setattr(made.fusion, "slots", filled)
        trained(made, 3)
        assert all(x.isfinite().all() for x in made.model_state().values() if x.is_floating_point())
        totals.append(made)
    assert totals[0].loss_sum.item() == totals[1].loss_sum.item()
    assert torch.equal(totals[0].kge.entity, totals[1].kge.entity)


def test_both_ends_count_the_slots_that_both_have():
    made = make("distmult", "sampler.variant=released", "sampler.missing=mask")
    positives, _, blocks = drawn(made, range(0, 129, 3))
    mask = {ids: made.fusion.slot_mask(getattr(positives, ids)) for ids in "ht"}
    assert torch.equal(blocks[1].generated.slot_mask, mask["t"])  # a head is generated from the tail's slots
    assert torch.equal(blocks[2].generated.slot_mask, mask["h"])
    assert torch.equal(blocks[3].generated.slot_mask, mask["h"] & mask["t"])
    assert (blocks[3].generated.slot_mask != mask["h"]).any()
    assert blocks[3].generated.anchors.data_ptr() == blocks[1].generated.vectors.data_ptr()
    assert blocks[3].generated.vectors.data_ptr() == blocks[2].generated.vectors.data_ptr()


def test_without_any_feature_the_result_is_that_of_structure_alone():
    data = toy(features=True)
    bare = dataclasses.replace(data, present={name: torch.zeros_like(x) for name, x in data.present.items()})
    made = make("distmult", dataset=bare)
    positives, _, blocks = drawn(made)
    assert blocks[2].generated.slot_mask.sum(1).eq(1).all()
    structural = Negatives(blocks[2].side, generated=Generated(blocks[2].generated.vectors[:, :, 0]))
    scoring = made.scoring()
    assert torch.allclose(scoring.block(positives, blocks[2])[1], scoring.block(positives, structural)[1], atol=1e-6)
