"""MMRNS's draws and the model's feedback on them: docs/notes/mmrns.md section 5, properties 2 to 6, 11 to 14, 22."""

import math

import pytest
import scipy
import torch

from nsbench.contracts import Need
from nsbench.errors import Misuse
from nsbench.kernels.race import SoftRows, race, raced
from nsbench.samplers import mmrns
from nsbench.samplers.mmrns import exploration, mixture, number_of_candidates
from tests.samplers.mmrns_cases import components_of, reached, step_of


def test_draws_are_distinct_and_unknown_2(rng):
    log_p = torch.full((10_000, 8), 1 / 8).log()
    known = torch.zeros(10_000, 8, dtype=torch.bool)
    known[:, [1, 4, 6]] = True
    draws = race(log_p, known, 5, rng)
    index, free = draws.index, draws.free
    assert (index.sort(1).values == torch.tensor([0, 2, 3, 5, 7])).all()
    assert free.all()
    draws = race(log_p, known, 6, rng)
    index, free = draws.index, draws.free  # the sixth is not there
    assert (index[:, :5].sort(1).values == torch.tensor([0, 2, 3, 5, 7])).all()
    assert free[:, :5].all()
    assert not free[:, 5].any()


def test_candidates_are_a_tenth_within_bounds():
    assert number_of_candidates(0, 15_000, 20) == 1500
    assert number_of_candidates(0, 1_000_000, 20) == mmrns.MOST_CANDIDATES == 4096
    assert number_of_candidates(0, 40, 3) == 6
    assert number_of_candidates(5000, 1_000_000, 20) == 5000  # as asked
    assert number_of_candidates(1500, 40, 3) == 40


def test_too_few_candidates_are_refused_2(on_toy):
    with pytest.raises(Misuse, match=r"sampler\.candidates"):
        on_toy("sampler.candidates=2")


def test_the_first_draw_has_probability_p_3(rng):
    p = torch.tensor([0.05, 0.3, 0.1, 0.25, 0.2, 0.1])
    known = torch.zeros(200_000, 6, dtype=torch.bool)
    known[:, 3] = True
    index = race(p.log().expand(200_000, -1), known, 1, rng).index
    seen = index.flatten().bincount(minlength=6)
    assert seen[3] == 0
    left = [0, 1, 2, 4, 5]
    expected = (200_000 * p[left] / 0.75).double().numpy()
    assert scipy.stats.chisquare(seen[left].numpy(), expected, sum_check=False).pvalue > 1e-4


def test_a_pair_of_draws_has_the_law_without_replacement_4(rng):
    p = torch.tensor([0.5, 0.2, 0.15, 0.15])
    index = race(p.log().expand(100_000, -1), torch.zeros(100_000, 4, dtype=torch.bool), 2, rng).index
    expected = (p.unsqueeze(1) * p / (1 - p.unsqueeze(1))).fill_diagonal_(0)
    seen = (index[:, 0] * 4 + index[:, 1]).bincount(minlength=16)
    off = ~torch.eye(4, dtype=torch.bool).flatten()
    assert not seen[~off].any()
    found = scipy.stats.chisquare(seen[off].numpy(), 100_000 * expected.flatten()[off].double().numpy(), sum_check=False)
    assert found.pvalue > 1e-4


def test_p_is_the_mean_of_the_softmaxes_5(rng):
    parts = components_of(4, 9, 3, rng)
    p = mixture(parts, 0.3).exp()
    mean = sum((c.near / 0.3).exp() / (c.near / 0.3).exp().sum(1, keepdim=True) for c in parts) / 3
    torch.testing.assert_close(p, mean)
    torch.testing.assert_close(p.sum(1), torch.ones(4))
    assert (mixture(parts, 1e6).exp() - 1 / 9).abs().max() < 1e-6


def test_three_times_p_changes_no_draw_and_no_gradient_5(rng):
    log_p = mixture(components_of(5, 9, 3, rng), 0.3)
    known, table, grad = torch.zeros(5, 9, dtype=torch.bool), torch.randn(9, 6), torch.randn(5, 2, 6)
    found = []
    for shift in (0.0, math.log(3)):
        logits = (log_p + shift).requires_grad_()
        draws = race(logits.detach(), known, 2, torch.Generator().manual_seed(2))
        SoftRows.apply(logits, draws, table, 1).backward(grad)
        found.append((draws.index, logits.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_exploration_falls_6():
    def of(start, step):
        return exploration(start, torch.tensor(float(step), dtype=torch.float64)).item()

    assert [of(10, s - 1) for s in (1, 1000, 100_000)] == pytest.approx([10, 1.26458, 0.799174], rel=1e-5)
    assert of(1, 99) == pytest.approx(0.178407, rel=1e-5)
    values = [of(1, s) for s in range(500)]
    assert values == sorted(values, reverse=True)


def test_the_schedule_is_read_from_the_step_6(on_toy, monkeypatch):
    asked = []
    monkeypatch.setattr(mmrns, "exploration", lambda start, step: asked.append((start, step)) or 1.0)
    trainer = on_toy("sampler.exploration=3")
    trainer.step()
    trainer.step()
    assert asked == [(3.0, 0), (3.0, 1)]


def test_at_low_exploration_the_most_similar_are_drawn_22(rng):
    part = components_of(50, 30, 1, rng)
    known = torch.rand(50, 30, generator=rng) < 0.3
    index = race(mixture(part, 1e-3), known, 4, rng).index
    near = part[0].near.masked_fill(known, -9)
    value = near.gather(1, index).sort(1, descending=True).values
    assert (near.topk(4, dim=1).values - value).abs().max() < 0.02  # candidates nearer than about eps are ties


def test_delta_is_zero_and_has_the_gradient_of_the_one_hot_product_11(rng):
    b, n, k, d = 4, 7, 3, 5
    log_p = torch.randn(b, n, generator=rng, dtype=torch.float64).log_softmax(1)
    known = torch.rand(b, n, generator=rng) < 0.2
    table, target = torch.randn(n, d, generator=rng).double(), torch.randn(b, k, d, generator=rng).double()
    logits, noise = log_p.clone().requires_grad_(), torch.empty(b, k, n).exponential_(generator=rng).double()
    draws = raced(log_p, known, noise)
    delta, index = SoftRows.apply(logits, draws, table, 1), draws.index
    assert draws.free.all()
    assert torch.equal(table[index] + delta, table[index])
    ((table[index] + delta - target) ** 2).sum().backward()

    explicit, out = log_p.clone().requires_grad_(), known.clone()
    for i in range(k):
        y = (explicit - noise[:, i].log()).masked_fill(out, -math.inf).softmax(1)
        assert torch.equal(y.argmax(1), index[:, i])
        hot = torch.nn.functional.one_hot(index[:, i], n).double() + y - y.detach()
        ((hot @ table - target[:, i]) ** 2).sum().backward()
        out = out.scatter(1, index[:, i : i + 1], True)
    torch.testing.assert_close(logits.grad, explicit.grad, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("kappa", [1, -1])
def test_the_sign_of_the_feedback_12(kappa, rng):
    """DistMult: minimising softplus(f) through y lowers the expected score; kappa = -1 raises it."""
    table, q = torch.randn(30, 5, generator=rng), torch.randn(8, 5, generator=rng)
    logits = torch.zeros(8, 30, requires_grad=True)
    noise, known = torch.empty(8, 1, 30).exponential_(generator=rng), torch.zeros(8, 30, dtype=torch.bool)
    draws = raced(logits.detach(), known, noise)
    negative = table[draws.index] + SoftRows.apply(logits, draws, table, kappa)
    torch.nn.functional.softplus((q.unsqueeze(1) * negative).sum(2)).sum().backward()
    f, v = q @ table.T, -noise[:, 0].log()
    moved = ((v - 1e-2 * logits.grad).softmax(1) * f).sum(1)
    assert (kappa * (moved - (v.softmax(1) * f).sum(1)) < 0).all()


def test_without_feedback_and_contrast_the_sampler_does_not_learn_12(on_toy):
    trainer = on_toy("sampler.feedback=0", "sampler.beta=0")
    before = [p.clone() for p in trainer.sampler.parameters()]
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.sampler.parameters()))


@pytest.mark.parametrize("code", ["paper", "released"])
@pytest.mark.parametrize("source", ["feedback", "contrast"])
def test_every_parameter_learns_from_either_loss_13(on_toy, source, code):
    only = "sampler.beta=0" if source == "feedback" else "sampler.feedback=0"
    trainer = on_toy(only, f"sampler.code={code}")
    _, _, _, block, (s_pos, s_neg) = step_of(trainer)
    loss = s_neg.sum() if source == "feedback" else trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach())
    loss.backward()
    assert reached(trainer) == {name for name, _ in trainer.sampler.named_parameters()}


def test_detached_the_contrast_leaves_the_model_alone_14(on_toy):
    touched = {}
    for detach in ("true", "false"):
        trainer = on_toy(f"sampler.detach_kge={detach}", protocol=("width=6", "batch=16", "negatives=1"))
        _, _, positives, block, (s_pos, s_neg) = step_of(trainer, range(3))
        (s_pos.sum() + s_neg.sum()).backward(retain_graph=True)
        kge = set(trainer.kge.entity.grad.any(1).nonzero().flatten().tolist())
        trainer.kge.zero_grad()
        trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach()).backward()
        own = [x.grad is not None and bool(x.grad.any()) for x in (trainer.kge.entity, trainer.kge.relation)]
        assert own == [detach == "false"] * 2
        named = {*positives.h.tolist(), *positives.t.tolist(), *block.ids.flatten().tolist()}
        touched[detach] = kge - named
    assert not touched["true"]
    assert touched["false"]


def test_what_the_trainer_is_asked_for_follows_the_option():
    assert mmrns.MMRNS.needs(mmrns.MMRNS.Options()) == {Need.ONE_VIEW}
    assert mmrns.MMRNS.needs(mmrns.MMRNS.Options(detach_kge=False)) == {Need.LIVE, Need.ONE_VIEW}
