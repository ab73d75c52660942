"""DHNS's levels and its chain: docs/notes/dhns.md section 5, properties 4 and 16 to 21."""

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nsbench.samplers.dhns import DHNS, levels
from nsbench.samplers.parts.chain import both_ends
from tests.samplers.dhns_cases import drawn, make, trained


def test_level_maps():
    assert [x.state for x in levels("paper", 50)] == [2, 5, 10, 25]
    assert [x.state for x in levels("released", 50)] == [5, 6, 12, 25]  # and 0, of weight 0
    assert [x.state for x in levels("paper", 20)] == [1, 2, 4, 10]
    with pytest.warns(UserWarning, match=r"\[2, 2, 5, 10\]"):
        assert [x.state for x in levels("released", 20)] == [2, 2, 5, 10]


def test_weights_and_margins():
    assert [x.weight for x in levels("paper", 50)] == pytest.approx([0.235, 0.471, 0.941, 2.353], abs=1e-3)
    assert sum(x.weight for x in levels("paper", 50)) == pytest.approx(4)
    assert [x.margin for x in levels("paper", 50)] == [0.3, 0.5, 0.7, 0.9]
    assert [x.weight for x in levels("released", 50)] == [0.5, 1, 1, 0.5]


class Scripted:
    """Noise tensors in place of a generator's, in a known order."""

    def __init__(self, seed=0):
        self.rng = torch.Generator().manual_seed(seed)
        self.given = []

    def __call__(self, shape):
        self.given.append(torch.randn(shape, generator=self.rng))
        return self.given[-1]


def conditions(slots=3, batch=5, width=8):
    return torch.randn(2, batch * slots, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("clip", [0.0, 4.0])
def test_one_batched_chain_is_a_chain_per_side_and_slot(clip, monkeypatch):
    made = make("distmult", f"sampler.clip={clip}", "sampler.denoiser=paper")
    sampler, script, c = made.sampler, Scripted(), conditions()
    monkeypatch.setattr(sampler, "_normal", script)
    with torch.no_grad():
        found = sampler._reverse(c)  # [L, 2, n, D]
        schedule, denoiser = sampler.diffusion.schedule, sampler.diffusion.denoiser
        for side in range(2):
            for row in range(15):
                noise = [z[side * 15 + row] for z in script.given]
                x, states = noise[0], {}
                for t, z in zip(range(20, 1, -1), noise[1:]):
                    u = torch.cat([x, denoiser.sinusoids[t - 1], c[side, row]])
                    eps = denoiser.norm(denoiser.second(denoiser.first(u).relu()))
                    left, before = schedule.kept[t], schedule.kept[t - 1]
                    if clip:
                        x0 = ((x - math.sqrt(1 - left) * eps) / math.sqrt(left)).clamp(-clip, clip)
                        eps = (x - math.sqrt(left) * x0) / math.sqrt(1 - left)
                    v = 1 - left / before
                    x = (x - v / math.sqrt(1 - left) * eps) / math.sqrt(1 - v) + math.sqrt(v) * z
                    states[t - 1] = x
                for level, place in zip(sampler.levels, range(4)):
                    assert torch.allclose(found[place, side, row], states[level.state], atol=1e-5)


def test_leaf_heads_are_the_alternating_loop_with_the_same_noise(monkeypatch):
    """D10: after every tail step the released code makes a head out of the new tail; only the kept ones are needed."""
    made = make("distmult", "sampler.variant=released", "sampler.timesteps=25")
    sampler, script, c = made.sampler, Scripted(), conditions()
    monkeypatch.setattr(sampler, "_normal", script)
    with torch.no_grad():
        found = sampler._reverse(c)
        model, schedule = sampler.diffusion.denoiser, sampler.diffusion.schedule
        states = [level.state for level in sampler.levels]
        assert states == [2, 3, 6, 12]
        tail_noise, head_noise = script.given[:-4], dict(zip(states, script.given[-4:]))
        assert len(tail_noise) == 1 + 25 - 2

        def step(x, t, condition, z):
            p = model.time(model.sinusoids[t - 1 : t]).expand_as(x)
            hidden = model.first(model.norm_in(torch.cat([x, p, condition], 1))).relu()
            eps = model.last(model.second(model.norm_hidden(hidden)))
            v, left = schedule.variance(t), schedule.kept[t]
            return (x - v / math.sqrt(1 - left) * eps) / math.sqrt(1 - v) + math.sqrt(v) * z

        tail = tail_noise[0]
        for t, z in zip(range(25, 2, -1), tail_noise[1:]):
            tail = step(tail, t, c[1], z)
            if t - 1 in states:
                head = step(tail, t, c[0], head_noise[t - 1])
                assert torch.allclose(found[states.index(t - 1), 1], tail, atol=1e-5)
                assert torch.allclose(found[states.index(t - 1), 0], head, atol=1e-5)


def test_the_order_of_the_noise_is_that_of_the_shipped_runs(monkeypatch):
    """All states of 512 rows before the next 512. Whoever changes that raises `DHNS.version`: old runs do not come back."""
    made = make()
    script = Scripted()
    monkeypatch.setattr(made.sampler, "_normal", script)
    with torch.no_grad():
        made.sampler._reverse(conditions(slots=1, batch=600))
    draws = 1 + 19  # state 20, and each state below it down to 1
    assert DHNS.version == 2
    assert [tuple(z.shape) for z in script.given] == [(rows, 8) for rows in (512, 512, 176) for _ in range(draws)]


def test_rows_do_not_meet(monkeypatch):
    made, c = make(), conditions()
    noise = {}

    def fixed(shape):
        noise.setdefault("count", 0)
        noise["count"] += 1
        return torch.randn(shape, generator=torch.Generator().manual_seed(noise["count"]))

    monkeypatch.setattr(made.sampler, "_normal", fixed)

    def states(condition):
        noise.clear()
        with torch.no_grad():
            return made.sampler._reverse(condition)

    plain, changed = states(c), c.clone()
    changed[1, 4] += 1.0
    other = states(changed)
    same = torch.ones(2, 15, dtype=torch.bool)
    same[1, 4] = False
    assert torch.equal(plain[:, same], other[:, same])
    assert not torch.equal(plain[:, 1, 4], other[:, 1, 4])

    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(made.sampler, "_normal", lambda shape: fixed(shape)[order])
    permuted = states(c.view(30, 8)[order].view(2, 15, 8)).flatten(1, 2)
    assert torch.allclose(permuted, plain.flatten(1, 2)[:, order], atol=1e-6)


def test_bf16_chain_is_within_three_per_cent(monkeypatch):
    made, c = make("distmult", width=32), conditions(width=32)
    trained(made, 20)
    kept = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(made.sampler, "_normal", Scripted())
        made.sampler.diffusion.denoiser.dtype = dtype
        with torch.no_grad():
            kept.append(made.sampler._reverse(c))
    for exact, rough in zip(*kept):
        assert 0 < (rough - exact).norm() / exact.norm() < 0.03


def test_precision_is_the_denoisers_alone():
    made, exact = make("distmult", "sampler.precision=bfloat16"), make("distmult")
    folded = made.sampler.diffusion.denoiser.fold()
    assert folded.x_in.dtype == folded.out.dtype == torch.bfloat16
    assert exact.sampler.diffusion.denoiser.fold().x_in.dtype == torch.float32
    for trainer in (made, exact):
        trainer.step()
        assert math.isfinite(trainer.loss_sum.item())
    assert all(p.dtype == torch.float32 for p in made.sampler.parameters())
    _, _, blocks = drawn(made)
    assert blocks[1].generated.vectors.dtype == torch.float32
    assert not torch.equal(made.kge.entity, exact.kge.entity)


def test_two_chains_differ_with_equal_moments_and_see_the_new_parameters():
    """Property 20 without graphs: nothing is captured, so nothing can go stale."""
    made = make(batch=64)
    _, view, _ = drawn(made)
    c = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = made.sampler._reverse(c), made.sampler._reverse(c)
    assert (one - two).abs().mean() > 0.1
    assert torch.allclose(one.square().mean((1, 2, 3)), two.square().mean((1, 2, 3)), rtol=0.05)

    def fixed(sampler):
        sampler.rng.manual_seed(3)
        with torch.no_grad():
            return sampler._reverse(c)

    before = fixed(made.sampler)
    assert torch.equal(before, fixed(made.sampler))
    made.sampler._learn(both_ends(made.graph.positives(torch.arange(40)), view))
    assert not torch.equal(before, fixed(made.sampler))


class Peak(TorchDispatchMode):
    """Most bytes of tensors made inside that are alive at one time."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and (storage := x.untyped_storage())._cdata not in self.known:
                self.known[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.gone, storage._cdata)
        return out

    def gone(self, key):
        self.live -= self.known.pop(key)


def test_chain_leaves_no_graph_and_its_memory_does_not_grow_with_t():
    peaks = []
    for steps in (20, 80):
        made, c = make("distmult", f"sampler.timesteps={steps}"), conditions(batch=200)
        ends = both_ends(made.graph.positives(torch.arange(100)), made.view)
        assert not made.sampler._generate(ends).requires_grad
        with Peak() as peak, torch.no_grad():
            made.sampler._reverse(c)
        peaks.append(peak.peak)
    # T rows of the time embedding differ, and nothing else
    assert peaks[1] - peaks[0] <= 4 * (80 - 20) * 8 * 4 * 2
