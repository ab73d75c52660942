"""DHNS from `sample` and the trainer's steps inward: that each part gets what docs/notes/dhns.md says it gets."""

import dataclasses
import functools
import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.samplers import dhns
from nsbench.samplers.dhns import DHNS, LEVELS
from nsbench.samplers.parts import chain as diffusion
from nsbench.samplers.parts.chain import both_ends
from nsbench.samplers.parts.denoiser import HIDDEN, PrintedDenoiser, ReleasedDenoiser
from tests.samplers import dhns_cases
from tests.samplers.dhns_cases import conditions, drawn, trained

make = functools.partial(dhns_cases.make, fusion="none")


def sampled(made, rows):
    positives, _, blocks = drawn(made, rows)
    return positives, blocks


# --- learning ---


@pytest.mark.parametrize("form", ["printed", "released"])
def test_sampling_teaches_the_denoiser_to_tell_the_noise(form):
    """In the warm-up too."""
    made, losses = make("distmult", f"sampler.denoiser={form}"), []
    made.step_count = 0
    ends = both_ends(made.graph.positives(torch.arange(129)), made.view)
    for steps in (1, 60):  # the first sets the scale
        for _ in range(steps):
            _, blocks = sampled(made, range(129))
        assert len(blocks) == 1
        with torch.no_grad():
            latents = made.sampler.diffusion.latents.of(ends)
            losses.append(made.sampler.diffusion.loss(ends, latents, torch.Generator().manual_seed(1))[0].item())
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("rate", [2e-3, 1e-2])
def test_adam_moves_the_denoiser_at_its_own_rate(rate):
    """The first step of Adam moves a parameter by its learning rate, whatever the gradient."""
    made = make("distmult", *([] if rate == 2e-3 else [f"sampler.learning_rate={rate}"]))
    assert made.sampler_adam is None
    before = [p.detach().clone() for p in made.sampler.parameters()]
    sampled(made, range(129))
    moved = max((p - old).abs().max().item() for p, old in zip(made.sampler.parameters(), before))
    assert moved == pytest.approx(rate, rel=0.02)


# --- latents and conditions ---


def centred(*x):
    """Mean [D] of rows, and the root mean square around it."""
    rows = torch.cat(x)
    return rows.mean(0), (rows - rows.mean(0)).square().mean().sqrt()


def test_the_chain_gets_conditions_about_their_own_mean_over_their_own_scale(monkeypatch):
    made, seen = make("distmult"), []
    with torch.no_grad():
        made.kge.relation.mul_(30).add_(1)
        made.kge.entity.add_(0.5)
    reverse = made.sampler._reverse
    monkeypatch.setattr(made.sampler, "_reverse", lambda c: seen.append(c.clone()) or reverse(c))
    positives, _ = sampled(made, range(129))
    entity, r = made.kge.entity.detach(), made.kge.relation.detach()[positives.r]
    queries = entity[positives.t] * r, entity[positives.h] * r
    mean, scale = centred(*queries)
    torch.testing.assert_close(seen[0][:, :, 0], (torch.stack(queries) - mean) / scale, atol=1e-4, rtol=1e-4)


def test_generated_latents_become_vectors_about_the_entities_mean(monkeypatch):
    made, latents = make("distmult"), torch.randn(2, 129, 4, 1, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.kge.entity.mul_(3).add_(5)
    monkeypatch.setattr(made.sampler, "_reverse", lambda c: latents)
    positives, (_, *blocks) = sampled(made, range(129))
    mean, scale = centred(*(made.kge.entity.detach()[ids] for ids in (positives.h, positives.t)))
    for block, x in zip(blocks, latents):
        torch.testing.assert_close(block.generated.vectors, mean + scale * x[:, :, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chain", ["reverse", "forward"])
def test_latents_are_observed_once_in_every_sample(chain, monkeypatch):
    made, seen = make("distmult", f"sampler.chain={chain}"), []
    latents = made.sampler.diffusion.latents
    update = latents.update
    monkeypatch.setattr(latents, "update", lambda ends: seen.append(len(ends.target[0])) or update(ends))
    for rows in (range(60), range(60, 129)):
        sampled(made, rows)
    assert seen == [60, 69]


# --- the chain ---


def test_noise_is_added_at_every_step_but_the_last(monkeypatch):
    """Eq. 3 with z = 0 for t = 1, after training: what states 0 and 1 are beyond the means given states 1 and 2."""
    monkeypatch.setattr(dhns, "CLIP", 0.0)
    made = make("distmult", "sampler.timesteps=10", "sampler.denoiser=printed")
    trained(made, 20)
    assert [level.state for level in made.sampler.levels] == [0, 1, 2, 5]
    c = conditions(slots=1, batch=400)
    with torch.no_grad():
        kept, denoiser = made.sampler._reverse(c).unbind(2), made.sampler.diffusion.denoiser
        a, left = made.sampler.diffusion.schedule.kept, []
        for t in (1, 2):
            x = kept[t]
            u = torch.cat([x, denoiser.sinusoids[t - 1].expand_as(x), c], dim=3)
            eps = denoiser.norm(denoiser.second(denoiser.first(u).relu()))
            v = 1 - a[t] / a[t - 1]
            left.append((kept[t - 1] - (x - v / math.sqrt(1 - a[t]) * eps) / math.sqrt(1 - v), math.sqrt(v)))
    assert left[0][0].abs().max() < 1e-5 < 0.01 * left[0][1]
    assert left[1][0].square().mean().sqrt().item() == pytest.approx(left[1][1], rel=0.05)


@pytest.mark.parametrize("form", ["printed", "released"])
def test_generated_vectors_stay_within_the_clip(form, monkeypatch):
    """State 0 is the implied signal itself, and that of T = 19 is kept, whatever an untrained denoiser says."""
    monkeypatch.setattr(dhns, "CLIP", 0.25)
    made = make("distmult", "sampler.timesteps=19", f"sampler.denoiser={form}")
    assert made.sampler.levels[0].state == 0
    with torch.no_grad():
        states = made.sampler._reverse(conditions(slots=1, batch=100))
    assert states[:, :, 0].abs().max() == pytest.approx(0.25)


# --- warm-up and uniform negatives ---


@pytest.mark.parametrize("passes", [1, 2])
def test_generated_negatives_count_after_the_passes_of_the_warm_up(passes, monkeypatch):
    monkeypatch.setattr(dhns, "WARMUP", passes)
    made, counts = make("transe", "sampler.timesteps=4", batch=43), []
    made.step_count = 0
    sample = made.sampler.sample
    monkeypatch.setattr(made.sampler, "sample", lambda *args: counts.append(len(blocks := sample(*args))) or blocks)
    for _ in range(9):  # 3 steps are a pass over the 129 triples
        made.step()
    assert counts == [1] * 3 * passes + [3] * (9 - 3 * passes)


def test_beside_generated_negatives_are_those_that_uniform_draws():
    made, alone = make("distmult"), make("distmult", sampler="uniform")
    for _ in range(3):
        (_, (base, *generated)), (_, uniform) = sampled(made, range(129)), sampled(alone, range(129))
        assert len(generated) == 2
        assert torch.equal(base.side, uniform.side)
        assert torch.equal(base.ids, uniform.ids)


def test_the_chains_stream_follows_the_samplers_and_leaves_it_alone():
    made = make("distmult")
    seeds = []
    for seed in (1, 2, 1):
        made.view.rng.manual_seed(seed)
        before = made.view.rng.get_state()
        made.sampler.pretrain(made.view)
        assert torch.equal(before, made.view.rng.get_state())
        seeds.append(made.sampler.rng.initial_seed())
    assert seeds[0] == seeds[2] != seeds[1]


# --- options ---


def test_defaults():
    """Constants and the sizes of `paper` are those of the specification, sections 3 and 4.2."""
    assert vars(DHNS.Options()) == {
        "weight": 0.1, "timesteps": 50, "learning_rate": 2e-3, "slots": "fused", "chain": "reverse", "levels": "paper",
        "hal": "on", "denoiser": "released", "products": "float32",
    }  # fmt: skip
    assert (dhns.CLIP, dhns.WARMUP, dhns.GAMMA0) == (4.0, 1, 4.0)
    assert (diffusion.FLOOR, diffusion.DECAY, HIDDEN) == (0.01, 0.99, 4)
    levels = [(20, 0.235, 0.3), (10, 0.471, 0.5), (5, 0.941, 0.7), (2, 2.353, 0.9)]  # weights to three digits, as printed
    assert [(n, round(weight, 3), margin) for n, weight, margin in LEVELS["paper"]] == levels


@pytest.mark.parametrize(("variant", "form"), [("paper", "released"), ("printed", "printed")])
def test_the_papers_own_sizes_hold_under_any_protocol(variant, form):
    found = configure("dhns", "transe", "toy", protocol="quick", settings=[f"sampler.variant={variant}"]).sampler_options
    others = vars(DHNS.Options())
    sizes = {"weight": 0.01, "timesteps": 50, "learning_rate": 5e-4, "slots": "each", "denoiser": form}
    assert vars(found) == others | sizes


def test_forms_of_the_denoiser():
    for form, kind in (("printed", PrintedDenoiser), ("released", ReleasedDenoiser)):
        assert type(make("distmult", f"sampler.denoiser={form}").sampler.diffusion.denoiser) is kind


OTHER = {  # every other value of each option
    "weight": [0.5], "timesteps": [21], "learning_rate": [5e-4], "slots": ["each", "attended", "structure"],
    "chain": ["forward", "around", "gauss"], "levels": ["one", "one_x4"], "hal": ["flat", "off"], "denoiser": ["printed"],
    "products": ["bfloat16"],
}  # fmt: skip


@functools.cache
def entities_after_steps(*settings):
    return trained(make("distmult", *settings, fusion="adamf"), 3).kge.entity.detach()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DHNS.Options)])
def test_every_value_of_every_option_teaches_the_model_something_else(name):
    found = [entities_after_steps(), *(entities_after_steps(f"sampler.{name}={value}") for value in OTHER[name])]
    assert not any(torch.equal(found[i], found[j]) for i in range(len(found)) for j in range(i))
