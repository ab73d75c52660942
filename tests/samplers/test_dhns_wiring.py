"""DHNS from `sample` and the trainer's steps inward: that each part gets what docs/notes/dhns.md says it gets."""

import dataclasses
import functools
import math

import pytest
import torch

from nsbench.samplers.dhns import DHNS, LEVELS
from nsbench.samplers.parts import chain as diffusion
from nsbench.samplers.parts.chain import both_ends
from nsbench.samplers.parts.denoiser import HIDDEN
from tests.samplers import dhns_cases
from tests.samplers.dhns_cases import drawn, trained

make = functools.partial(dhns_cases.make, fusion="none")


def sampled(made, rows):
    positives, _, blocks = drawn(made, rows)
    return positives, blocks


def ends_of(made):
    return both_ends(made.graph.positives(torch.arange(129)), made.view)


def embedded(made, positives):
    """Heads, tails and relations [B, D]."""
    entity, relation = made.kge.entity.detach(), made.kge.relation.detach()
    return entity[positives.h], entity[positives.t], relation[positives.r]


# --- learning ---


@pytest.mark.parametrize("setting", ["denoiser=paper", "denoiser=released", "noise_loss=l1"])
def test_sampling_teaches_the_denoiser_to_tell_the_noise(setting):
    made = make("distmult", f"sampler.{setting}", "sampler.learning_rate=2e-3", "sampler.warmup=1000")
    ends, losses = ends_of(made), []
    for steps in (1, 60):  # the first sets the scale
        for _ in range(steps):
            sampled(made, range(129))
        with torch.no_grad():
            losses.append(made.sampler.diffusion.loss(ends, torch.Generator().manual_seed(1))[0].item())
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("rate", [5e-4, 1e-2])
def test_adam_moves_the_denoiser_at_its_own_rate(rate):
    """The first step of Adam moves a parameter by its learning rate, whatever the gradient."""
    made = make("distmult", *([] if rate == 5e-4 else [f"sampler.learning_rate={rate}"]))
    before = [p.detach().clone() for p in made.sampler.parameters()]
    sampled(made, range(129))
    moved = max((p - old).abs().max().item() for p, old in zip(made.sampler.parameters(), before))
    assert moved == pytest.approx(rate, rel=0.02)


class Nothing:
    """A denoiser that always predicts 0."""

    def condition(self, c):
        return None

    def __call__(self, x, t, condition):
        return torch.zeros_like(x)


@pytest.mark.parametrize(("noise_loss", "expected"), [("mse", 1.0), ("l1", 2 * 3 * math.sqrt(2 / math.pi))])
def test_the_noise_loss_is_a_mean_of_squares_or_a_sum_of_means(noise_loss, expected, monkeypatch):
    """Of two sides and three slots, when nothing is predicted."""
    made = make("distmult", f"sampler.noise_loss={noise_loss}", "sampler.missing=impute", fusion="adamf")
    monkeypatch.setattr(made.sampler.diffusion.denoiser, "fold", Nothing)
    found = made.sampler.diffusion.loss(ends_of(made), torch.Generator().manual_seed(0))[0].item()
    assert found == pytest.approx(expected, rel=0.1)


# --- scales and conditions ---


def rms(*x):
    return torch.cat(x).square().mean().sqrt().item()


@pytest.mark.parametrize("chain", ["reverse", "forward"])
def test_scales_are_running_means_of_what_was_sampled(chain):
    """Section 4.3: the first batch's root mean square, then 0.99 of the old and 0.01 of the new, each of its own."""
    made = make("distmult", f"sampler.chain={chain}")
    expected = {}
    for rows in (range(60), range(60, 129)):
        with torch.no_grad():
            made.kge.entity.mul_(7)
            made.kge.relation.mul_(3)
        positives, _ = sampled(made, rows)
        h, t, r = embedded(made, positives)
        for name, value in (("target", rms(h, t)), ("condition", rms(h * r, t * r))):
            expected[name] = 0.99 * expected[name] + 0.01 * value if name in expected else value
            assert getattr(made.sampler.diffusion.scale, name).item() == pytest.approx(expected[name], rel=1e-4)


def caught(made, monkeypatch):
    """What `sample` hands to the chain as conditions, [2, n, D], at each call."""
    seen, reverse = [], made.sampler._reverse
    monkeypatch.setattr(made.sampler, "_reverse", lambda c: seen.append(c.detach().clone()) or reverse(c))
    return seen


def test_the_chain_gets_conditions_over_their_own_scale(monkeypatch):
    made = make("distmult")
    with torch.no_grad():
        made.kge.relation.mul_(30)
    seen = caught(made, monkeypatch)
    positives, _ = sampled(made, range(129))
    h, t, r = embedded(made, positives)
    expected = torch.stack([t * r, h * r]) / rms(h * r, t * r)
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("condition", ["query", "released"])
@pytest.mark.parametrize("heads", ["own", "leaf"])
def test_the_conditions_of_transe_as_queried_and_as_released(condition, heads, monkeypatch):
    """D13: the released code has e - r for tails and e + r for heads, the other way round than TransE."""
    made = make("transe", f"sampler.condition={condition}", f"sampler.heads={heads}", "sampler.normalise=false")
    seen = caught(made, monkeypatch)
    positives, _ = sampled(made, range(129))
    h, t, r = embedded(made, positives)
    sign = 1 if condition == "query" else -1
    torch.testing.assert_close(seen[0], torch.stack([t - sign * r, h + sign * r]))


def test_the_released_condition_of_rotate_is_the_models_query(monkeypatch):
    """D15: only TransE's differs."""
    seen = {}
    for condition in ("query", "released"):
        made = make("rotate", f"sampler.condition={condition}")
        seen[condition] = caught(made, monkeypatch)
        sampled(made, range(129))
    assert torch.equal(seen["query"][0], seen["released"][0])
    assert not torch.allclose(seen["query"][0][0], seen["query"][0][1])


# --- the chain ---


@pytest.mark.parametrize(("schedule", "expected"), [("linear", (0.0246, 0.0675, 0.3425)), ("cosine", (0.073, 0.166, 0.708))])
def test_the_schedule_that_is_asked_for_makes_the_noise(schedule, expected):
    """Sections 2.6 and 3: the noise's deviation in states 2, 5 and 25 of 50, of entities that are all 0."""
    made = make("transe", f"sampler.schedule={schedule}", "sampler.timesteps=50", "sampler.chain=forward",
                "sampler.normalise=false")  # fmt: skip
    with torch.no_grad():
        made.kge.entity.zero_()
    _, blocks = sampled(made, [*range(129)] * 8)
    for block in blocks[1:]:
        found = block.generated.vectors.square().mean((0, 2, 3)).sqrt()[[0, 1, 3]]
        assert found.tolist() == pytest.approx(expected, rel=0.05)


def test_noise_is_added_at_every_step_but_the_last():
    """Eq. 3 with z = 0 for t = 1, after training: what states 0 and 1 are beyond the means given states 1 and 2."""
    made = make("distmult", "sampler.timesteps=10", "sampler.clip=0")
    trained(made, 20)
    assert [level.state for level in made.sampler.levels] == [0, 1, 2, 5]
    c = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kept, denoiser, a = made.sampler._reverse(c), made.sampler.diffusion.denoiser, made.sampler.diffusion.schedule.kept
        left = []
        for t in (1, 2):
            x = kept[t]
            u = torch.cat([x, denoiser.sinusoids[t - 1].expand_as(x), c], dim=2)
            eps = denoiser.norm(denoiser.second(denoiser.first(u).relu()))
            v = 1 - a[t] / a[t - 1]
            left.append((kept[t - 1] - (x - v / math.sqrt(1 - a[t]) * eps) / math.sqrt(1 - v), math.sqrt(v)))
    assert left[0][0].abs().max() < 1e-5 < 0.01 * left[0][1]
    assert left[1][0].square().mean().sqrt().item() == pytest.approx(left[1][1], rel=0.05)


# --- warm-up and base ---


@pytest.mark.parametrize("passes", [1, 2])
def test_generated_negatives_count_after_the_passes_of_the_warm_up(passes, monkeypatch):
    made, counts = make("transe", f"sampler.warmup={passes}", "sampler.timesteps=4", batch=43), []
    sample = made.sampler.sample
    monkeypatch.setattr(made.sampler, "sample", lambda *args: counts.append(len(blocks := sample(*args))) or blocks)
    for _ in range(9):  # 3 steps are a pass over the 129 triples
        made.step()
    assert counts == [1] * 3 * passes + [3] * (9 - 3 * passes)


def test_the_base_sees_nothing_that_leads_to_the_model(monkeypatch):
    made, seen = make("distmult", "sampler.leak=true"), []
    sample = made.sampler.base.sample

    def watched(positives, view):
        seen.append((view.scoring.live, view.vectors(positives.h).requires_grad, view.relations(positives.r).requires_grad))
        return sample(positives, view)

    monkeypatch.setattr(made.sampler.base, "sample", watched)
    made.step()
    sampled(made, range(16))
    assert seen == [(False, False, False)] * 2


# --- options ---


def test_defaults_are_those_of_the_specification():
    """Sections 3 and 4.2, preset `paper`; `precision` is 4.7."""
    assert vars(DHNS.Options()) == {
        "base": "uniform", "weight": 0.01, "chain": "reverse", "timesteps": 50, "schedule": "cosine", "normalise": True,
        "clip": 4.0, "warmup": 1, "levels": "paper", "heads": "own", "denoiser": "paper", "noise_loss": "mse",
        "condition": "query", "slots": "all", "missing": "mask", "joint": "score", "hal": "on", "positive": "per_level",
        "gamma0": 4.0, "leak": False, "precision": "auto", "learning_rate": 5e-4,
    }  # fmt: skip
    assert (diffusion.FLOOR, diffusion.DECAY, HIDDEN) == (0.01, 0.99, 4)
    levels = [(20, 0.235, 0.3), (10, 0.471, 0.5), (5, 0.941, 0.7), (2, 2.353, 0.9)]  # weights to three digits, as printed
    assert [(n, round(weight, 3), margin) for n, weight, margin in LEVELS["paper"]] == levels


def test_released_is_the_preset_of_the_specification():
    """Section 4.2, preset `reference`; its learning rate is the released script's (K19)."""
    assert DHNS.variants["released"] == {
        "schedule": "linear", "normalise": False, "warmup": 0, "clip": 0.0, "levels": "released", "heads": "leaf",
        "noise_loss": "l1", "denoiser": "released", "condition": "released", "leak": True, "joint": "fuse",
        "positive": "once", "missing": "impute", "gamma0": 0.0, "learning_rate": 2e-3,
    }  # fmt: skip


OTHER = {  # another value of each option
    "base": "bernoulli", "weight": 0.5, "chain": "gauss", "timesteps": 21, "schedule": "linear", "normalise": False,
    "clip": 0.5, "warmup": 1, "levels": "one", "heads": "leaf", "denoiser": "released", "noise_loss": "l1",
    "condition": "released", "slots": "structure", "missing": "impute", "joint": "fuse", "hal": "flat", "positive": "once",
    "gamma0": 1.0, "leak": True, "precision": "bfloat16", "learning_rate": 2e-3,
}  # fmt: skip


def after_steps(kge, *settings):
    made = trained(make(kge, *settings, fusion="adamf"), 3)
    return torch.cat([made.kge.entity.flatten(), *(p.flatten() for p in made.sampler.parameters())]).detach()


@pytest.fixture(scope="module")
def by_default():
    return {kge: after_steps(kge) for kge in ("distmult", "transe")}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DHNS.Options)])
def test_every_option_changes_what_is_learnt(name, by_default):
    kge = "transe" if name == "condition" else "distmult"  # only TransE has a released condition of its own
    assert not torch.equal(after_steps(kge, f"sampler.{name}={OTHER[name]}"), by_default[kge])
