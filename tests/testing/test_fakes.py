"""What is special to each kind of sampler, each under the unchanged trainer."""

import fakes
import pytest
import torch
import torch.nn.functional as F

from nsbench.config.run import configure
from nsbench.contracts import Generated, Need, Negatives
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS
from nsbench.testing.rules import registered, toy
from nsbench.training.trainer import Trainer


def trainer_for(sampler, *settings, kge="transe", fusion="none", seed=0, features=False):
    values = ["protocol.width=6", "protocol.batch=16", "protocol.negatives=4", "protocol.steps=60", *settings]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, seed=seed, settings=values)
    return Trainer(config, toy(features=features or config.wants_features))


def watched(owner, method):
    """Lists what a method of this object returned."""
    returned, original = [], getattr(owner, method)
    setattr(owner, method, lambda *args: returned.append(original(*args)) or returned[-1])
    return returned


def steps(trainer, number):
    for _ in range(number):
        trainer.step()


def parameters_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.sampler.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def straight_through_step(kge="distmult"):
    trainer = trainer_for("straight_through", "protocol.subsampling=false", kge=kge)
    with torch.no_grad():
        trainer.sampler.logits.copy_(torch.linspace(-1, 1, 40))
    return trainer


def test_coupled_feedback_shares_one_backward_and_all_optimisers_step():
    trainer = straight_through_step()
    before, entity = parameters_of(trainer), trainer.kge.entity.detach().clone()
    backwards, backward = [], torch.Tensor.backward
    gradients = {}
    model_step = trainer.model_adam.step
    trainer.model_adam.step = lambda: (gradients.update(entity=trainer.kge.entity.grad.clone()), model_step())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", lambda self, *a, **k: (backwards.append(1), backward(self, *a, **k))[1])
        trainer.step()
    assert len(backwards) == 1
    assert not same(before, parameters_of(trainer))
    assert not torch.equal(entity, trainer.kge.entity)
    # The contrast reaches candidates that were never chosen as negatives: more rows than without it.
    alone = straight_through_step()
    alone.sampler.feedback = lambda *args: None
    fewer = {}
    step = alone.model_adam.step
    alone.model_adam.step = lambda: (fewer.update(entity=alone.kge.entity.grad.clone()), step())
    alone.step()
    assert (gradients["entity"] != fewer["entity"]).any(1).sum() > 16


def test_blocks_add_up_with_their_coefficients():
    trainer = trainer_for("two_blocks", "protocol.subsampling=false", "protocol.regularizer=0", kge="distmult")
    drawn, batches = watched(trainer.sampler, "sample"), watched(trainer, "_next_positives")
    scoring = trainer.scoring()
    entity, relation = scoring.entity.clone(), scoring.relation.clone()
    trainer.step()
    first, second = drawn[0]
    assert second.ids.shape[1] == 5
    h, r, t = batches[0].hrt.unbind(1)

    def negative_term(block):
        side = block.side.unsqueeze(1)
        heads = torch.where(side, block.ids, h.unsqueeze(1))
        tails = torch.where(side, t.unsqueeze(1), block.ids)
        return F.softplus((entity[heads] * relation[r].unsqueeze(1) * entity[tails]).sum(2)).mean()

    positive_term = F.softplus(-(entity[h] * relation[r] * entity[t]).sum(1)).mean()
    expected = 0.5 * (positive_term + negative_term(first)) + 0.25 * 0.5 * negative_term(second)
    assert trainer.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_alternating_phases_leave_the_other_side_bit_identical():
    trainer = trainer_for("alternating")
    phases = set()
    for _ in range(40):
        phase = "sampler" if trainer.epoch % 2 == 0 else "model"
        model, sampler = trainer.model_state(), parameters_of(trainer)
        moments = len(trainer.model_adam.state), len(trainer.sampler_adam.state)
        trainer.step()
        assert same(model, trainer.model_state()) == (phase == "sampler")
        assert same(sampler, parameters_of(trainer)) == (phase == "model")
        assert all(p.grad is None for p in [*trainer.kge.parameters(), *trainer.sampler.parameters()])
        if phase == "sampler":
            assert len(trainer.model_adam.state) == moments[0]
        phases.add(phase)
    assert phases == {"sampler", "model"}


def test_auxiliary_has_its_own_parameters_weight_and_gradient():
    plain = trainer_for("stateless", "protocol.regularizer=0")
    with_extra = trainer_for("stateless", "protocol.regularizer=0", "aux.shrinking=0.5")
    extra = with_extra.auxiliaries["shrinking"]
    gradients = []
    for trainer in (plain, with_extra):
        step = trainer.model_adam.step
        trainer.model_adam.step = lambda trainer=trainer, step=step: (
            gradients.append({n: p.grad.clone() for n, p in trainer.kge.named_parameters()}),
            gradients[-1].update(centre=extra.centre.grad.clone() if trainer is with_extra else None),
            step(),
        )
    entity, centre = plain.kge.entity.detach().clone(), extra.centre.detach().clone()
    heads = plain._next_positives().h
    plain.step()
    with_extra.step()
    difference = gradients[1]["entity"] - gradients[0]["entity"]
    expected = torch.zeros_like(entity).index_add_(0, heads, 0.5 * (entity[heads] - centre) / 16)
    assert torch.allclose(difference, expected, atol=1e-6)
    assert torch.allclose(gradients[1]["centre"], -0.5 * (entity[heads] - centre).mean(0), atol=1e-6)
    assert not torch.equal(centre, extra.centre)
    assert plain.loss_sum.item() == with_extra.loss_sum.item()  # what is reported is the sampler's loss alone


def test_an_auxiliary_does_not_make_the_samplers_view_live():
    class Keeps(fakes.Stateless):
        def sample(self, positives, view):
            block = super().sample(positives, view)
            block.tape = (positives, view)
            return block

        def feedback(self, negatives, s_pos, s_neg):
            positives, view = negatives.tape
            assert not view.score_ids(positives, negatives.side, negatives.ids).requires_grad
            return None

    with registered(SAMPLERS, "keeps", Keeps):
        trainer_for("keeps", "aux.shrinking=0.5").step()


def test_start_epoch_is_called_once_per_pass_before_its_first_whole_batch():
    trainer = trainer_for("memory")
    passes = 5
    called_at = []
    start = trainer.sampler.start_epoch
    trainer.sampler.start_epoch = lambda epoch: (called_at.append((epoch, trainer.step_count)), start(epoch))
    n = len(trainer.graph)
    steps(trainer, passes * n // 16)
    assert [epoch for epoch, _ in called_at] == list(range(passes))
    assert [step for _, step in called_at] == [-(-epoch * n // 16) for epoch in range(passes)]


def test_live_needs_are_what_decides_about_gradients():
    """The same sampler without Need.LIVE sees tables that no gradient leaves."""
    seen = []

    class Looks(fakes.Stateless):
        def sample(self, positives, view):
            seen.append(view.vectors(positives.h).requires_grad)
            return super().sample(positives, view)

    class LooksLive(Looks):
        @classmethod
        def needs(cls, options):
            return frozenset({Need.LIVE})

    with registered(SAMPLERS, "looks", Looks), registered(SAMPLERS, "looks_live", LooksLive):
        for name, live in (("looks", False), ("looks_live", True)):
            trainer = trainer_for(name)
            trainer.step()
            assert trainer.coupled == live
    assert seen == [False, True]


@pytest.mark.parametrize("name", ["requires", "coupled"])
def test_what_an_instance_says_of_its_needs_is_refused_in_one_sentence(name):
    class Changes(fakes.Stateless):
        def __init__(self, setting, options):
            super().__init__(setting, options)
            setattr(self, name, True)

    with registered(SAMPLERS, "changes", Changes), pytest.raises(Misuse, match=rf"self\.{name}.*needs\(options\)"):
        trainer_for("changes")


def test_a_block_that_sets_two_kinds_of_negatives_is_refused():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    block = Negatives(torch.ones(2, dtype=torch.bool), ids=ids, generated=Generated(torch.zeros(2, 3, 4)))
    with pytest.raises(ValueError, match="exactly one"):
        block.check(2)


@pytest.mark.parametrize("field", ["vectors", "slot_mask", "anchors", "joint"])
def test_a_field_of_generated_vectors_that_stands_in_the_block_is_told_where_to_go(field):
    with pytest.raises(TypeError, match=rf"generated=Generated\({field}="):
        Negatives(torch.ones(2, dtype=torch.bool), **{field: None})
