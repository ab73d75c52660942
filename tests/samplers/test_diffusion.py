"""notes/dhns.md section 5: schedule and forward process (1-3), reverse steps (5-10), conditions (11-13); the auxiliary."""

import copy
import dataclasses
import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.errors import Misuse
from nsbench.registry import AUXILIARIES, MODELS
from nsbench.samplers.parts.chain import Diffusion, DiffusionLoss, Ends, Latents, Schedule, both_ends
from nsbench.testing.rules import Poor, registered, toy
from nsbench.training.trainer import Trainer

STEPS = (20, 50, 70, 100)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", STEPS)
def test_shares_fall_from_one_and_agree_with_the_variances(kind, steps):
    schedule = Schedule(kind, steps)
    assert schedule.kept[0] == 1
    assert len(schedule.kept) == steps + 1
    share = 1.0
    for t in range(1, steps + 1):
        assert 0 < schedule.variance(t) < 1
        share *= 1 - schedule.variance(t)
        assert schedule.kept[t] == pytest.approx(share)
        assert schedule.kept[t] < schedule.kept[t - 1]
    assert torch.allclose(schedule.signal.square() + schedule.noise.square(), torch.ones(steps + 1))


@pytest.mark.parametrize(("steps", "left"), list(zip(STEPS, (0.8168, 0.6030, 0.4925, 0.3636))))
def test_linear_never_reaches_noise(steps, left):
    schedule = Schedule("linear", steps)
    assert schedule.kept[-1] == pytest.approx(left, abs=5e-5)
    assert schedule.variance(1) == pytest.approx(1e-4)
    assert schedule.variance(steps) == pytest.approx(0.02)


@pytest.mark.parametrize(("steps", "most"), list(zip(STEPS, (0.527, 0.264, 0.197, 0.143))))
def test_cosine_ends_at_its_floor(steps, most):
    schedule = Schedule("cosine", steps)
    assert schedule.kept[-1] == pytest.approx(0.01, abs=1e-6)
    assert max(schedule.variance(t) for t in range(1, steps + 1)) == pytest.approx(most, abs=1e-3)
    if steps == 50:
        assert [schedule.kept[k] for k in (2, 5, 10, 25)] == pytest.approx([0.9946, 0.9724, 0.8997, 0.4989], abs=1e-4)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_moments_of_noised_vectors_and_of_single_steps(kind):
    schedule, n, k = Schedule(kind, 20), 40_000, 9
    rng = torch.Generator().manual_seed(0)
    x0 = torch.tensor([1.5, -0.5])
    at_once = schedule.noised(x0.expand(n, 2), torch.full((n,), k), torch.randn(n, 2, generator=rng))
    by_steps = x0.expand(n, 2)
    for t in range(1, k + 1):
        v = schedule.variance(t)
        by_steps = math.sqrt(1 - v) * by_steps + math.sqrt(v) * torch.randn(n, 2, generator=rng)
    left = schedule.kept[k]
    for x in (at_once, by_steps):
        deviation = math.sqrt(1 - left)
        assert torch.allclose(x.mean(0), math.sqrt(left) * x0, atol=4 * deviation / math.sqrt(n))
        assert torch.allclose(x.var(0), torch.tensor(1 - left), atol=4 * (1 - left) * math.sqrt(2 / n))


# --- reverse steps, under denoisers that are known in closed form ---


def origin(schedule, x, t):
    """For data at the origin all of x is noise."""
    return x / math.sqrt(1 - schedule.kept[t])


def gaussian(schedule, x, t, square):
    """The mean of eps given x for data N(0, square)."""
    left = schedule.kept[t]
    return x * math.sqrt(1 - left) / (left * square + 1 - left)


@pytest.mark.parametrize("clip", [0.0, 1e9])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_means_for_origin_data(kind, clip):
    schedule = Schedule(kind, 50)
    a = schedule.kept
    x = y = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for t in range(50, 0, -1):
        y = schedule.mean(y, origin(schedule, y, t), t, clip)
        one = schedule.mean(x, origin(schedule, x, t), t, clip)
        expected = x * math.sqrt(a[t] / a[t - 1]) * (1 - a[t - 1]) / (1 - a[t])
        assert torch.allclose(one, expected, atol=1e-7)
        whole = math.sqrt(a[50] / a[t - 1]) * (1 - a[t - 1]) / (1 - a[50])
        assert torch.allclose(y, x * whole, atol=1e-7)
    assert y.abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_second_moment_stays_one_for_unit_data(kind):
    schedule = Schedule(kind, 50)
    square = 1.0
    for t in range(50, 0, -1):  # exact: the mean is linear in x
        one = torch.ones(1, dtype=torch.float64)
        square = schedule.mean(one, gaussian(schedule, one, t, 1.0), t).item() ** 2 * square + schedule.variance(t)
        assert square == pytest.approx(1.0)


def test_clip_bounds_the_implied_signal():
    schedule, t = Schedule("cosine", 50), 30
    x0, eps = torch.tensor([[9.0, -1.0, 3.9]]), torch.tensor([[0.3, 0.2, -0.1]])
    x = schedule.noised(x0, torch.tensor([t]), eps)
    now, before = schedule.kept[t], schedule.kept[t - 1]
    clipped = torch.tensor([[4.0, -1.0, 3.9]])
    again = (x - math.sqrt(now) * clipped) / math.sqrt(1 - now)  # eps implied by the clipped signal
    expected = (x - schedule.variance(t) / math.sqrt(1 - now) * again) / math.sqrt(now / before)
    assert torch.allclose(schedule.mean(x, eps, t, 4.0), expected, atol=1e-5)


# --- conditions ---


def trainer(kge="transe", *settings, fusion="adamf", width=8, sampler="uniform"):
    values = [f"protocol.width={width}", "protocol.batch=16", "protocol.negatives=4", *settings]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=values)
    return Trainer(config, toy(features=fusion != "none"))


def ends_of(made, **how):
    positives = made.graph.positives(torch.arange(0, 60, 2))
    return positives, both_ends(positives, made.view, **how)


def test_condition_of_transe_and_of_the_released_sign():
    made = trainer()
    positives, ends = ends_of(made, masked=False)
    r = made.kge.relation[positives.r].unsqueeze(1)
    slots = {name: made.fusion.slots(made.kge.entity, ids) for name, ids in (("h", positives.h), ("t", positives.t))}
    assert torch.allclose(ends.condition[0], slots["t"] - r)
    assert torch.allclose(ends.condition[1], slots["h"] + r)
    assert torch.equal(ends.target, torch.stack([slots["h"], slots["t"]]))
    _, swapped = ends_of(made, masked=False, swapped=True)
    assert torch.allclose(swapped.condition[0], slots["t"] + r)  # D13
    assert torch.allclose(swapped.condition[1], slots["h"] - r)


def test_condition_of_rotate_turns_by_the_models_own_phases():
    made = trainer("rotate")
    positives, ends = ends_of(made, masked=False)
    phase = made.kge.relation[positives.r].unsqueeze(1) * math.pi / ((made.protocol.margin + 2) / 8)

    def complexes(x):
        return torch.complex(*x.chunk(2, dim=-1))

    h, t = complexes(ends.target[0]), complexes(ends.target[1])
    assert torch.allclose(complexes(ends.condition[0]), t * torch.polar(torch.ones_like(phase), -phase), atol=1e-5)
    assert torch.allclose(complexes(ends.condition[1]), h * torch.polar(torch.ones_like(phase), phase), atol=1e-5)
    assert torch.allclose(complexes(ends.condition[1]).abs(), h.abs(), atol=1e-5)
    back = made.view.query(
        ends.condition[1], made.view.relations(positives.r).unsqueeze(1), torch.ones(len(positives), 1, dtype=torch.bool)
    )
    assert torch.allclose(back, ends.target[0], atol=1e-5)  # the head's query inverts the tail's


@pytest.mark.parametrize("kge", ["transe", "rotate"])
def test_distance_is_zero_at_the_query(kge):
    made = trainer(kge, fusion="none")
    positives, ends = ends_of(made)
    for side, query in ((True, ends.condition[0, :, 0]), (False, ends.condition[1, :, 0])):
        block = Negatives(torch.full((len(positives),), side), generated=Generated(query.detach().unsqueeze(1)))
        assert torch.allclose(made.scoring().block(positives, block)[1], torch.tensor(made.protocol.margin), atol=1e-4)


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate", "complex", "transd"])  # pairre: tests/kge/test_pairre.py
def test_score_depends_on_the_kept_end_and_relation_through_the_query_alone(kge):
    made = trainer(kge, fusion="none")
    positives, ends = ends_of(made)
    candidates = torch.randn(len(positives), 3, made.setting.entity_width, generator=torch.Generator().manual_seed(0))
    for place, side in enumerate((True, False)):
        block = Negatives(torch.full((len(positives),), side), generated=Generated(candidates))
        expected = made.kge.similarity.pairwise(ends.condition[place].detach(), candidates)
        assert torch.allclose(made.scoring().block(positives, block)[1], expected, atol=1e-4)


def test_masks_follow_the_ends_and_missing_slots_are_zero(monkeypatch):
    made = trainer()
    slots = made.fusion.slots

    def spoilt(entity, ids):
        x = slots(entity, ids)
        return torch.where(made.fusion.slot_mask(ids).unsqueeze(-1), x, torch.nan)

    monkeypatch.setattr(made.fusion, "slots", spoilt)
    positives, ends = ends_of(made)
    assert ends.target.isfinite().all()
    assert ends.condition.isfinite().all()
    mask = {name: made.fusion.slot_mask(ids) for name, ids in (("h", positives.h), ("t", positives.t))}
    assert not mask["t"].all()
    assert torch.equal(ends.target_mask, torch.stack([mask["h"], mask["t"]]))
    assert torch.equal(ends.condition_mask, torch.stack([mask["t"], mask["h"]]))
    _, imputed = ends_of(made, masked=False)
    assert imputed.target_mask.all()
    assert not imputed.target.isfinite().all()


@pytest.mark.parametrize(("slots", "count"), [("fused", 1), ("structure", 1), ("all", 3)])
def test_ends_hold_what_is_diffused_and_the_other_ends_query_of_the_same(slots, count):
    made = trainer("distmult")
    positives, ends = ends_of(made, slots=slots)
    scoring, r = made.scoring(), made.kge.relation[positives.r].unsqueeze(1)
    for place, (target, kept) in enumerate(((positives.h, positives.t), (positives.t, positives.h))):
        for ids, found, mask, factor in (
            (target, ends.target[place], ends.target_mask[place], 1.0),
            (kept, ends.condition[place], ends.condition_mask[place], r),
        ):
            present = made.fusion.slot_mask(ids)
            by_slot = torch.where(present.unsqueeze(2), made.fusion.slots(made.kge.entity, ids), 0.0)
            expected = {"fused": scoring.vectors(ids).unsqueeze(1), "structure": by_slot[:, :1], "all": by_slot}[slots]
            assert torch.allclose(found, expected * factor)
            assert torch.equal(mask, present if slots == "all" else torch.ones_like(mask))
            assert mask.shape[1] == count


# --- latents and loss ---


def some_ends(batch=6, slots=2, width=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    target, condition = (torch.randn(2, batch, slots, width, generator=rng) * (m + 2.0) + 3 * m - 1 for m in range(2))
    masks = torch.rand(2, batch, slots, generator=rng) < 0.6
    masks[..., 0] = True
    return Ends(target, condition, masks, masks.flip(0), (target[0], target[1], torch.zeros(batch, 1)))


def there(ends, name, m):
    """Rows [n, D] of slot m that exist, of both sides."""
    return getattr(ends, name)[..., m, :][getattr(ends, f"{name}_mask")[..., m]]


def held(latents, name, m):
    return getattr(latents, f"{name}_mean")[m], getattr(latents, f"{name}_scale")[m]


@pytest.mark.parametrize("name", ["target", "condition"])
def test_latents_are_about_the_masked_mean_of_the_first_batch_and_then_follow_slowly(name):
    """Scales are root mean squares about the mean of the time."""
    latents, first, second = Latents(2, 4), some_ends(), some_ends(seed=1)
    latents.update(first)
    means, scales = [], []
    for m in range(2):
        rows = there(first, name, m)
        means.append(rows.mean(0))
        scales.append((rows - means[m]).square().mean().sqrt())
        torch.testing.assert_close(held(latents, name, m), (means[m], scales[m]))
    latents.update(second)
    for m in range(2):
        rows = there(second, name, m)
        mean = 0.99 * means[m] + 0.01 * rows.mean(0)
        scale = 0.99 * scales[m] + 0.01 * (rows - mean).square().mean().sqrt()
        torch.testing.assert_close(held(latents, name, m), (mean, scale))


def test_a_slot_that_was_not_seen_is_left_as_it_is_and_starts_when_it_is():
    latents, ends, later = Latents(2, 4), some_ends(), some_ends(seed=1)
    ends.target_mask[..., 1] = ends.condition_mask[..., 1] = False
    latents.update(ends)
    for name in ("target", "condition"):
        torch.testing.assert_close(held(latents, name, 1), (torch.zeros(4), torch.tensor(1.0)))
    later.target_mask[..., 1] = later.condition_mask[..., 1] = True
    latents.update(later)
    rows = later.target[..., 1, :].flatten(0, 1)
    expected = rows.mean(0), (rows - rows.mean(0)).square().mean().sqrt()
    torch.testing.assert_close(held(latents, "target", 1), expected)
    before = held(latents, "target", 1)[0].clone()
    latents.update(ends)  # not seen again
    assert torch.equal(held(latents, "target", 1)[0], before)


def test_latents_have_the_noises_moments_and_lead_back_to_vectors():
    diffusion, ends = Diffusion(4, 2, 6, 1e-3), some_ends()
    found = diffusion.observe(ends)
    for x, mask in zip(found, (ends.target_mask, ends.condition_mask)):
        for m in range(2):
            rows = x[..., m, :][mask[..., m]]
            assert rows.mean(0).abs().max() < 1e-6
            assert rows.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(diffusion.vectors(found[0]), ends.target)
    by_level = found[0].unsqueeze(2).expand(2, 6, 5, 2, 4)
    torch.testing.assert_close(diffusion.vectors(by_level), ends.target.unsqueeze(2).expand(2, 6, 5, 2, 4))


def test_unscaled_vectors_are_diffused_as_they_are():
    diffusion, ends = Diffusion(4, 2, 6, 1e-3, scaled=False), some_ends()
    assert torch.equal(torch.stack(diffusion.observe(ends)), torch.stack([ends.target, ends.condition]))
    assert torch.equal(diffusion.vectors(ends.target), ends.target)


@pytest.mark.parametrize("absolute", [False, True])
def test_loss_by_hand(absolute, monkeypatch):
    """A denoiser that answers x + t + c, and loops over rows."""
    diffusion, ends = Diffusion(4, 2, 6, 1e-3, schedule="linear", absolute=absolute, scaled=False), some_ends()

    class Stub:
        def condition(self, c):
            return c

        def __call__(self, x, t, c):
            return x + t.unsqueeze(1) + c

    monkeypatch.setattr(diffusion.denoiser, "fold", Stub)
    rng = torch.Generator().manual_seed(5)
    t = torch.randint(1, 7, (6, 2), generator=rng)
    eps = torch.randn(6, 2, 4, generator=rng)
    found, by_quarter = diffusion.loss(ends, (ends.target, ends.condition), torch.Generator().manual_seed(5))
    means, quarters = [], {}
    for side in range(2):
        for m in range(2):
            errors = []
            for b in range(6):
                left = diffusion.schedule.kept[t[b, m]]
                x = math.sqrt(left) * ends.target[side, b, m] + math.sqrt(1 - left) * eps[b, m]
                error = x + t[b, m] + ends.condition[side, b, m] - eps[b, m]
                error = error.abs().mean() if absolute else error.square().mean()
                if ends.target_mask[side, b, m] and ends.condition_mask[side, b, m]:
                    errors.append(error)
                    quarters.setdefault(int((t[b, m] - 1) * 4 // 6), []).append(error)
            means.append(sum(errors) / len(errors))
    expected = sum(means) if absolute else sum(means) / 4
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for quarter, errors in quarters.items():
        of_zero = math.sqrt(2 / math.pi) if absolute else 1.0  # the mean of |eps|, or of its square
        assert by_quarter[quarter].item() == pytest.approx((sum(errors) / len(errors)).item() / of_zero, rel=1e-5)


def test_invalid_slots_do_not_matter_to_the_loss():
    torch.manual_seed(0)
    diffusion, ends = Diffusion(4, 2, 6, 1e-3), some_ends()
    spoilt = dataclasses.replace(
        ends,
        target=torch.where(ends.target_mask.unsqueeze(3), ends.target, 1e6),
        condition=torch.where(ends.condition_mask.unsqueeze(3), ends.condition, 1e6),
    )
    losses = []
    for given in (ends, spoilt):
        latents = Latents(2, 4)
        latents.update(given)
        losses.append(diffusion.loss(given, latents.of(given), torch.Generator().manual_seed(5))[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("leak", [False, True])
def test_learning_is_a_step_of_adam_and_the_leak_is_the_loss_before_it(leak):
    torch.manual_seed(0)
    ours, theirs = (Diffusion(4, 1, 6, 1e-2, scaled=False) for _ in range(2))
    theirs.denoiser.load_state_dict(ours.denoiser.state_dict())
    adam, gradients = torch.optim.Adam(theirs.denoiser.parameters(), lr=1e-2), []
    for diffusion in (ours, theirs):
        h, t, r = (torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(m)).requires_grad_() for m in range(3))
        ones = torch.ones(2, 5, 1, dtype=torch.bool)
        ends = Ends(torch.stack([h, t]), torch.stack([t * r, h * r]), ones, ones, (h, t, r))
        given = ends, (ends.target, ends.condition), torch.Generator().manual_seed(5)
        if diffusion is ours:
            leaked, _ = diffusion.learn(*given, leak=leak)
            assert (leaked is not None) == leak
        else:
            loss, _ = diffusion.loss(*given)
            loss.backward()
            adam.step()
        if diffusion is ours and leak:
            leaked.backward()
        gradients.append([x.grad for x in (h, t, r)])
    for one, other in zip(ours.denoiser.parameters(), theirs.denoiser.parameters()):
        torch.testing.assert_close(one, other)
        assert one.grad is None
    if leak:
        assert leaked.item() == pytest.approx(loss.item())
        torch.testing.assert_close(*gradients)
    else:
        assert gradients[0] == [None] * 3


def test_adam_and_latents_travel_with_the_state():
    torch.manual_seed(0)
    one, other = Diffusion(4, 2, 6, 1e-2), Diffusion(4, 2, 6, 1e-2)

    def step(diffusion, seed):
        ends = some_ends(seed=seed)
        diffusion.learn(ends, diffusion.observe(ends), torch.Generator().manual_seed(seed))

    step(one, 1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # else the two share the moments
    for diffusion in (one, other):
        step(diffusion, 2)
    assert all(
        torch.equal(a, b) for a, b in zip([*one.parameters(), *one.buffers()], [*other.parameters(), *other.buffers()])
    )


# --- the auxiliary ---


@pytest.mark.parametrize("fusion", ["none", "adamf"])
@pytest.mark.parametrize("sampler", ["uniform", "kbgan"])
def test_auxiliary_runs_with_any_sampler_and_learns(sampler, fusion):
    settings = ["aux.diffusion=1", "aux.diffusion.timesteps=10"]
    settings += ["sampler.pretrain_epochs=1"] if sampler == "kbgan" else []
    made = trainer("transe", *settings, fusion=fusion, sampler=sampler)
    made.pretrain()
    auxiliary = made.auxiliaries["diffusion"]
    before = [p.detach().clone() for p in auxiliary.parameters()]
    for _ in range(3):
        made.step()
    assert all((a != b).any() for a, b in zip(before, auxiliary.parameters()))
    taken = {id(x) for group in made.model_adam.param_groups for x in group["params"]}
    assert not taken & {id(x) for x in auxiliary.parameters()}  # its denoiser has an Adam of its own


@pytest.mark.parametrize("rate", [2e-3, 1e-2])
def test_auxiliary_learns_at_its_own_rate(rate):
    """The first step of Adam moves a parameter by its learning rate, whatever the gradient."""
    made = trainer("distmult", "aux.diffusion=1", *([] if rate == 2e-3 else [f"aux.diffusion.learning_rate={rate}"]))
    before = [p.detach().clone() for p in made.auxiliaries["diffusion"].parameters()]
    made.step()
    moved = max((p - x).abs().max().item() for p, x in zip(made.auxiliaries["diffusion"].parameters(), before))
    assert moved == pytest.approx(rate, rel=0.02)


def test_auxiliary_pulls_at_entities_relations_and_projections_but_not_at_the_attention():
    made = trainer("distmult", "aux.diffusion=1")
    positives = made.graph.positives(torch.arange(30))
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=True)
    made.auxiliaries["diffusion"].loss(positives, view).backward()
    assert made.kge.entity.grad.abs().sum() > 0
    assert made.kge.relation.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in made.fusion.project.parameters())
    assert made.fusion.q.grad is None


def test_auxiliary_leaves_the_samplers_stream_alone():
    plain, extra = trainer(), trainer("transe", "aux.diffusion=1")
    for made in (plain, extra):
        made.pretrain()
        made.step()
    assert torch.equal(plain.view.rng.get_state(), extra.view.rng.get_state())


def test_auxiliary_is_known_without_any_sampler_and_needs_a_query():
    assert AUXILIARIES.get("diffusion") is DiffusionLoss
    assert DiffusionLoss.version == 2
    assert AUXILIARIES.source("diffusion") == "built-in"
    with registered(MODELS, "poor", Poor), pytest.raises(Misuse, match=r"diffusion.*query"):
        configure("uniform", "poor", "toy", protocol="quick", settings=["aux.diffusion=1"])
