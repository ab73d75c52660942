"""The battery can fail: one sampler breaks each rule, and is caught by exactly that rule."""

import fakes
import numpy as np
import pytest
import torch
from torch import nn

from nsbench.contracts import Generated, Need, Negatives, Objective
from nsbench.testing.rules import OBJECTIVE_RULES, SAMPLER_RULES, check_sampler


class WithVersionZero(fakes.Stateless):
    version = 0


class WithUnknownNeed(fakes.Stateless):
    requires = frozenset({"telepathy"})


class WithBadVariant(fakes.Stateless):
    variants = {"paper": {"nothing": 1}}


class Raises(fakes.Stateless):
    def sample(self, positives, view):
        raise KeyError("oops")


class ReturnsNothing(fakes.Stateless):
    def sample(self, positives, view):
        return []


class WithNarrowIds(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.ids = block.ids.int()
        return block


class WithLearntWeight(fakes.Stateless):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.scale = nn.Parameter(torch.ones(()))

    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.weight, block.reduce = self.scale.expand(block.ids.shape), "weighted"
        return block


class WithFewerNegatives(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.ids = block.ids[:, :-1]
        return block


class OutOfRange(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.ids[0, 0] = view.graph.num_entities
        return block


class Elsewhere(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.ids = block.ids.to("meta")
        return block


class WithFeedbackPerRow(fakes.Reinforce):
    def feedback(self, negatives, s_pos, s_neg):
        return -(s_neg * negatives.log_q).mean(1)


class WithFeedbackOfNothing(fakes.Stateless):
    def feedback(self, negatives, s_pos, s_neg):
        return s_neg.mean()


class WithNegativeWeight(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.weight, block.reduce = torch.ones_like(block.ids, dtype=torch.float), "weighted"
        block.weight[:, 0] = -0.01
        return block


class WithDeltaOfValue(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.delta = torch.full((*block.ids.shape, view.vectors(positives.h).shape[1]), 1e-3)
        return block


class WithProbabilityAboveOne(fakes.Reinforce):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.log_q = block.log_q + 5.0
        return block


class TailsOnly(fakes.Stateless):
    requires = frozenset({Need.SIDE})

    def sample(self, positives, view):
        side = torch.zeros(len(positives), dtype=torch.bool, device=view.device)
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        return Negatives(side, ids=ids, valid=view.graph.drawable(key, self.k))


class MixesSides(fakes.Stateless):
    requires = frozenset({Need.SIDE})

    def sample(self, positives, view):
        coin = torch.rand(len(positives), self.k, generator=view.rng, device=view.device)
        side = coin < 0.5
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        return Negatives(side, ids=ids, valid=view.graph.drawable(key, self.k))


class Unfiltered(fakes.Stateless):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        shape = (len(positives), self.k)
        return Negatives(side, ids=torch.randint(view.graph.num_entities, shape, generator=view.rng, device=view.device))


class GlobalTorch(fakes.Stateless):
    def sample(self, positives, view):
        torch.rand(())
        return super().sample(positives, view)


class GlobalNumpy(fakes.Stateless):
    def start_epoch(self, epoch):
        np.random.rand()


class WritesTheModel(fakes.Stateless):
    def sample(self, positives, view):
        with torch.no_grad():
            view.scoring.kge.entity.mul_(0.999)
        return super().sample(positives, view)


class WritesTheTables(fakes.Stateless):
    """The detached tables share their memory with the model."""

    def sample(self, positives, view):
        view.scoring.entity.mul_(0.999)
        return super().sample(positives, view)


class BackwardInSample(fakes.Stateless):
    def sample(self, positives, view):
        view.scoring.kge.entity.sum().mul(1e-3).backward()
        return super().sample(positives, view)


class LeaksThroughFeedback(fakes.Reinforce):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.tape = view.scoring.kge.entity
        return block

    def feedback(self, negatives, s_pos, s_neg):
        return super().feedback(negatives, s_pos, s_neg) + 1e-3 * negatives.tape.sum()


class LeaksThroughVectors(fakes.Stateless):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        side = side if side.dim() == 1 else side[:, 0]
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        vectors = torch.nn.functional.embedding(ids, view.scoring.kge.entity)
        return Negatives(side, generated=Generated(vectors), valid=view.graph.drawable(key, self.k))


class CountsWithGraph(fakes.Reinforce):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.register_buffer("total", torch.zeros(()))

    def sample(self, positives, view):
        block = super().sample(positives, view)
        self.total += block.log_q.mean()
        return block


class WithInfiniteVectors(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        vectors = view.vectors(block.ids)
        if view.step == 30:
            vectors = vectors * torch.inf
        return Negatives(block.side, generated=Generated(vectors), valid=block.valid)


class NeverZero(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        valid = torch.ones_like(block.ids, dtype=torch.bool) if block.valid is None else block.valid
        block.valid = valid & (block.ids != 0)
        return block


class NeverLast(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        valid = torch.ones_like(block.ids, dtype=torch.bool) if block.valid is None else block.valid
        block.valid = valid & (block.ids != view.graph.num_entities - 1)
        return block


class LearnsBackwards(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.coef = -1.0
        return block


class IgnoresTheSide(fakes.Stateless):
    def sample(self, positives, view):
        shape = (len(positives), self.k) if view.sides == "per_slot" else (len(positives),)
        side = torch.rand(shape, generator=view.rng, device=view.device) < 0.5
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        return Negatives(side, ids=ids, valid=view.graph.drawable(key, self.k))


class RowsOnly(fakes.Stateless):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        if side.dim() == 2:
            side = side.view(len(positives))  # only ever seen with one side per row
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        return Negatives(side, ids=ids, valid=view.graph.drawable(key, self.k))


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


class Forgets(fakes.Memory):
    def get_extra_state(self):
        return {"counts": {"pretrained": 0, "sampled": 0}, "epochs": []}


class ForgetsPickled(fakes.Memory):
    """State that torch.load(weights_only=True) refuses."""

    def get_extra_state(self):
        return {"counts": np.float64(3.0), "epochs": []}


class HasRoomForDistinctRows(fakes.Stateless):
    def sample(self, positives, view):
        room = torch.zeros(len(view.graph), dtype=torch.int64, device=view.device)
        room[: len(positives)] = positives.rows
        return super().sample(positives, view)


class Squeezes(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.side = block.side.squeeze()
        return block


class SqueezesNegatives(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.margin_shift = torch.zeros_like(block.ids, dtype=torch.float).squeeze(1)
        return block


class TrustsEveryDraw(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.valid = None
        return block


class Reads(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.coef = float(block.side.any())
        return block


class CopiesNumbers(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.margin_shift = torch.tensor([0.0], device=view.device).expand(block.ids.shape)
        return block


class SelectsByMask(fakes.Stateless):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.tape = block.ids[block.side]
        return block


BROKEN = [
    (Reads, "host sync"),
    (SelectsByMask, "host sync"),
    (CopiesNumbers, "host sync"),
    (WithVersionZero, "declared"),
    (WithUnknownNeed, "declared"),
    (WithBadVariant, "declared"),
    (Raises, "runs"),
    (ReturnsNothing, "shapes"),
    (WithNarrowIds, "shapes"),
    (WithLearntWeight, "shapes"),
    (WithFewerNegatives, "shapes"),
    (OutOfRange, "range"),
    (Elsewhere, "device"),
    (WithFeedbackPerRow, "feedback"),
    (WithFeedbackOfNothing, "feedback"),
    (WithNegativeWeight, "constants"),
    (WithDeltaOfValue, "constants"),
    (WithProbabilityAboveOne, "constants"),
    (TailsOnly, "sides"),
    (MixesSides, "sides"),
    (Unfiltered, "positives"),
    (GlobalTorch, "generator"),
    (GlobalNumpy, "generator"),
    (WritesTheModel, "model"),
    (WritesTheTables, "model"),
    (BackwardInSample, "gradient"),
    (LeaksThroughFeedback, "gradient"),
    (LeaksThroughVectors, "gradient"),
    (CountsWithGraph, "buffers"),
    (WithInfiniteVectors, "finite"),
    (NeverZero, "ends"),
    (NeverLast, "ends"),
    (LearnsBackwards, "learning"),
    (IgnoresTheSide, "fixed side"),
    (RowsOnly, "per slot"),
    (Unseeded, "seeded"),
    (Forgets, "resume"),
    (ForgetsPickled, "resume"),
    (HasRoomForDistinctRows, "batches"),
    (Squeezes, "batches"),
    (SqueezesNegatives, "batches"),
    (TrustsEveryDraw, "saturated"),
]


def broken_rules(component):
    return [f.rule for f in check_sampler(component, device="cpu") if f.passed is False]


@pytest.mark.parametrize(("component", "rule"), BROKEN, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_caught_by_exactly_its_rule(component, rule):
    assert broken_rules(component) == [rule]


def test_every_rule_has_a_sampler_that_breaks_it():
    assert set(SAMPLER_RULES) == {rule for _, rule in BROKEN}


def test_filtering_is_not_asked_of_who_declares_to_do_without():
    class Declared(Unfiltered):
        filtered = False

    assert broken_rules(Declared) == []


class NotANumber(fakes.OneVsAll):
    def loss(self, positives, scoring, view):
        return super().loss(positives, scoring, view) * torch.nan


class PerRow(fakes.OneVsAll):
    def loss(self, positives, scoring, view):
        return super().loss(positives, scoring, view).expand(3)


class Detached(Objective):
    def loss(self, positives, scoring, view):
        return scoring.relation.sum()


class Gambles(fakes.OneVsAll):
    def loss(self, positives, scoring, view):
        return super().loss(positives, scoring, view) * (1 + 0 * torch.rand(()))


class Overwrites(fakes.OneVsAll):
    def loss(self, positives, scoring, view):
        with torch.no_grad():
            view.scoring.kge.relation.mul_(0.999)
        return super().loss(positives, scoring, view)


class Ascends(fakes.OneVsAll):
    def loss(self, positives, scoring, view):
        return -super().loss(positives, scoring, view)


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


BROKEN_OBJECTIVES = [
    (NotANumber, "loss"),
    (PerRow, "loss"),
    (Detached, "reach"),
    (Gambles, "generator"),
    (Overwrites, "model"),
    (Ascends, "learning"),
    (LooksAtEvaluations, "evaluation"),
]


@pytest.mark.parametrize(("component", "rule"), BROKEN_OBJECTIVES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_broken_objective_is_caught_by_exactly_its_rule(component, rule):
    assert broken_rules(component) == [rule]


def test_rules_for_objectives_are_the_ones_listed():
    rules = [f.rule for f in check_sampler(fakes.OneVsAll, device="cpu")]
    assert rules == list(OBJECTIVE_RULES)
