"""DHNS as released: docs/notes/dhns.md section 2, and of section 5 properties 4, 17, 22, 24, 25, 27 and 28."""

import dataclasses
import functools
import math

import pytest
import torch

from nsbench.contracts.scoring import Scoring
from nsbench.samplers.dhns import levels
from nsbench.samplers.dhns_released import FRACTIONS, DHNSReleased
from nsbench.training.losses import block_loss
from tests.samplers import dhns_cases
from tests.samplers.dhns_cases import Scripted, conditions, drawn, generated, one_triple, pulled, rows_pulled, trained

make = functools.partial(dhns_cases.make, sampler="dhns_released")
EVERYTHING = {"entity", "relation", "projections", "attention"}


def test_it_is_what_the_release_is():
    """D1, D4, D12, D16, T4 to T6; the learning rate is the script's (K19)."""
    assert vars(DHNSReleased.Options()) == {"weight": 0.01, "timesteps": 50, "learning_rate": 2e-3, "leak": True}
    assert DHNSReleased.variants == {"wo_leak": {"leak": False}}
    found = levels(FRACTIONS, 50)
    assert [(x.state, x.weight, x.margin) for x in found] == [(5, 0.5, 0.3), (6, 1, 0.5), (12, 1, 0.7), (25, 0.5, 0.9)]
    with pytest.warns(UserWarning, match=r"\[2, 2, 5, 10\]"):
        levels(FRACTIONS, 20)
    diffusion = make("distmult", "sampler.timesteps=50").sampler.diffusion
    assert diffusion.schedule.kept[-1] == pytest.approx(0.6030, abs=5e-5)
    assert diffusion.absolute
    assert diffusion.latents is None


@pytest.mark.parametrize(
    ("weight", "slots", "read"),
    [
        (0.01, ["image", "text"], (["structure", "image", "text"], "")),
        (0.01, [], (["structure"], "w/o MMC")),
        (0.0, ["image"], ([], "")),
    ],
)
def test_what_is_read_of_an_entity(weight, slots, read):
    assert DHNSReleased.reads(DHNSReleased.Options(weight=weight), ["image", "text"], slots) == read


def test_description():
    told = trained(make("transe", "sampler.timesteps=40"), 4).sampler.describe()
    for name in ("score", "gradient"):
        places = [(end, i, k) for end in ("head", "tail", "both") for i, k in enumerate((4, 5, 10, 20))]
        assert {f"{name}_{end}_{i}_state{k}" for end, i, k in places} <= set(told)
    assert all(math.isfinite(x) for x in told.values())
    assert not any(name.startswith("rms") for name in told)


# --- the chain ---


def test_leaf_heads_are_the_alternating_loop_with_the_same_noise(monkeypatch):
    """D10: after every tail step the released code makes a head out of the new tail; only the kept ones are needed."""
    made = make("distmult", "sampler.timesteps=25")
    sampler, script, c = made.sampler, Scripted(), conditions()
    monkeypatch.setattr(sampler, "_normal", script)
    found = sampler._reverse(c).transpose(2, 3).flatten(1, 2)  # [2, B S, L, D]
    heads, tails = c.flatten(1, 2)
    model, schedule, states = sampler.diffusion.denoiser, sampler.diffusion.schedule, [2, 3, 6, 12]
    tail_noise, head_noise = script.given[:-4], dict(zip(states, script.given[-4:]))
    assert len(tail_noise) == 1 + 25 - 2

    def step(x, t, condition, z):
        p = model.time(model.sinusoids[t - 1 : t]).expand_as(x)
        hidden = model.first(model.norm_in(torch.cat([x, p, condition], 1))).relu()
        eps = model.last(model.second(model.norm_hidden(hidden)))
        v, left = schedule.variance(t), schedule.kept[t]
        return (x - v / math.sqrt(1 - left) * eps) / math.sqrt(1 - v) + math.sqrt(v) * z

    with torch.no_grad():
        tail = tail_noise[0]
        for t, z in zip(range(25, 2, -1), tail_noise[1:]):
            tail = step(tail, t, tails, z)
            if t - 1 in states:
                head = step(tail, t, heads, head_noise[t - 1])
                assert torch.allclose(found[1, :, states.index(t - 1)], tail, atol=1e-5)
                assert torch.allclose(found[0, :, states.index(t - 1)], head, atol=1e-5)


def test_the_order_of_the_noise_is_that_of_the_shipped_runs(monkeypatch):
    """All states of 512 tails before the next 512, then the heads. Whoever changes that raises the version."""
    made, script = make("distmult"), Scripted()
    monkeypatch.setattr(made.sampler, "_normal", script)
    made.sampler._reverse(conditions(slots=1, batch=600))
    assert DHNSReleased.version == 1
    tails = [rows for rows in (512, 88) for _ in range(1 + 18)]  # state 20, and each below it down to 2
    assert [tuple(z.shape) for z in script.given] == [(rows, 8) for rows in (*tails, 600, 600, 600, 600)]


@pytest.mark.parametrize(("kge", "sign"), [("transe", -1), ("rotate", None)])
def test_conditions_are_the_models_queries_but_for_transe(kge, sign, monkeypatch):
    """D13: for TransE e - r for tails and e + r for heads, the other way round than its query. D15: not for RotatE."""
    made, seen = make(kge, fusion="none"), []
    reverse = made.sampler._reverse
    monkeypatch.setattr(made.sampler, "_reverse", lambda c: seen.append(c.detach().clone()) or reverse(c))
    positives, _, _ = drawn(made, range(129))
    h, t = (made.kge.entity.detach()[ids] for ids in (positives.h, positives.t))
    r = made.kge.relation.detach()[positives.r]
    if sign:
        expected = torch.stack([t + r, h - r])
    else:
        side = torch.tensor([True, False]).view(2, 1).expand(2, 129)
        expected = made.kge.query(torch.stack([t, h]), r.expand(2, *r.shape), side)
    torch.testing.assert_close(seen[0][:, :, 0], expected)


# --- blocks and losses ---


def test_both_ends_at_once_are_a_third_corruption_and_no_slot_is_missing():
    """T7, T11, K3."""
    made = make("distmult")
    positives, _, (_, heads, tails, both) = drawn(made, range(0, 129, 3))
    slots = [made.fusion.slots(made.kge.entity, ids) for ids in (positives.h, positives.t)]
    assert [heads.side.all(), tails.side.any(), both.side.any()] == [True, False, False]
    assert torch.equal(heads.generated.truth, slots[0])
    assert torch.equal(tails.generated.truth, slots[1])
    assert both.generated.truth is None
    assert both.generated.anchors.data_ptr() == heads.generated.vectors.data_ptr()
    assert both.generated.vectors.data_ptr() == tails.generated.vectors.data_ptr()
    for block in (heads, tails, both):
        assert block.generated.slot_mask.all()
        assert block.generated.joint == "fuse"
        assert block.generated.vectors.shape == (43, 4, 3, 8)
        assert not block.generated.vectors.requires_grad


@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_gradient_of_generated_negatives(fusion):
    made = make("distmult", "sampler.timesteps=25", fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    kept = {"head": {positives.t.item()}, "tail": {positives.h.item()}, "both": set()}
    assert [block.tape.ends for block in blocks] == list(kept)
    for block in blocks:
        _, s_neg = scoring.block(positives, block)
        (s_neg * block.weight).sum().backward(retain_graph=True)
        reached = {"relation"} if block.generated.anchors is not None else {"entity", "relation"}
        if fusion == "adamf":  # what was generated is fused, and so is the kept end
            reached |= {"attention"} if block.generated.anchors is not None else {"attention", "projections"}
        assert pulled(made) == reached, block.tape.ends
        assert rows_pulled(made) == kept[block.tape.ends]
        for module in (made.kge, made.fusion):
            module.zero_grad(set_to_none=True)


def test_factors():
    """Property 27: with constant scores, 0.75 mu on the generated part and (1 + 0.75 mu) / 2 on positives."""
    made = make("transe", "sampler.timesteps=50", "sampler.weight=0.2")
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


def test_distmult_has_no_margins_in_effect():
    _, _, blocks = drawn(make("distmult"))
    assert all((block.margin_shift == 0).all() for block in blocks[1:])


# --- the leak ---


@pytest.mark.parametrize("leak", [True, False])
def test_gradient_of_the_noise_loss(leak):
    made = make("distmult", f"sampler.leak={leak}", "sampler.weight=0")
    positives = one_triple(made)
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    _, _, blocks = drawn(made, positives.rows.tolist())
    assert all((a != b).any() for a, b in zip(before, made.sampler.diffusion.parameters()))
    zero = torch.zeros(1)
    found, again = (made.sampler.feedback(blocks[0], zero, zero.expand(1, 4)) for _ in range(2))
    assert again is None
    assert (found is not None) == leak
    if leak:
        found.backward()
    assert pulled(made) == ({"entity", "relation", "projections"} if leak else set())
    assert rows_pulled(made) == ({positives.h.item(), positives.t.item()} if leak else set())


def test_only_the_leak_reaches_the_model_without_negatives():
    """Properties 23 and 24."""
    plain = trained(dhns_cases.make("distmult", sampler="uniform"), 3).model_state()
    moved = {leak: trained(make("distmult", f"sampler.leak={leak}", "sampler.weight=0"), 3).model_state() for leak in (0, 1)}
    assert all(torch.equal(x, moved[False][name]) for name, x in plain.items())
    for name in ("fusion.project.0.weight", "kge.entity", "kge.relation"):
        assert not torch.equal(moved[True][name], plain[name])


@pytest.mark.parametrize("kge", ["distmult", "rotate"])  # TransE's condition is the released one here alone (D13)
@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_the_leak_is_the_auxiliary_diffusion(fusion, kge):
    """As `aux.diffusion=1` with the same denoiser and stream: the same gradient on the model, and the same step."""
    leaking = make(kge, "sampler.weight=0", fusion=fusion)
    beside = dhns_cases.make(kge, "aux.diffusion=1", "aux.diffusion.timesteps=20", fusion=fusion, sampler="uniform")
    auxiliary = beside.auxiliaries["diffusion"]
    auxiliary.diffusion.denoiser.load_state_dict(leaking.sampler.diffusion.denoiser.state_dict())
    for made in (leaking, beside):
        rng = torch.Generator().manual_seed(7)
        positives = made.graph.positives(torch.arange(0, 129, 2))
        view = dataclasses.replace(made._view(Scoring(made.kge, made.fusion, made.graph), live=True), rng=rng)
        if made is leaking:
            made.sampler.rng = rng
            made.sampler.base.sample = lambda positives, view: None  # draws from the same stream
            made.sampler.sample(positives, view)
            made.sampler.leaked.backward()
        else:
            auxiliary.loss(positives, view).backward()
    for module in ("kge", "fusion"):
        for one, other in zip(getattr(leaking, module).parameters(), getattr(beside, module).parameters()):
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or torch.equal(one.grad, other.grad)
    assert leaking.kge.entity.grad.abs().sum() > 0
    for one, other in zip(leaking.sampler.diffusion.parameters(), auxiliary.diffusion.parameters()):
        assert torch.equal(one, other)


# --- options ---


@functools.cache
def entities_after_steps(*settings):
    return trained(make("distmult", *settings), 3).kge.entity.detach()


@pytest.mark.parametrize("setting", ["weight=0.5", "timesteps=21", "learning_rate=5e-4", "leak=false"])
def test_every_option_teaches_the_model_something_else(setting):
    assert {f.name for f in dataclasses.fields(DHNSReleased.Options)} == {"weight", "timesteps", "learning_rate", "leak"}
    assert not torch.equal(entities_after_steps(f"sampler.{setting}"), entities_after_steps())
