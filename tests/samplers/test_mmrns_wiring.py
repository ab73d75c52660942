"""MMRNS from `sample`, `feedback` and the trainer's steps inward: that each part gets what docs/notes/mmrns.md says it gets.

Expectations are the paper's formulas, written out here for structure alone, row by row.
"""

import dataclasses
import math
import zlib

import pytest
import scipy
import torch

from nsbench.contracts.scoring import Scoring
from nsbench.kernels.race import Draws, SoftRows, race
from nsbench.samplers import mmrns
from nsbench.samplers.mmrns import MMRNS
from nsbench.samplers.parts import attention
from nsbench.samplers.parts import mmrns_released as released
from nsbench.testing.rules import toy
from tests.samplers.mmrns_cases import trainer_on

SHARP = ("sampler.candidates=40", "sampler.exploration=1e-3")


def make(*settings, features=False, saturated=False, negatives=3):
    sizes = (f"negatives={negatives}", "width=6", "batch=16")
    made = trainer_on(toy(features=features, saturated=saturated), "sampler.candidates=8", *settings, protocol=sizes)
    with torch.no_grad():
        made.kge.entity.mul_(3)
        made.kge.relation.mul_(3)
    return made


def sampled(made, rows):
    positives = made.graph.positives(torch.tensor(list(rows)))
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=made.live)
    return positives, made.sampler.sample(positives, view)


def shuffled():
    """The entities in the order that a test has `sample` draw them in."""
    return torch.randperm(40, generator=torch.Generator().manual_seed(0))


def queries(made, positives, side):
    """Of each row: relation, replaced entity, and every entity that answers its query in train."""
    facts = set(map(tuple, made.graph.triples.tolist()))
    for (h, r, t), head in zip(positives.hrt.tolist(), side.tolist()):
        yield r, (h if head else t), {e for e in range(40) if ((e, r, t) if head else (h, r, e)) in facts}


def structure(made, r, entity):
    """Eq. 7: z of entities [n] seen through relation r, [n, D]; the released code has a second layer."""
    layers, e = made.sampler.structure, made.kge.entity.detach()[entity]
    rho = made.kge.relation.detach()[r].expand(len(entity), -1)
    x = torch.cat([rho, e], dim=1) @ layers.first.weight.T + layers.first.bias
    if made.sampler.options.code == "released":
        x = torch.where(x > 0, x, 0.1 * x) @ layers.second.weight.T + layers.second.bias
    return e * x.sigmoid()


def cosines(made, r, anchor, entity):
    """Eq. 8: [n] of one entity to entities [n], both through relation r."""
    return torch.cosine_similarity(structure(made, r, torch.tensor([anchor])), structure(made, r, entity))


def test_the_nearest_to_the_replaced_entity_are_drawn():
    """All entities are candidates and exploration is small: the K draws are the most similar of those that are no answer."""
    made = make(*SHARP)
    positives, block = sampled(made, range(0, 129, 2))
    assert 10 < block.side.sum() < 55
    for i, (r, replaced, known) in enumerate(queries(made, positives, block.side)):
        near = cosines(made, r, replaced, torch.arange(40)).detach()
        best = near[sorted(set(range(40)) - known)].topk(3).values
        assert known.isdisjoint(block.ids[i].tolist())
        torch.testing.assert_close(near[block.ids[i]].sort(descending=True).values, best, atol=0.02, rtol=0)


class Fixed(Draws):
    """Row b draws columns b, b + 1, ... whatever the noise [K, B, N]; nothing that is drawn leaves."""

    def __init__(self, log_p, noise):
        k, rows, n = noise.shape
        index = (torch.arange(rows).unsqueeze(1) + torch.arange(k)) % n
        y = (log_p + noise).softmax(2).transpose(0, 1)
        super().__init__(index, torch.ones(rows, k, dtype=torch.bool), lambda first, pull: self.pull(y[first:], pull))

    @staticmethod
    def pull(y, pull):
        y = y[: len(pull)]
        return torch.einsum("bkn,bkn->bn", y, pull) - torch.einsum("bkn,bkm,bkm->bn", y, y, pull)


@pytest.mark.parametrize("factor", [1, -1])
def test_the_models_loss_reaches_the_sampler_as_if_negatives_were_mixtures_of_the_candidates(factor, monkeypatch):
    """Eq. 13 with fixed noise: a negative is sum_c y_c e_c; `feedback` scales the gradient."""
    made, chosen = make("sampler.candidates=12", f"sampler.feedback={factor}"), shuffled()
    noise = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(mmrns, "race", lambda log_p, known, k, rng: Fixed(log_p, noise))
    monkeypatch.setattr(torch, "randperm", lambda n, **_: chosen)
    positives, block = sampled(made, range(0, 128, 8))
    candidates = chosen[:12]
    expected_ids = [[candidates[(i + j) % 12].item() for j in range(3)] for i in range(16)]
    assert block.ids.tolist() == expected_ids
    assert not block.delta.any()
    pull = torch.randn(block.delta.shape, generator=torch.Generator().manual_seed(2))
    weight, bias = made.sampler.structure.first.weight, made.sampler.structure.first.bias
    found = torch.autograd.grad((block.delta * pull).sum(), [weight, bias])

    near = torch.stack([cosines(made, r, x, candidates) for r, x, _ in queries(made, positives, block.side)])
    y = (near.log_softmax(1) + noise).softmax(2)  # [K, B, N]; eps is 1 in the first step
    mixed = (y @ made.kge.entity.detach()[candidates]).transpose(0, 1)
    expected = torch.autograd.grad(factor * (mixed * pull).sum(), [weight, bias])
    assert expected[0].abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_the_soft_rows_have_temperature_1():
    """Of two candidates with probabilities p and 1 - p, P(y <= u) is sigmoid(logit(u) - logit(p)) under Gumbel noise.

    The gradient is y (1 - y), at most t where y is outside of the two roots of y (1 - y) = t.
    """
    log_p = torch.tensor([0.7, 0.3]).log().expand(20_000, -1).requires_grad_()
    known = torch.zeros(20_000, 2, dtype=torch.bool)
    draws = race(log_p.detach(), known, 1, torch.Generator().manual_seed(0))
    pull = torch.ones(20_000, 1, 1)
    (slope,) = torch.autograd.grad(SoftRows.apply(log_p, draws, torch.tensor([[1.0], [0.0]]), 1), log_p, pull)

    def below(t):
        low = (1 - (1 - 4 * t).clamp(min=0).sqrt()) / 2
        first, second = ((u.logit() - math.log(7 / 3)).sigmoid() for u in (low, 1 - low))
        return first + 1 - second

    assert scipy.stats.kstest(below(slope[:, 0].double()).numpy(), "uniform").pvalue > 1e-4


def test_candidates_are_drawn_afresh_and_are_a_tenth_of_all():
    made = make("sampler.candidates=0", "sampler.exploration=1e6", negatives=2)  # a tenth of 40 entities: 4, which is 2 K
    seen = []
    for _ in range(120):
        _, block = sampled(made, range(90, 106))
        seen.append(set(block.ids[block.valid].tolist()))
        assert len(seen[-1]) <= 4
    assert len(set().union(*seen)) > 35


@pytest.mark.parametrize("rate", [1e-4, 3e-3])
def test_adam_moves_the_sampler_at_its_own_rate(rate):
    """The first step of Adam moves a parameter by its learning rate, whatever the gradient."""
    made = make() if rate == 1e-4 else make(f"sampler.learning_rate={rate}")
    before = [p.detach().clone() for p in made.sampler.parameters()]
    made.step()
    moved = max((p - old).abs().max().item() for p, old in zip(made.sampler.parameters(), before))
    assert moved == pytest.approx(rate, rel=0.02)


def contrast(made, positives, block, scores, candidates):
    """Eqs. 9-11 by loops; who is no candidate is no negative, and the released code asks that of answers too."""
    as_released, sums = made.sampler.options.code == "released", []
    for i, (r, replaced, known) in enumerate(queries(made, positives, block.side)):
        near = cosines(made, r, replaced, torch.arange(40)).exp()
        drawn = {e: s for e, s, there in zip(*(x[i].tolist() for x in (block.ids, scores, block.valid))) if there}
        total = sum(math.exp(0.5 * s) for s in drawn.values())
        unit = 1 / len(candidates) if as_released else 1 / 40
        weight = dict.fromkeys(candidates, unit)
        weight |= {e: math.exp(0.5 * s) / total * (unit if as_released else 1) for e, s in drawn.items()}
        answers = known & set(candidates) if as_released else known
        sums.append((sum(unit * near[e].item() for e in answers),
                     sum(weight[e] * near[e].item() for e in set(candidates) - known)))  # fmt: skip
    if as_released:
        return -math.log(sum(a for a, _ in sums) / sum(b for _, b in sums))
    return sum(-math.log(a / b) if a and b else 0 for a, b in sums) / len(sums)


@pytest.mark.parametrize("code", ["paper", "released"])
def test_the_contrast_is_equation_10_over_what_could_be_drawn(code, monkeypatch):
    """(3, 0, ?) has no negative at all here, and 20 candidates leave some rows of the hub fewer than K = 12."""
    made = make("sampler.candidates=20", f"sampler.code={code}", saturated=True, negatives=12)
    chosen = shuffled()
    monkeypatch.setattr(torch, "randperm", lambda n, **_: chosen)
    monkeypatch.setattr(mmrns, "MOST_ANSWERS", 40)
    positives, block = sampled(made, range(len(made.graph)))
    share = block.valid.double().mean(1)
    assert (share == 0).any()
    assert ((share > 0) & (share < 1)).any()
    scores = 2 * torch.randn(block.ids.shape, generator=torch.Generator().manual_seed(3))
    found = made.sampler.feedback(block, torch.zeros(len(positives)), scores).item()
    expected = made.sampler.options.beta * contrast(made, positives, block, scores, chosen[:20].tolist())
    assert found == pytest.approx(expected, rel=1e-4)
    elsewhere = torch.where(block.valid, scores, 30.0)
    assert made.sampler.feedback(block, torch.zeros(len(positives)), elsewhere).item() == pytest.approx(found, rel=1e-5)


def test_a_row_has_at_most_16_answers():
    """Its hub answers 29 entities of the toy."""
    made = make(saturated=True)
    row = sampled(made, range(len(made.graph)))[1].tape.others.row
    assert row.bincount().max() == 15  # beside the true one


def test_sizes_are_those_of_the_paper_and_of_the_code():
    """docs/notes/mmrns.md 3 and 6.1; `recommended` has the paper's, and differs in `detach_kge`, as the module says."""
    sizes = {"candidates": 0, "exploration": 1.0, "beta": 0.005, "learning_rate": 1e-4}
    assert MMRNS.variants["paper"] == {"detach_kge": False, **sizes}
    assert vars(MMRNS.Options()) == {
        **sizes, "detach_kge": True, "feedback": 1, "attention": True, "relation": True,
        "components": "all", "code": "paper",
    }  # fmt: skip
    assert MMRNS.variants["released"] == {
        "code": "released", "detach_kge": False,
        "candidates": 1500, "exploration": 10.0, "beta": 0.01, "learning_rate": 1e-3,
    }  # fmt: skip
    assert (mmrns.ALPHA, mmrns.WIDTH, released.HIDDEN, attention.SLOPE, attention.POOLED_TOKENS) == (0.5, 50, 100, 0.1, 4)


OTHER = {  # another value of each option
    "candidates": 9, "exploration": 3.0, "beta": 0.1, "learning_rate": 1e-3, "feedback": -1, "detach_kge": False,
    "attention": False, "relation": False, "components": "structure", "code": "released",
}  # fmt: skip


def outcome(*settings):
    """Draws and contrastive loss after three steps, from parameters that depend on their names and shapes alone."""
    made = make("sampler.learning_rate=1e-4", *settings, features=True)
    with torch.no_grad():
        for name, p in made.sampler.named_parameters():
            p.normal_(generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    for _ in range(3):
        made.step()
    block = sampled(made, range(16))[1]
    return block.ids.tolist(), made.sampler.feedback(block, torch.zeros(16), torch.zeros(16, 3)).item()


@pytest.fixture(scope="module")
def by_default():
    return outcome()


def test_the_same_options_give_the_same(by_default):
    assert outcome() == by_default


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MMRNS.Options)])
def test_every_option_changes_draws_and_loss(name, by_default):
    assert outcome(f"sampler.{name}={OTHER[name]}")[1] != by_default[1]


def test_the_visual_modality_goes_by_several_names():
    assert released.bare(["official:textual", "official:visual"]) == "official:visual"
    assert released.bare(["image", "text"]) == "image"
    assert released.bare(["names128"]) is None
