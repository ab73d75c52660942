"""The battery can fail: one sampler breaks each rule, and is caught by exactly that rule."""

import dataclasses

import fakes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nsbench.contracts import Generated, Need, Negatives, Objective
from nsbench.testing import rules
from nsbench.testing.rules import OBJECTIVE_RULES, SAMPLER_RULES, check_sampler


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """A shorter long run: enough to learn in, and for step 30 of who breaks down there."""
    monkeypatch.setattr(rules, "STEPS", 40)


def like(base, **members):
    """A class that differs from `base` in these members."""
    return type("Broken", (base,), members)


def spoilt(change, base=fakes.Stateless, **members):
    """A sampler like `base`; `change(block, positives, view)` tells the fields that differ in the block it returns."""

    def sample(self, positives, view):
        block = base.sample(self, positives, view)
        return dataclasses.replace(block, **change(block, positives, view))

    return like(base, sample=sample, **members)


def on_side(choose, **members):
    """A sampler that chooses the side itself: `choose(positives, view)`."""

    def sample(self, positives, view):
        side = choose(positives, view)
        key = positives.key(side)
        return Negatives(side, ids=view.graph.draw(key, self.k, view.rng), valid=view.graph.drawable(key, self.k))

    return like(fakes.Stateless, sample=sample, **members)


def with_one(x, value):
    """`x` with this value in the first place."""
    x = x.clone()
    x[0, 0] = value
    return x


def valid_unless(block, unwanted):
    valid = torch.ones_like(block.ids, dtype=torch.bool) if block.valid is None else block.valid
    return {"valid": valid & ~unwanted}


def infinite_once(b, p, v):
    vectors = v.vectors(b.ids)
    return {"ids": None, "generated": Generated(vectors * torch.inf if v.step == 30 else vectors)}


def coins(view, *shape):
    return torch.rand(shape, generator=view.rng, device=view.device) < 0.5


def floats(block, value):
    return torch.full(block.ids.shape, value)


class LeaksThroughFeedback(fakes.Reinforce):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.tape = view.scoring.kge.entity
        return block

    def feedback(self, negatives, s_pos, s_neg):
        return super().feedback(negatives, s_pos, s_neg) + 1e-3 * negatives.tape.sum()


class CountsWithGraph(fakes.Reinforce):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.register_buffer("total", torch.zeros(()))

    def sample(self, positives, view):
        block = super().sample(positives, view)
        self.total += block.log_q.mean()
        return block


class Unseeded(fakes.Stateless):
    made = 0

    def __init__(self, setting, options):
        super().__init__(setting, options)
        Unseeded.made += 1
        self.register_buffer("lag", torch.tensor(Unseeded.made))

    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.margin_shift = torch.zeros_like(block.ids, dtype=torch.float) + 1e-4 * self.lag
        return block


def _unfiltered(b, p, v):
    return {"valid": None, "ids": torch.randint(v.graph.num_entities, b.ids.shape, generator=v.rng)}


OWN_SIDE = {"requires": frozenset({Need.SIDE})}

BROKEN = {  # name -> the rule, and who breaks it
    "version zero": ("declared", like(fakes.Stateless, version=0)),
    "unknown need": ("declared", like(fakes.Stateless, requires=frozenset({"telepathy"}))),
    "bad variant": ("declared", like(fakes.Stateless, variants={"paper": {"nothing": 1}})),
    "raises": ("runs", spoilt(lambda b, p, v: {}["oops"])),
    "returns nothing": ("shapes", like(fakes.Stateless, sample=lambda self, positives, view: [])),
    "narrow ids": ("shapes", spoilt(lambda b, p, v: {"ids": b.ids.int()})),
    "learnt weight": ("shapes", spoilt(lambda b, p, v: {"weight": floats(b, 1.0).requires_grad_(), "reduce": "weighted"})),
    "fewer negatives": ("shapes", spoilt(lambda b, p, v: {"ids": b.ids[:, :-1]})),
    "out of range": ("range", spoilt(lambda b, p, v: {"ids": with_one(b.ids, v.graph.num_entities)})),
    "elsewhere": ("device", spoilt(lambda b, p, v: {"ids": b.ids.to("meta")})),
    "feedback per row": (
        "feedback",
        like(fakes.Reinforce, feedback=lambda self, block, s_pos, s_neg: -(s_neg * block.log_q).mean(1)),
    ),
    "feedback of nothing": ("feedback", like(fakes.Stateless, feedback=lambda self, block, s_pos, s_neg: s_neg.mean())),
    "negative weight": (
        "constants",
        spoilt(lambda b, p, v: {"weight": with_one(floats(b, 1.0), -0.01), "reduce": "weighted"}),
    ),
    "delta of value": ("constants", spoilt(lambda b, p, v: {"delta": torch.full_like(v.vectors(b.ids), 1e-3)})),
    "probability above one": ("constants", spoilt(lambda b, p, v: {"log_q": b.log_q + 5.0}, fakes.Reinforce)),
    "tails only": ("sides", on_side(lambda p, v: torch.zeros(len(p), dtype=torch.bool, device=v.device), **OWN_SIDE)),
    "mixes sides": ("sides", on_side(lambda p, v: coins(v, len(p), v.negatives), **OWN_SIDE)),
    "unfiltered": ("positives", spoilt(_unfiltered)),
    "global torch": ("generator", spoilt(lambda b, p, v: {"tape": torch.rand(())})),
    "global numpy": ("generator", like(fakes.Stateless, start_epoch=lambda self, epoch: np.random.rand())),
    "writes the model": ("model", spoilt(lambda b, p, v: {"tape": v.scoring.kge.entity.detach().mul_(0.999)})),
    # the detached tables share their memory with the model
    "writes the tables": ("model", spoilt(lambda b, p, v: {"tape": v.scoring.entity.mul_(0.999)})),
    "backward in sample": ("gradient", spoilt(lambda b, p, v: {"tape": (1e-3 * v.scoring.kge.entity.sum()).backward()})),
    "leaks through feedback": ("gradient", LeaksThroughFeedback),
    "leaks through vectors": (
        "gradient",
        spoilt(lambda b, p, v: {"ids": None, "generated": Generated(F.embedding(b.ids, v.scoring.kge.entity))}),
    ),
    "counts with a graph": ("buffers", CountsWithGraph),
    "infinite vectors": ("finite", spoilt(infinite_once)),
    "never the first": ("ends", spoilt(lambda b, p, v: valid_unless(b, b.ids == 0))),
    "never the last": ("ends", spoilt(lambda b, p, v: valid_unless(b, b.ids == v.graph.num_entities - 1))),
    "learns backwards": ("learning", spoilt(lambda b, p, v: {"coef": -1.0})),
    "ignores the side": (
        "fixed side",
        on_side(lambda p, v: coins(v, len(p), v.negatives) if v.sides == "per_slot" else coins(v, len(p))),
    ),
    # only ever seen with one side per row
    "rows only": ("per slot", on_side(lambda p, v: v.draw_side(p).view(len(p)))),
    "unseeded": ("seeded", Unseeded),
    "forgets": (
        "resume",
        like(fakes.Memory, get_extra_state=lambda self: {"counts": {"pretrained": 0, "sampled": 0}, "epochs": []}),
    ),
    # torch.load(weights_only=True) refuses a number of numpy
    "pickles": ("resume", like(fakes.Memory, get_extra_state=lambda self: {"counts": np.float64(3.0), "epochs": []})),
    "room for distinct rows": (
        "batches",
        spoilt(lambda b, p, v: {"tape": torch.zeros(len(v.graph), dtype=torch.int64)[: len(p)].copy_(p.rows)}),
    ),
    "squeezes": ("batches", spoilt(lambda b, p, v: {"side": b.side.squeeze()})),
    "squeezes negatives": ("batches", spoilt(lambda b, p, v: {"margin_shift": floats(b, 0.0).squeeze(1)})),
    "trusts every draw": ("saturated", spoilt(lambda b, p, v: {"valid": None})),
    "reads": ("host sync", spoilt(lambda b, p, v: {"coef": float(b.side.any())})),
    "selects by mask": ("host sync", spoilt(lambda b, p, v: {"tape": b.ids[b.side]})),
    "copies numbers": (
        "host sync",
        spoilt(lambda b, p, v: {"margin_shift": torch.tensor([0.0], device=v.device).expand(b.ids.shape)}),
    ),
}


def broken_rules(component):
    return [f.rule for f in check_sampler(component, device="cpu") if f.passed is False]


@pytest.mark.parametrize("name", BROKEN)
def test_caught_by_exactly_its_rule(name):
    rule, component = BROKEN[name]
    assert broken_rules(component) == [rule]


def test_every_rule_has_a_sampler_that_breaks_it():
    on_a_gpu = {"captured"}  # tests/training/test_capture.py
    assert set(SAMPLER_RULES) - on_a_gpu == {rule for rule, _ in BROKEN.values()}


def test_filtering_is_not_asked_of_who_declares_to_do_without():
    assert broken_rules(spoilt(_unfiltered, filtered=False)) == []


def with_loss(change):
    """An objective whose loss is changed: `change(loss, view)`."""

    def loss(self, positives, scoring, view):
        return change(fakes.OneVsAll.loss(self, positives, scoring, view), view)

    return like(fakes.OneVsAll, loss=loss)


def overwriting(loss, view):
    view.scoring.kge.relation.data.mul_(0.999)
    return loss


class LooksAtEvaluations(fakes.OneVsAll):
    """Changes its loss whenever someone ranked."""

    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.register_buffer("calls", torch.zeros(()))
        self.setting = setting

    def loss(self, positives, scoring, view):
        if not hasattr(scoring.kge, "counted"):
            original, kge = scoring.kge.query, scoring.kge

            def query(*args):
                self.calls += not torch.is_grad_enabled()
                return original(*args)

            kge.query, kge.counted = query, True
        return super().loss(positives, scoring, view) * (1 + 0.01 * self.calls)


BROKEN_OBJECTIVES = {
    "not a number": ("loss", with_loss(lambda loss, view: loss * torch.nan)),
    "per row": ("loss", with_loss(lambda loss, view: loss.expand(3))),
    "detached": ("reach", like(Objective, loss=lambda self, positives, scoring, view: scoring.relation.sum())),
    "gambles": ("generator", with_loss(lambda loss, view: loss * (1 + 0 * torch.rand(())))),
    "overwrites": ("model", with_loss(overwriting)),
    "ascends": ("learning", with_loss(lambda loss, view: -loss)),
    "looks at evaluations": ("evaluation", LooksAtEvaluations),
}


@pytest.mark.parametrize("name", BROKEN_OBJECTIVES)
def test_broken_objective_is_caught_by_exactly_its_rule(name):
    rule, component = BROKEN_OBJECTIVES[name]
    assert broken_rules(component) == [rule]


def test_rules_for_objectives_are_the_ones_listed():
    rules = [f.rule for f in check_sampler(fakes.OneVsAll, device="cpu")]
    assert rules == list(OBJECTIVE_RULES)
