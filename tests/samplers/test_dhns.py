"""DHNS as a whole: ablations, controls, what it generates and tells (notes/dhns.md section 5, 32 and 33; 4.10)."""

import dataclasses
import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.datasets.loading import load_dataset
from nsbench.errors import Misuse
from nsbench.samplers.dhns import DHNS
from nsbench.samplers.parts.chain import Schedule, both_ends
from nsbench.training.losses import block_loss
from nsbench.training.trainer import Trainer
from tests.samplers.dhns_cases import VARIANTS, drawn, make

SLOTS = ("fused", "each", "attended", "structure")


def test_a_number_of_logits_for_each_ablation():
    counts = {}
    for variant in VARIANTS:
        _, _, blocks = drawn(make("transe", f"sampler.variant={variant}", "sampler.timesteps=40"))
        counts[variant] = [block.shape[1] for block in blocks[1:]]
    other = {"wo_diffheg": [], "wo_mhld": [1, 1]}
    assert counts == {variant: other.get(variant, [4, 4]) for variant in VARIANTS}
    _, _, blocks = drawn(make("transe", "sampler.slots=each", "sampler.hal=off"))
    assert [block.shape[1] for block in blocks[1:]] == [12, 12]


@pytest.mark.parametrize("hal", ["on", "off"])
@pytest.mark.parametrize("slots", SLOTS)
def test_what_stood_at_the_replaced_end_in_the_form_that_is_diffused(slots, hal):
    made = make("distmult", f"sampler.slots={slots}", f"sampler.hal={hal}")
    positives, _, (_, heads, tails) = drawn(made)
    scoring = made.scoring()
    for block, ids, head in ((heads, positives.h, True), (tails, positives.t, False)):
        made_of, mask = block.generated, made.fusion.slot_mask(ids).unsqueeze(2)
        assert (block.side == head).all()
        if hal == "off" and slots in ("each", "attended"):  # slots side by side: there is no one truth
            assert made_of.truth is None
            assert made_of.vectors.shape == (16, 12, 8)
            continue
        assert not made_of.truth.requires_grad
        by_slot = torch.where(mask, made.fusion.slots(made.kge.entity, ids), 0.0)
        if slots == "fused":
            assert torch.equal(made_of.truth, scoring.vectors(ids))
        elif slots == "structure":
            assert torch.equal(made_of.truth, made.kge.entity[ids])
        else:
            assert torch.equal(made_of.truth, by_slot)
            assert made_of.vectors.shape == (16, 4, 3, 8)
            assert made_of.joint == ("score" if slots == "each" else "fuse")
            continue
        assert made_of.vectors.shape == (16, 4, 8)


def test_mhld_same_count_draws_four_chains_to_one_state():
    made = make("distmult", "sampler.variant=mhld_same_count")
    _, _, blocks = drawn(made)
    assert {level.state for level in made.sampler.levels} == {2}
    vectors = blocks[1].generated.vectors
    assert all(not torch.allclose(vectors[:, i], vectors[:, j]) for i in range(4) for j in range(i))


def test_wo_hal_keeps_the_weights_and_drops_the_margins():
    _, _, with_margins = drawn(make("transe"))
    _, _, without = drawn(make("transe", "sampler.variant=wo_hal"))
    assert without[1].margin_shift is None
    assert torch.equal(without[1].weight, with_margins[1].weight)
    shifted = dataclasses.replace(with_margins[1], margin_shift=torch.zeros(16, 4))  # all m_l = 1
    s_pos, s_neg = torch.randn(16), torch.randn(16, 4)
    assert torch.allclose(block_loss(s_pos, s_neg, without[1], 0, None), block_loss(s_pos, s_neg, shifted, 0, None))


@pytest.mark.parametrize("slots", ["fused", "each", "attended"])
def test_wo_ntat_averages_over_levels_and_the_slots_that_exist(slots):
    made = make("transe", "sampler.variant=wo_ntat", f"sampler.slots={slots}", "sampler.weight=0.01")
    positives, _, blocks = drawn(made)
    mask = made.fusion.slot_mask(positives.h) if slots != "fused" else torch.ones(16, 1, dtype=torch.bool)
    s_neg = torch.randn(16, 4, mask.shape[1], generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for row in range(16):
        there = [m for m in range(mask.shape[1]) if mask[row, m]]
        terms = [math.log1p(math.exp(s_neg[row, lv, m].item())) for lv in range(4) for m in there]
        expected += sum(terms) / len(terms) + math.log(2)
    expected *= 0.5 * 0.01 / 2 / 16
    assert block_loss(torch.zeros(16), s_neg.flatten(1), blocks[2], 0.0, None).item() == pytest.approx(expected, rel=1e-5)


# --- controls ---


def test_forward_noises_the_true_entity_and_trains_nothing():
    """Property 33 for latents (x - m) / c: E|x_k - x_0|^2 = (1 - sqrt(A))^2 |x_0 - m|^2 + (1 - A) D c^2, rising in k.

    E|x_k|^2 = |m + sqrt(A) (x_0 - m)|^2 + (1 - A) D c^2. Of one triple alone m is the middle of its ends.
    """
    made = make("transe", "sampler.variant=forward", "sampler.timesteps=50", fusion="none", batch=64)
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    positives, _, (_, *blocks) = drawn(made, [0] * 20_000)
    assert all(torch.equal(a, b) for a, b in zip(before, made.sampler.diffusion.parameters()))
    ends = made.kge.entity[positives.hrt[0, [0, 2]]].detach()
    middle = ends.mean(0)
    square = (ends[0] - middle).square().sum().item()  # D c^2, since both ends are as far from the middle
    for block, truth in zip(blocks, ends):
        vectors = block.generated.vectors
        distances = (vectors - truth).square().sum(2).mean(0)
        for place, k in enumerate((2, 5, 10, 25)):
            left = Schedule("cosine", 50).kept[k]
            far = (1 - math.sqrt(left)) ** 2 * square + (1 - left) * square
            long = (middle + math.sqrt(left) * (truth - middle)).square().sum().item() + (1 - left) * square
            assert distances[place].item() == pytest.approx(far, rel=0.03)
            assert vectors[:, place].square().sum(1).mean().item() == pytest.approx(long, rel=0.03)
        assert (distances.diff() > 0).all()


@pytest.mark.parametrize("chain", ["around", "gauss"])
def test_controls_have_the_chains_moments_and_nothing_else_of_it(chain, monkeypatch):
    """Against a chain a x truth + b x noise. What missing slots hold does not count."""
    made = make("distmult", f"sampler.chain={chain}", "sampler.slots=each")
    ends = both_ends(made.graph.positives(torch.arange(129).repeat(80)), made.view)
    rng = torch.Generator().manual_seed(0)
    truth = 2 * torch.randn(ends.target.shape, generator=rng)
    share, spread = torch.tensor([0.9, 0.5, 0.2, 0.0]), torch.tensor([0.6, 0.8, 1.2, 1.5])
    noise = torch.randn(2, truth.shape[1], 4, 3, 8, generator=rng)
    known = share.view(4, 1, 1) * truth.unsqueeze(2) + spread.view(4, 1, 1) * noise
    known = torch.where(ends.condition_mask[:, :, None, :, None], known, 1e4)
    spoilt = torch.where(ends.target_mask.unsqueeze(3), truth, 1e4)
    monkeypatch.setattr(made.sampler, "_reverse", lambda condition: known)
    x = made.sampler._generate(spoilt, ends.condition, ends)
    square = 4 * share**2 + spread**2
    along = share if chain == "around" else torch.zeros(4)
    for side in range(2):
        for m in range(3):
            rows = ends.target_mask[side, :, m] & ends.condition_mask[side, :, m]
            found, true, other = x[side, rows, :, m], truth[side, rows, None, m], noise[side, rows, :, m]
            torch.testing.assert_close(found.square().mean((0, 2)), square, rtol=0.05, atol=0)
            torch.testing.assert_close((found * true).mean((0, 2)) / 4, along, rtol=0.05, atol=0.02)
            far = square + 4 - 2 * 4 * along  # mean square of the distance to the truth
            torch.testing.assert_close((found - true).square().mean((0, 2)), far, rtol=0.1, atol=0)
            rest = found - along.view(4, 1) * true
            assert ((rest * other).mean((0, 2)).abs() < 0.03 * rest.square().mean((0, 2)).sqrt()).all()


# --- what a trained generator gives ---


def on_planted(fusion, *settings):
    """TransE after some steps on planted:small, and triples of it."""
    values = ["sampler.timesteps=50", *settings]  # the protocol has fewer
    config = configure("dhns", "transe", "planted:small", protocol="quick", fusion=fusion, settings=values)
    made = Trainer(config, load_dataset("planted:small", features="none" if fusion == "none" else "auto"))
    made.pretrain()
    for _ in range(250):
        made.step()
    return made, made.graph.positives(torch.arange(0, len(made.graph), 2))


def by_level(made, positives):
    """Length over the truth's and distance to it, and score, [2, L] each: of what the sampler generates for heads, tails."""
    lengths, distances, scores = [], [], []
    scoring = made.scoring()
    for block in made.sampler.sample(positives, made._view(scoring, live=False))[1:]:
        vectors, truth = block.generated.vectors, block.generated.truth
        lengths.append(vectors.norm(dim=2).mean(0) / truth.norm(dim=1).mean())
        distances.append((vectors - truth.unsqueeze(1)).norm(dim=2).mean(0))
        scores.append(scoring.block(positives, block)[1].detach().mean(0))
    return torch.stack(lengths), torch.stack(distances), torch.stack(scores)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_recommended_generates_entities_from_hard_to_easy(fusion):
    made, positives = on_planted(fusion)
    diffusion = made.sampler.diffusion
    ends = both_ends(positives, made._view(made.scoring(), live=False), "fused")
    with torch.no_grad():
        _, by_quarter = diffusion.loss(ends, diffusion.latents.of(ends), made.sampler.rng)
    assert (by_quarter < 0.9).all(), by_quarter  # what tells nothing of the noise has 1
    length, distance, score = by_level(made, positives)
    assert ((length - 1).abs() < 0.15).all(), length
    assert (distance.diff(dim=1) > 0).all(), distance
    assert (score.diff(dim=1) < 0).all(), score
    for chain in ("around", "gauss"):
        made.sampler.options = dataclasses.replace(made.sampler.options, chain=chain)
        other, far, _ = by_level(made, positives)
        assert torch.allclose(other, length, rtol=0.15), chain
        assert torch.allclose(far, distance, rtol=0.1) == (chain == "around"), (far, distance)


# --- what is refused and told ---


def test_too_short_a_chain_is_refused():
    with pytest.raises(Misuse, match="timesteps"):
        make("distmult", "sampler.timesteps=3")  # fewer than the quarters of its loss


@pytest.mark.parametrize(
    ("options", "slots", "read"),
    [
        ({}, ["image", "text"], (["structure", "image", "text"], "")),
        ({"slots": "each"}, ["text"], (["structure", "text"], "")),
        ({}, [], (["structure"], "w/o MMC")),
        ({"slots": "structure"}, ["image", "text"], (["structure"], "w/o MMC")),
        ({"weight": 0.0}, ["image", "text"], ([], "")),
    ],
)
def test_what_is_read_of_an_entity(options, slots, read):
    assert DHNS.reads(DHNS.Options(**options), ["image", "text"], slots) == read


@pytest.mark.parametrize(("slots", "count"), [("fused", 1), ("each", 3)])
def test_description(slots, count):
    made = make("transe", "sampler.timesteps=40", f"sampler.slots={slots}")
    for _ in range(4):
        made.step()
    told = made.sampler.describe()
    for name in ("score", "gradient", "to_true", "to_other"):
        assert {f"{name}_{side}_{i}_state{k}" for side in ("head", "tail") for i, k in enumerate((2, 4, 8, 20))} <= set(told)
    assert {f"noise_loss_quarter{i}" for i in range(1, 5)} | {"score_positive", "score_base"} <= set(told)
    assert {name for name in told if name.startswith("rms")} == {f"rms_slot{m}" for m in range(count)}
    assert not any("both" in name for name in told)
    assert all(math.isfinite(x) for x in told.values())


def test_statistics_by_hand():
    made = make("transe", fusion="none")
    positives, _, blocks = drawn(made)
    statistics, block = made.sampler.statistics, blocks[2]
    to_true = statistics.to_true[1] / statistics.to_true_steps[1]
    t = made.kge.entity[positives.t].detach()
    expected = [((block.generated.vectors[:, i] - t).norm(dim=1) / t.norm(dim=1)).mean().item() for i in range(4)]
    assert to_true.tolist() == pytest.approx(expected, rel=1e-4)
    s_pos, s_neg = made.scoring().block(positives, block)
    made.sampler.feedback(block, s_pos, s_neg)
    gradient = (s_neg - torch.tensor([0.7, 0.5, 0.3, 0.1]) * made.protocol.margin).sigmoid().mean(0)
    assert torch.allclose(statistics.gradient[1], gradient, atol=1e-5)
