"""specs/dhns.md section 5, properties 4, 16-35, and the ablations of 4.10. 1-3 and 5-13 are in test_diffusion.py, 14 and 15
in test_denoiser.py. 36 and 37 are the evaluation's, 38 the dataset's."""

import dataclasses
import math
import warnings
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.errors import Misuse
from nsbench.registry import MODELS, SAMPLERS
from nsbench.samplers.dhns import DHNS, LEVELS, levels
from nsbench.samplers.parts.chain import Schedule, both_ends
from nsbench.testing.rules import Poor, assert_contract, registered, toy
from nsbench.training.losses import block_loss
from nsbench.training.trainer import Trainer

KGES = ["transe", "distmult", "rotate"]
VARIANTS = ["recommended", *DHNS.variants]


def make(kge="distmult", *settings, fusion="adamf", batch=16, width=8, sampler="dhns", dataset=None):
    values = [f"protocol.batch={batch}", f"protocol.width={width}", "protocol.negatives=4"]
    if sampler == "dhns":
        values += ["sampler.warmup=0", "sampler.timesteps=20"]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=[*values, *settings])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # T = 20 is short for the released levels
        made = Trainer(config, dataset or toy(features=fusion != "none"))
    made.pretrain()
    return made


def drawn(made, count=16):
    """Positives, the view that sample was given, and its blocks."""
    positives = made.graph.positives(torch.arange(0, 3 * count, 3))
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=made.sampler.options.leak)
    return positives, view, made.sampler.sample(positives, view)


PAIRS = [("transe", "none"), ("distmult", "adamf"), ("rotate", "adamf")]


@pytest.mark.parametrize(("kge", "fusion"), PAIRS)
def test_contract(kge, fusion):
    assert_contract("dhns", kge, device="cpu", fusion=fusion, settings=["sampler.timesteps=10"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:dhns:UserWarning")
@pytest.mark.parametrize(("kge", "fusion"), PAIRS)
def test_contract_of_released(kge, fusion):
    settings = ["sampler.variant=released", "sampler.timesteps=10"]
    assert_contract("dhns", kge, device="cpu", fusion=fusion, settings=settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:dhns:UserWarning")
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("recommended", "paper", "released")])
def test_contract_of_other_variants(variant):
    settings = [f"sampler.variant={variant}", "sampler.timesteps=10"]
    assert_contract("dhns", device="cpu", fusion="adamf", settings=settings)


def test_a_model_without_query_is_refused():
    with registered(MODELS, "poor", Poor), pytest.raises(Misuse, match=r"dhns.*query"):
        configure("dhns", "poor", "toy", protocol="quick")


# --- levels ---


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


# --- the chain ---


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
    for _ in range(20):
        made.step()
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


# --- gradients: property 22, one test per row of the table ---


def pulled(made):
    """Which of the model's parts hold a gradient."""
    entity = made.kge.entity.grad
    parts = {"entity": entity, "relation": made.kge.relation.grad, "attention": getattr(made.fusion, "q", None)}
    found = {name: x is not None and (x if name != "attention" else x.grad) is not None for name, x in parts.items()}
    projections = [p.grad for p in made.fusion.project.parameters()] if hasattr(made.fusion, "project") else []
    found["projections"] = any(g is not None and bool(g.abs().sum() > 0) for g in projections)
    theta = [p.grad for p in made.sampler.parameters()]
    return {name for name, has in found.items() if has} | ({"theta"} if any(g is not None for g in theta) else set())


def rows_pulled(made):
    grad = made.kge.entity.grad
    return set() if grad is None else set(grad.abs().sum(1).nonzero().squeeze(1).tolist())


def one_triple(made):
    """A positive with both features on either end, so that nothing is masked."""
    mask = made.fusion.slot_mask(made.graph.triples[:, [0, 2]]).all(2).all(1)
    mask &= made.graph.triples[:, 0] != made.graph.triples[:, 2]
    return made.graph.positives(mask.nonzero()[:1, 0])


def generated(made, positives):
    scoring = Scoring(made.kge, made.fusion, made.graph)
    view = made._view(scoring, live=made.sampler.options.leak)
    blocks = [block for block in made.sampler.sample(positives, view) if block.generated is not None]
    return scoring, blocks


EVERYTHING = {"entity", "relation", "projections", "attention"}


@pytest.mark.parametrize(("fusion", "reached"), [("none", {"entity", "relation"}), ("adamf", EVERYTHING)])
def test_gradient_of_the_base_loss(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring = Scoring(made.kge, made.fusion, made.graph)
    base = made.sampler.sample(positives, made._view(scoring, live=False))[0]
    block_loss(*scoring.block(positives, base), base, 0.0, None).backward()
    assert pulled(made) == reached


@pytest.mark.parametrize("leak", [False, True])
def test_gradient_of_the_noise_loss(leak):
    made = make("distmult", f"sampler.leak={leak}", "sampler.weight=0" if leak else "sampler.weight=0.01")
    positives = one_triple(made)
    before = [p.detach().clone() for p in made.sampler.diffusion.parameters()]
    scoring = Scoring(made.kge, made.fusion, made.graph)
    blocks = made.sampler.sample(positives, made._view(scoring, live=leak))
    assert any((a != b).any() for a, b in zip(before, made.sampler.diffusion.parameters()))  # theta has moved
    zero = torch.zeros(1)
    found = [made.sampler.feedback(block, zero, zero.expand(1, block.shape[1])) for block in blocks]
    if not leak:
        assert found == [None] * len(blocks)
        assert pulled(made) == set()
        return
    (loss,) = [x for x in found if x is not None]
    loss.backward()
    assert pulled(made) == {"entity", "relation", "projections"}
    assert rows_pulled(made) == {positives.h.item(), positives.t.item()}


@pytest.mark.parametrize("variant", ["recommended", "released"])
@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_gradient_of_generated_negatives(fusion, variant):
    joint = "sampler.joint=fuse" if variant == "released" else "sampler.joint=score"
    made = make("distmult", f"sampler.variant={variant}", joint, "sampler.timesteps=25", fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    kept = {"head": {positives.t.item()}, "tail": {positives.h.item()}, "both": set()}
    assert [block.tape.ends for block in blocks] == list(kept)[: len(blocks)]
    for block in blocks:
        _, s_neg = scoring.block(positives, block)
        (s_neg * block.weight).sum().backward(retain_graph=True)
        reached = {"relation"} if block.generated.anchors is not None else {"entity", "relation"}
        if fusion == "adamf":  # the kept end is fused; so, in `released`, is what was generated
            reached |= {"attention"} if block.generated.anchors is not None else {"attention", "projections"}
        assert pulled(made) == reached, block.tape.ends
        assert rows_pulled(made) == kept[block.tape.ends]
        for module in (made.kge, made.fusion):
            module.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("fusion", "reached"), [("none", {"entity", "relation"}), ("adamf", EVERYTHING)])
def test_gradient_of_the_positive_term(fusion, reached):
    made = make(fusion=fusion)
    positives = one_triple(made)
    scoring, blocks = generated(made, positives)
    s_pos, s_neg = scoring.block(positives, blocks[0])
    block_loss(s_pos, s_neg.detach(), blocks[0], 0.0, None).backward()
    assert pulled(made) == reached
    assert rows_pulled(made) == {positives.h.item(), positives.t.item()}


@pytest.mark.parametrize("kge", KGES)
@pytest.mark.parametrize("silent", ["sampler.weight=0", "sampler.warmup=1000", "sampler.variant=wo_diffheg"])
def test_without_generated_negatives_the_model_is_the_bases_bit_for_bit(kge, silent):
    plain, silenced = make(kge, sampler="uniform"), make(kge, silent)
    for made in (plain, silenced):
        for _ in range(3):
            made.step()
    for name, x in plain.model_state().items():
        assert torch.equal(x, silenced.model_state()[name]), name
    loud = make(kge)
    for _ in range(3):
        loud.step()
    assert not torch.equal(loud.kge.entity, plain.kge.entity)


def test_with_the_leak_and_no_negatives_the_projections_still_learn():
    """Property 24. The fusion scores here, so that what the leak adds is compared with its absence."""
    moved = {}
    for leak in (False, True):
        made = make("distmult", "sampler.variant=released", f"sampler.leak={leak}", "sampler.weight=0")
        for _ in range(3):
            made.step()
        moved[leak] = made.model_state()
    plain = make("distmult", sampler="uniform")
    for _ in range(3):
        plain.step()
    assert all(torch.equal(x, moved[False][name]) for name, x in plain.model_state().items())
    assert not torch.equal(moved[True]["fusion.project.0.weight"], plain.model_state()["fusion.project.0.weight"])


def test_leaked_gradient_is_that_of_the_noise_loss_by_finite_differences():
    made = make("rotate", "sampler.variant=released", "sampler.weight=0", "sampler.timesteps=6", fusion="none", width=2)
    sampler, positives = made.sampler, made.graph.positives(torch.tensor([4]))
    state = {name: x.clone() for name, x in sampler.diffusion.state_dict().items()}
    stream = sampler.rng.get_state()

    def loss():
        sampler.diffusion.load_state_dict(state)
        sampler.rng.set_state(stream)
        with torch.no_grad():
            return sampler.diffusion.loss(both_ends(positives, made.view, masked=False), sampler.rng)[0].item()

    value = loss()
    sampler.rng.set_state(stream)
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=True)
    sampler.sample(positives, view)
    leaked = sampler.leaked
    assert leaked.item() == pytest.approx(value, rel=1e-5)
    leaked.backward()
    sampler.leaked = None
    for table, row in ((made.kge.entity, positives.h), (made.kge.entity, positives.t), (made.kge.relation, positives.r)):
        for column in range(table.shape[1]):
            found = table.grad[row.item(), column].item()
            step = 1e-2 * table.abs().max().item()
            with torch.no_grad():
                table[row, column] += step
                up = loss()
                table[row, column] -= 2 * step
                down = loss()
                table[row, column] += step
            assert found == pytest.approx((up - down) / (2 * step), rel=0.05, abs=0.01)


# --- losses and weights ---


def test_temperature_does_not_reach_generated_negatives():
    made = make()
    positives = made.graph.positives(torch.arange(5))
    scoring, blocks = generated(made, positives)
    for block in blocks:
        scores = scoring.block(positives, block)
        cold, hot = (block_loss(*scores, block, temperature, None).item() for temperature in (0.0, 3.0))
        assert cold == hot


def test_released_factors():
    """Property 27: with constant scores, 0.75 mu on the generated part and (1 + 0.75 mu) / 2 on positives."""
    made = make("transe", "sampler.variant=released", "sampler.timesteps=50", "sampler.weight=0.2")
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


def test_paper_loss_by_hand():
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


@pytest.mark.parametrize(("kge", "gamma0", "gamma"), [("transe", 9.0, 3.0), ("rotate", 9.0, 3.0), ("distmult", 4.0, 4.0)])
def test_margins_are_the_models_or_gamma0(kge, gamma0, gamma):
    made = make(kge, f"sampler.gamma0={gamma0}", "protocol.margin=3")
    _, _, blocks = drawn(made)
    expected = torch.tensor([-0.7, -0.5, -0.3, -0.1]) * gamma
    for block in blocks[1:]:
        assert torch.allclose(block.margin_shift, expected.expand(16, 4))
    if kge != "distmult":  # the negative's logit is m_l gamma - distance
        positives = made.graph.positives(torch.arange(0, 48, 3))
        scores = made.scoring().block(positives, blocks[2])[1]
        assert torch.allclose(scores + blocks[2].margin_shift, (scores - gamma) + torch.tensor([0.3, 0.5, 0.7, 0.9]) * gamma)


def test_released_distmult_has_no_margins_in_effect():
    made = make("distmult", "sampler.variant=released")
    _, _, blocks = drawn(made)
    assert all((block.margin_shift == 0).all() for block in blocks[1:])


def in_order(block, order):
    """The same block with its slots in another order."""
    made = block.generated
    turned = Generated(made.vectors[:, :, order], made.slot_mask[:, order], joint=made.joint)
    return dataclasses.replace(block, generated=turned)


def test_joint_mean_does_not_depend_on_the_order_of_slots_and_is_the_score_for_one():
    made = make()
    positives, _, blocks = drawn(made)
    scoring, block = made.scoring(), blocks[2]
    assert block.generated.joint == "score"
    order = torch.tensor([2, 0, 1])
    turned = in_order(block, order)
    expected = scoring.block(positives, block)[1]
    assert torch.allclose(scoring.block(positives, turned)[1], expected, atol=1e-5)
    kept = scoring.vectors(positives.h) * made.kge.relation[positives.r]  # DistMult's query of the fused head
    by_hand = torch.einsum("bd,blsd->bls", kept, block.generated.vectors) * block.generated.slot_mask.unsqueeze(1)
    assert torch.allclose(expected, by_hand.sum(2) / block.generated.slot_mask.sum(1, keepdim=True), atol=1e-5)
    alone = make(fusion="none")
    positives, _, blocks = drawn(alone)
    assert blocks[2].generated.vectors.shape == (16, 4, 1, 8)
    structural = Negatives(blocks[2].side, generated=Generated(blocks[2].generated.vectors.squeeze(2)))
    scoring = alone.scoring()
    assert torch.allclose(scoring.block(positives, blocks[2])[1], scoring.block(positives, structural)[1])


def test_fused_joint_does_not_depend_on_the_order_of_slots():
    made = make("distmult", "sampler.variant=released")
    positives, _, blocks = drawn(made)
    block, order = blocks[2], torch.tensor([2, 0, 1])
    assert block.generated.joint == "fuse"
    turned = in_order(block, order)
    scoring = made.scoring()
    assert torch.allclose(scoring.block(positives, block)[1], scoring.block(positives, turned)[1], atol=1e-5)


@pytest.mark.parametrize("chain", ["reverse", "forward", "gauss"])
def test_invalid_slots_do_not_matter(chain, monkeypatch):
    """Property 31: what a missing slot holds, nan included, changes no loss and no gradient."""
    totals = []
    for filling in (0.0, torch.nan):
        made = make("distmult", f"sampler.chain={chain}")
        slots = made.fusion.slots

        def filled(entity, ids, made=made, slots=slots, filling=filling):
            return torch.where(made.fusion.slot_mask(ids).unsqueeze(-1), slots(entity, ids), filling)

        monkeypatch.setattr(made.fusion, "slots", filled)
        for _ in range(3):
            made.step()
        assert all(x.isfinite().all() for x in made.model_state().values() if x.is_floating_point())
        totals.append(made)
    assert totals[0].loss_sum.item() == totals[1].loss_sum.item()
    assert torch.equal(totals[0].kge.entity, totals[1].kge.entity)


def test_both_ends_count_the_slots_that_both_have():
    made = make("distmult", "sampler.variant=released", "sampler.missing=mask")
    positives, _, blocks = drawn(made, 43)
    mask = {ids: made.fusion.slot_mask(getattr(positives, ids)) for ids in "ht"}
    assert torch.equal(blocks[1].generated.slot_mask, mask["t"])  # a head is generated from the tail's slots
    assert torch.equal(blocks[2].generated.slot_mask, mask["h"])
    assert torch.equal(blocks[3].generated.slot_mask, mask["h"] & mask["t"])
    assert (blocks[3].generated.slot_mask != mask["h"]).any()
    assert blocks[3].generated.anchors.data_ptr() == blocks[1].generated.vectors.data_ptr()
    assert blocks[3].generated.vectors.data_ptr() == blocks[2].generated.vectors.data_ptr()


def test_without_any_feature_the_result_is_that_of_structure_alone():
    data = toy(features=True)
    bare = dataclasses.replace(data, present={name: torch.zeros_like(x) for name, x in data.present.items()})
    made = make("distmult", dataset=bare)
    positives, _, blocks = drawn(made)
    assert blocks[2].generated.slot_mask.sum(1).eq(1).all()
    structural = Negatives(blocks[2].side, generated=Generated(blocks[2].generated.vectors[:, :, 0]))
    scoring = made.scoring()
    assert torch.allclose(scoring.block(positives, blocks[2])[1], scoring.block(positives, structural)[1], atol=1e-6)


# --- ablations and controls ---


def test_a_number_of_logits_for_each_ablation():
    counts = {}
    for variant in VARIANTS:
        made = make("transe", f"sampler.variant={variant}", "sampler.timesteps=40", "sampler.warmup=0")
        _, _, blocks = drawn(made)
        counts[variant] = [block.shape[1] for block in blocks[1:]]
    assert counts == {
        "recommended": [4, 4],
        "paper": [4, 4],
        "tamed": [4, 4],
        "released": [4, 4, 4],
        "wo_leak": [4, 4, 4],
        "wo_diffheg": [],
        "wo_mmc": [4, 4],
        "wo_mhld": [1, 1],
        "mhld_same_count": [4, 4],
        "wo_hal": [4, 4],
        "wo_ntat": [12, 12],
        "forward": [4, 4],
        "gauss": [4, 4],
    }


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
    for _ in range(10):
        made.step()
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


# --- on top of other samplers; what is told of a run ---


@pytest.mark.parametrize("base", ["bernoulli", "nscaching", "kbgan", "igan", "sans", "pseudo_typed"])
def test_any_base_draws_what_it_draws_alone(base):
    defaults = SAMPLERS.get(base).Options()  # protocol quick has sizes of its own, a base has its defaults
    own = [f"sampler.{name}={value}" for name, value in vars(defaults).items()]
    alone = make("transe", *own, sampler=base, fusion="none")
    under = make("transe", f"sampler.base={base}", "sampler.warmup=1000", fusion="none")
    assert under.sampler.filtered == alone.sampler.filtered
    for _ in range(4):
        alone.step()
        under.step()
    assert torch.equal(alone.kge.entity, under.kge.entity)
    own = {name: x for name, x in under.sampler.base.state_dict().items() if isinstance(x, torch.Tensor)}
    assert all(torch.equal(x, own[name]) for name, x in alone.sampler.state_dict().items() if isinstance(x, torch.Tensor))
    make("transe", f"sampler.base={base}", fusion="none").step()


@pytest.mark.parametrize("base", ["dhns", "ns_kge", "mmrns"])
def test_other_bases_are_refused(base):
    with pytest.raises(Misuse, match="on top of"):
        make("distmult", f"sampler.base={base}")


def test_a_base_that_takes_turns_is_refused_with_the_leak():
    """In the model's turns nobody asks for feedback, which is where the leak reaches it."""
    with pytest.raises(Misuse, match=r"sampler\.leak=false"):
        make("distmult", "sampler.variant=released", "sampler.base=igan")
    make("distmult", "sampler.variant=wo_leak", "sampler.base=igan").step()


def test_a_chain_shorter_than_the_quarters_of_its_loss_is_refused():
    with pytest.raises(Misuse, match=r"timesteps must be at least 4"):
        make("transe", "sampler.timesteps=3")


def test_no_buffer_hangs_on_the_models_graph():
    made = make("distmult", "sampler.variant=released")
    for _ in range(3):
        made.step()
    assert made.sampler.statistics.to_true_steps[0].eq(3).all()
    assert not any(x.requires_grad for x in made.sampler.buffers())


def test_a_base_that_chooses_the_side_is_refused_where_it_is_fixed():
    with pytest.raises(Misuse, match="chooses the side"):
        make("transe", "sampler.base=bernoulli", "protocol.sides=alternate")


def test_description():
    made = make("transe", "sampler.timesteps=40")
    for _ in range(4):
        made.step()
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


def test_levels_table_names_what_the_options_offer():
    assert set(LEVELS) == {"paper", "released", "one", "one_x4"}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["recommended", "released"])
@pytest.mark.parametrize("fusion", ["none", "adamf"])
def test_a_run_to_the_end_on_planted(fusion, variant):
    from nsbench.campaign.plan import dataset_of

    config = configure(
        "dhns",
        "transe",
        "planted:small",
        protocol="quick",
        fusion=fusion,
        settings=[f"sampler.variant={variant}", "protocol.steps=60", "sampler.warmup=0"],
    )
    made = Trainer(config, dataset_of(config))
    assert made.sampler.slots == (3 if fusion == "adamf" else 1)
    made.pretrain()
    for _ in range(60):
        made.step()
    assert math.isfinite(made.loss_sum.item())
