"""What generated negatives do to the model: notes/dhns.md section 5, properties 22 (a test per row of its table) to 31."""

import math

import pytest
import torch

from nsbench.contracts.scoring import Scoring
from nsbench.samplers import dhns
from nsbench.training.losses import block_loss
from tests.samplers.dhns_cases import KGES, drawn, generated, make, one_triple, pulled, rows_pulled, trained

SLOTS = ["fused", "each", "attended", "structure"]
EVERYTHING = {"entity", "relation", "projections", "attention"}
REACHED = [("none", {"entity", "relation"}), ("adamf", EVERYTHING)]


@pytest.mark.parametrize(("fusion", "reached"), REACHED)
def test_gradient_of_the_uniform_negatives(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring = Scoring(made.kge, made.fusion, made.graph)
    base = made.sampler.sample(positives, made._view(scoring, live=False))[0]
    block_loss(*scoring.block(positives, base), base, 0.0, None).backward()
    assert pulled(made) == reached


@pytest.mark.parametrize("slots", SLOTS)
def test_the_noise_loss_moves_the_denoiser_alone(slots):
    made = make("distmult", f"sampler.slots={slots}")
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    _, blocks = generated(made, one_triple(made))
    assert any((a != b).any() for a, b in zip(before, made.sampler.diffusion.parameters()))
    zero = torch.zeros(1)
    assert [made.sampler.feedback(block, zero, zero.expand(1, block.shape[1])) for block in blocks] == [None, None]
    assert pulled(made) == set()


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize(("fusion", "reached"), REACHED)
def test_gradient_of_generated_negatives(fusion, reached, slots):
    """The kept end, as the model scores it, and the relation; nothing of what was generated or replaced."""
    made = make("distmult", f"sampler.slots={slots}", fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    assert [block.tape.ends for block in blocks] == ["head", "tail"]
    for block, kept in zip(blocks, (positives.t, positives.h)):
        _, s_neg = scoring.block(positives, block)
        (s_neg * block.weight).sum().backward(retain_graph=True)
        assert pulled(made) == reached
        assert rows_pulled(made) == {kept.item()}
        for module in (made.kge, made.fusion):
            module.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("fusion", "reached"), REACHED)
def test_gradient_of_the_positive_term(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    s_pos, s_neg = scoring.block(positives, blocks[0])
    block_loss(s_pos, s_neg.detach(), blocks[0], 0.0, None).backward()
    assert pulled(made) == reached
    assert rows_pulled(made) == {positives.h.item(), positives.t.item()}


@pytest.mark.parametrize("kge", KGES)
@pytest.mark.parametrize("silent", ["sampler.weight=0", "the warm-up", "sampler.variant=wo_diffheg"])
def test_without_generated_negatives_the_model_is_that_of_uniform_bit_for_bit(kge, silent, monkeypatch):
    plain, loud = trained(make(kge, sampler="uniform"), 3), trained(make(kge), 3)
    monkeypatch.setattr(dhns, "WARMUP", 1000 if silent == "the warm-up" else 1)
    silenced = trained(make(kge, *[silent] if "=" in silent else []), 3)
    for name, x in plain.model_state().items():
        assert torch.equal(x, silenced.model_state()[name]), name
    assert not torch.equal(loud.kge.entity, plain.kge.entity)


def test_temperature_does_not_reach_generated_negatives():
    made = make()
    positives = made.graph.positives(torch.arange(5))
    scoring, blocks = generated(made, positives)
    for block in blocks:
        scores = scoring.block(positives, block)
        cold, hot = (block_loss(*scores, block, temperature, None).item() for temperature in (0.0, 3.0))
        assert cold == hot


def test_loss_by_hand():
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


@pytest.mark.parametrize(("kge", "gamma"), [("transe", 3.0), ("rotate", 3.0), ("distmult", 9.0)])
def test_margins_are_the_models_or_gamma0(kge, gamma, monkeypatch):
    monkeypatch.setattr(dhns, "GAMMA0", 9.0)
    made = make(kge, "protocol.margin=3")
    positives, _, blocks = drawn(made)
    expected = torch.tensor([-0.7, -0.5, -0.3, -0.1]) * gamma
    for block in blocks[1:]:
        assert torch.allclose(block.margin_shift, expected.expand(16, 4))
    if kge != "distmult":  # the negative's logit is m_l gamma - distance
        scores = made.scoring().block(positives, blocks[2])[1]
        assert torch.allclose(scores + blocks[2].margin_shift, (scores - gamma) + torch.tensor([0.3, 0.5, 0.7, 0.9]) * gamma)


# --- slots ---


@pytest.mark.parametrize("chain", ["reverse", "forward", "around", "gauss"])
@pytest.mark.parametrize("slots", ["each", "attended"])
def test_invalid_slots_do_not_matter(slots, chain, monkeypatch):
    """Property 31: what a missing slot holds, nan included, changes no loss and no gradient."""
    totals = []
    for filling in (0.0, torch.nan):
        made = make("distmult", f"sampler.chain={chain}", f"sampler.slots={slots}")
        own = made.fusion.slots

        def filled(entity, ids, made=made, own=own, filling=filling):
            return torch.where(made.fusion.slot_mask(ids).unsqueeze(-1), own(entity, ids), filling)

        monkeypatch.setattr(made.fusion, "slots", filled)
        trained(made, 3)
        assert all(x.isfinite().all() for x in made.model_state().values() if x.is_floating_point())
        totals.append(made)
    assert totals[0].loss_sum.item() == totals[1].loss_sum.item()
    assert torch.equal(totals[0].kge.entity, totals[1].kge.entity)


@pytest.mark.parametrize("chain", ["reverse", "forward"])
def test_a_slot_counts_where_its_source_has_it(chain):
    """What is generated comes from the kept end's slots, what is noised from the replaced one's."""
    made = make("distmult", "sampler.slots=each", f"sampler.chain={chain}")
    positives, _, (_, heads, tails) = drawn(made, range(0, 129, 3))
    of_h, of_t = (made.fusion.slot_mask(ids) for ids in (positives.h, positives.t))
    assert (of_h != of_t).any()
    assert torch.equal(heads.generated.slot_mask, of_h if chain == "forward" else of_t)
    assert torch.equal(tails.generated.slot_mask, of_t if chain == "forward" else of_h)
