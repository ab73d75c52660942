"""DHNS as a whole: contract, ablations, controls, bases, what is told of a run (notes/dhns.md section 5, 32 to 35; 4.10)."""

import dataclasses
import math

import pytest
import torch

from nsbench.contracts import Negatives
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS
from nsbench.samplers.parts.chain import Schedule, both_ends
from nsbench.training.losses import block_loss
from tests.samplers.dhns_cases import VARIANTS, drawn, make, trained


def test_a_number_of_logits_for_each_ablation():
    counts = {}
    for variant in VARIANTS:
        made = make("transe", f"sampler.variant={variant}", "sampler.timesteps=40")
        _, _, blocks = drawn(made)
        counts[variant] = [block.shape[1] for block in blocks[1:]]
    other = {"released": [4, 4, 4], "wo_leak": [4, 4, 4], "wo_diffheg": [], "wo_mhld": [1, 1], "wo_ntat": [12, 12]}
    assert counts == {variant: other.get(variant, [4, 4]) for variant in VARIANTS}


def test_wo_mmc_is_the_structural_slot_alone():
    made = make("distmult", "sampler.variant=wo_mmc")
    _, _, blocks = drawn(made)
    assert blocks[1].generated.vectors.shape == (16, 4, 8)
    assert made.sampler.diffusion.scale.target.shape == (1,)


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


def test_wo_ntat_averages_over_the_slots_that_exist():
    made = make("transe", "sampler.variant=wo_ntat")
    positives, _, blocks = drawn(made)
    block = blocks[2]
    mask = made.fusion.slot_mask(positives.h)
    s_pos = torch.zeros(16)
    s_neg = torch.randn(16, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for row in range(16):
        terms = [math.log1p(math.exp(s_neg[row, lv, m].item())) for lv in range(4) for m in range(3) if mask[row, m]]
        expected += sum(terms) / len(terms) + math.log(2)
    expected *= 0.5 * 0.01 / 2 / 16
    assert block_loss(s_pos, s_neg.flatten(1), block, 0.0, None).item() == pytest.approx(expected, rel=1e-5)


def test_forward_noises_the_true_entity_and_trains_nothing():
    """Property 33: E|x_k - x_0|^2 = (1 - sqrt(A))^2 |x_0|^2 + (1 - A) D c^2, increasing in k."""
    made = make("transe", "sampler.variant=forward", "sampler.timesteps=50", fusion="none", batch=64)
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    positives = made.graph.positives(torch.zeros(20_000, dtype=torch.int64))
    blocks = made.sampler.sample(positives, made.view)
    assert all(torch.equal(a, b) for a, b in zip(before, made.sampler.diffusion.parameters()))
    truth = made.kge.entity[positives.t[0]].detach()
    c = made.sampler.diffusion.scale.target.item()
    distances = (blocks[2].generated.vectors[:, :, 0] - truth).square().sum(2)
    kept = Schedule("cosine", 50).kept
    for place, k in enumerate((2, 5, 10, 25)):
        expected = (1 - math.sqrt(kept[k])) ** 2 * truth.square().sum().item() + (1 - kept[k]) * 8 * c**2
        assert distances[:, place].mean().item() == pytest.approx(expected, rel=0.03)
    score = made.scoring().block(positives, blocks[2])[1].mean(0)
    assert (distances.mean(0).diff() > 0).all()
    assert score.isfinite().all()


def test_gauss_has_the_chains_moments_and_nothing_else_of_it():
    made = make("distmult", "sampler.timesteps=50", batch=64)
    trained(made, 10)
    gauss = make("distmult", "sampler.variant=gauss", "sampler.timesteps=50", batch=64)
    for module in ("kge", "fusion", "sampler"):
        getattr(gauss, module).load_state_dict(getattr(made, module).state_dict())
    positives = made.graph.positives(torch.arange(129).repeat(8))
    ends = both_ends(positives, made.view)
    chain, noise = made.sampler._generate(ends), gauss.sampler._generate(ends)
    mask = ends.condition_mask.view(2, -1, 1, 3, 1)

    def rms(x):
        return ((x.square() * mask).sum((1, 4)) / (8 * mask.sum((1, 4)))).sqrt()  # [2, L, S]

    assert torch.allclose(rms(noise), rms(chain), rtol=0.1)
    assert noise[..., 0, :].mean((1, 2)).abs().max() < 0.1 * rms(noise).max()


class Oracle:
    """A perfect denoiser: its condition is the vector that stands at the replaced end."""

    def __init__(self, schedule):
        self.schedule = schedule

    def condition(self, c):
        return c

    def __call__(self, x, t, truth):
        left = self.schedule.kept[t]
        return (x - math.sqrt(left) * truth) / math.sqrt(1 - left)


@pytest.mark.parametrize("heads", ["leaf", "own"])
def test_released_heads_are_near_the_true_tail(heads, monkeypatch):
    """Property 34, with a perfect denoiser: a leaf is one step from the tail's state (2.5), a chain of its own is not."""
    made = make("distmult", "sampler.variant=released", f"sampler.heads={heads}", "sampler.timesteps=50")
    oracle = Oracle(made.sampler.diffusion.schedule)
    monkeypatch.setattr(made.sampler.diffusion.denoiser, "fold", lambda: oracle)
    ends = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(0))
    kept = made.sampler._reverse(ends)
    for head, tail in kept:
        to_head, to_tail = ((head - end).norm(dim=1).mean() for end in ends)
        assert (to_tail < to_head) == (heads == "leaf")
        assert (tail - ends[1]).norm(dim=1).mean() < (tail - ends[0]).norm(dim=1).mean()


class Known:
    """A denoiser in closed form: of data at the origin, or of unit Gaussian data."""

    def __init__(self, schedule, unit):
        self.schedule, self.unit = schedule, unit

    def condition(self, c):
        return None

    def __call__(self, x, t, condition):
        left = self.schedule.kept[t]
        return x * math.sqrt(1 - left) if self.unit else x / math.sqrt(1 - left)


def test_why_latents_are_scaled(monkeypatch):
    """Property 35: RotatE at its start, d = 200, gamma = 12; released negatives pull at nothing (2.6)."""
    factor = {}
    for variant, unit in (("released", False), ("recommended", True)):
        made = make(
            "rotate",
            f"sampler.variant={variant}",
            "sampler.leak=false",
            "sampler.timesteps=50",
            "protocol.margin=12",
            fusion="none",
            width=200,
        )
        positives = made.graph.positives(torch.arange(60))
        known = Known(made.sampler.diffusion.schedule, unit)
        monkeypatch.setattr(made.sampler.diffusion.denoiser, "fold", lambda known=known: known)
        ends = both_ends(positives, made.view)
        made.sampler.diffusion.scale.update(ends)
        blocks = made.sampler._corruptions(made.sampler._generate(ends), ends, made.view)
        logit = made.scoring().block(positives, blocks[1])[1] + blocks[1].margin_shift
        factor[variant] = logit.sigmoid().mean().item()
        uniform = Negatives(blocks[1].side, ids=made.graph.draw(positives.key_tail, 20, made.view.rng))
        factor["uniform"] = made.scoring().block(positives, uniform)[1].sigmoid().mean().item()
    assert factor["released"] < 1e-6
    assert factor["recommended"] > 1e-3
    assert factor["uniform"] > 1e-3


def trained_on_clusters(form, steps):
    """What a chain trained on four clusters gives, slot 0 of it, [2, B, L, D]; and the ends it was for."""
    made = make(
        "transe",
        "sampler.timesteps=50",
        "sampler.learning_rate=2e-3",
        f"sampler.denoiser={form}",
        fusion="none",
        batch=129,
        width=16,
    )
    with torch.no_grad():
        kind = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
        centre = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
        made.kge.entity.copy_(centre[kind] + 0.05 * torch.randn(40, 16, generator=torch.Generator().manual_seed(2)))
        made.kge.relation.mul_(0.1)
    positives = made.graph.positives(torch.arange(129))
    for _ in range(steps):
        made.sampler._learn(both_ends(positives, made.view))
    ends = both_ends(made.graph.positives(torch.arange(129).repeat(10)), made.view)
    return made, ends, made.sampler._generate(ends)[:, :, :, 0]


@pytest.mark.slow
def test_levels_of_tamed_are_hard_to_easy_after_training():
    """Property 32, on well separated clusters with scaled latents."""
    made, ends, x = trained_on_clusters("released", 1500)
    distance = (x - ends.target).norm(dim=3).mean((0, 1))
    assert (distance.diff() > 0).all(), distance
    similarity = made.kge.similarity.pairwise(ends.condition, x).mean((0, 1))
    assert (similarity.diff() < 0).all(), similarity


@pytest.mark.slow
def test_levels_of_the_papers_denoiser_are_in_no_order():
    """Its easiest level is nearer to the truth than its hardest: states that ran off come back only so far."""
    _, ends, x = trained_on_clusters("paper", 800)
    distance = (x - ends.target).norm(dim=3).mean((0, 1))
    assert distance[3] < distance[0], distance


@pytest.mark.slow
def test_the_norm_at_the_end_of_the_papers_denoiser_drives_the_chain_off():
    """Why there is `tamed`, with the released one: all predictions of one length cannot pull a long state back."""
    growth = {}
    for form in ("paper", "released"):
        _, ends, x = trained_on_clusters(form, 800)
        growth[form] = (x.square().mean() / ends.target.square().mean()).sqrt().item()
    assert growth["paper"] > 1.8
    assert 0.8 < growth["released"] < 1.2


@pytest.mark.parametrize("base", ["bernoulli", "nscaching", "kbgan", "igan", "sans", "pseudo_typed"])
def test_any_base_draws_what_it_draws_alone(base):
    defaults = SAMPLERS.get(base).Options()  # protocol quick has sizes of its own, a base has its defaults
    own = [f"sampler.{name}={value}" for name, value in vars(defaults).items()]
    alone = make("transe", *own, sampler=base, fusion="none")
    under = make("transe", f"sampler.base={base}", "sampler.warmup=1000", fusion="none")
    assert under.sampler.filtered == alone.sampler.filtered
    trained(alone, 4)
    trained(under, 4)
    assert torch.equal(alone.kge.entity, under.kge.entity)
    own = {name: x for name, x in under.sampler.base.state_dict().items() if isinstance(x, torch.Tensor)}
    assert all(torch.equal(x, own[name]) for name, x in alone.sampler.state_dict().items() if isinstance(x, torch.Tensor))
    make("transe", f"sampler.base={base}", fusion="none").step()


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        (["sampler.base=dhns"], "on top of"),
        (["sampler.base=ns_kge"], "on top of"),
        (["sampler.base=mmrns"], "on top of"),
        # in the model's turns nobody asks for feedback, which is where the leak reaches it
        (["sampler.variant=released", "sampler.base=igan"], "sampler.leak"),
        (["sampler.timesteps=3"], "timesteps"),  # fewer than the quarters of its loss
        (["sampler.base=bernoulli", "protocol.sides=alternate"], "side"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, culprit):
    with pytest.raises(Misuse, match=culprit):
        make("distmult", *settings)


def test_without_the_leak_a_base_may_take_turns():
    make("distmult", "sampler.variant=wo_leak", "sampler.base=igan").step()


def test_description():
    made = make("transe", "sampler.timesteps=40")
    trained(made, 4)
    told = made.sampler.describe()
    for name in ("score", "gradient", "to_true", "to_other"):
        assert {f"{name}_{side}_{i}_state{k}" for side in ("head", "tail") for i, k in enumerate((2, 4, 8, 20))} <= set(told)
    assert {f"noise_loss_quarter{i}" for i in range(1, 5)} <= set(told)
    assert {"score_positive", "score_base", "rms_slot0", "rms_slot2"} <= set(told)
    assert not any("both" in name for name in told)
    assert all(math.isfinite(x) for x in told.values())


def test_statistics_by_hand():
    made = make("transe", fusion="none")
    positives, _, blocks = drawn(made)
    statistics, block = made.sampler.statistics, blocks[2]
    to_true = statistics.to_true[1] / statistics.to_true_steps[1]
    t = made.kge.entity[positives.t].detach()
    expected = [((block.generated.vectors[:, i, 0] - t).norm(dim=1) / t.norm(dim=1)).mean().item() for i in range(4)]
    assert to_true.tolist() == pytest.approx(expected, rel=1e-4)
    s_pos, s_neg = made.scoring().block(positives, block)
    made.sampler.feedback(block, s_pos, s_neg)
    gradient = (s_neg - torch.tensor([0.7, 0.5, 0.3, 0.1]) * made.protocol.margin).sigmoid().mean(0)
    assert torch.allclose(statistics.gradient[1], gradient, atol=1e-5)
