"""DHNS's levels and its chain: docs/notes/dhns.md section 5, properties 4, 16, 18 and 21."""

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nsbench.samplers import dhns
from nsbench.samplers.dhns import DHNS, LEVELS, levels
from nsbench.samplers.parts.chain import both_ends
from tests.samplers.dhns_cases import Scripted, conditions, make


@torch.no_grad()
def reverse(made, condition):
    """[2, B, L, S, D]"""
    return made.sampler._reverse(condition)


def test_levels():
    found = levels(LEVELS["paper"], 50)
    assert [x.state for x in found] == [2, 5, 10, 25]
    assert [x.weight for x in found] == pytest.approx([0.235, 0.471, 0.941, 2.353], abs=1e-3)
    assert [x.margin for x in found] == [0.3, 0.5, 0.7, 0.9]
    assert [x.state for x in levels(LEVELS["paper"], 20)] == [1, 2, 4, 10]
    with pytest.warns(UserWarning, match=r"\[0, 0, 1, 3\]"):
        levels(LEVELS["paper"], 7)


@pytest.mark.parametrize("clip", [0.0, 4.0])
def test_one_batched_chain_is_a_chain_per_side_row_and_slot(clip, monkeypatch):
    monkeypatch.setattr(dhns, "CLIP", clip)
    made = make("distmult", "sampler.denoiser=printed")
    sampler, script, c = made.sampler, Scripted(), conditions()
    monkeypatch.setattr(sampler, "_normal", script)
    found = reverse(made, c)
    with torch.no_grad():
        schedule, denoiser = sampler.diffusion.schedule, sampler.diffusion.denoiser
        places = [(side, row, slot) for side in range(2) for row in range(5) for slot in range(3)]
        for number, (side, row, slot) in enumerate(places):
            noise = [z[number] for z in script.given]
            x, states = noise[0], {}
            for t, z in zip(range(20, 1, -1), noise[1:]):
                u = torch.cat([x, denoiser.sinusoids[t - 1], c[side, row, slot]])
                eps = denoiser.norm(denoiser.second(denoiser.first(u).relu()))
                left, before = schedule.kept[t], schedule.kept[t - 1]
                if clip:
                    x0 = ((x - math.sqrt(1 - left) * eps) / math.sqrt(left)).clamp(-clip, clip)
                    eps = (x - math.sqrt(left) * x0) / math.sqrt(1 - left)
                v = 1 - left / before
                x = (x - v / math.sqrt(1 - left) * eps) / math.sqrt(1 - v) + math.sqrt(v) * z
                states[t - 1] = x
            for place, state in enumerate((1, 2, 4, 10)):
                assert torch.allclose(found[side, row, place, slot], states[state], atol=1e-5)


@pytest.mark.parametrize(("kept", "chains", "draws"), [("paper", 1, 1 + 19), ("one_x4", 4, 1 + 18)])
def test_the_order_of_the_noise_is_that_of_the_shipped_runs(kept, chains, draws, monkeypatch):
    """All states of 512 rows before the next 512. Whoever changes that raises `DHNS.version`: old runs do not come back."""
    made = make("distmult", f"sampler.levels={kept}")
    script = Scripted()
    monkeypatch.setattr(made.sampler, "_normal", script)
    reverse(made, conditions(slots=1, batch=600))
    assert DHNS.version == 3
    expected = [(rows, 8) for rows in (512, 512, 176) for _ in range(chains * draws)]  # state 20, and each down to the least
    assert [tuple(z.shape) for z in script.given] == expected


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
        ends = both_ends(made.graph.positives(torch.arange(100)), made.view, "fused")
        assert not made.sampler._generate(*made.sampler.diffusion.observe(ends), ends).requires_grad
        with Peak() as peak:
            reverse(made, c)
        peaks.append(peak.peak)
    # T rows of the time embedding differ, and nothing else
    assert peaks[1] - peaks[0] <= 4 * (80 - 20) * 8 * 4 * 2
