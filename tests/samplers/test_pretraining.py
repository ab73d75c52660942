"""What `kbgan` learns before the first step, and what it carries from pass to pass."""

import pytest
import torch

from nsbench.testing.rules import toy

TRIPLES = toy().train.tolist()


def test_what_is_held_out_is_never_learnt_and_every_step_learns_of_its_own_batch_alone(trainer_on, monkeypatch):
    trainer = trainer_on("kbgan", TRIPLES, 40, 5, 4, "sampler.pretrain_epochs=3", "sampler.patience=9")
    sampler = trainer.sampler
    quiz, mistake, asked, leftovers = sampler._quiz, sampler._mistake, [], []

    def watched(*x):
        if torch.is_grad_enabled():
            leftovers.extend(p.grad for p in sampler.generator.parameters() if p.grad is not None)
        return mistake(*x)

    monkeypatch.setattr(sampler, "_quiz", lambda rows, view: asked.append(rows.tolist()) or quiz(rows, view))
    monkeypatch.setattr(sampler, "_mistake", watched)
    trainer.pretrain()
    held_out, *batches = asked
    assert len(held_out) == len(TRIPLES) // 20
    learnt = [row for row in range(len(TRIPLES)) if row not in held_out]
    assert sorted(row for batch in batches for row in batch) == sorted(3 * learnt)
    assert not any(x.any() for x in leftovers)


def test_the_released_baseline_is_the_mean_reward_of_the_pass_before(trainer_on):
    settings = ("sampler.variant=released", "sampler.pretrain_epochs=0")
    trainer = trainer_on("kbgan", TRIPLES, 40, 5, 4, *settings)  # a batch is a pass
    paid, feedback = [], trainer.sampler.feedback
    trainer.sampler.feedback = lambda block, s_pos, s_neg: paid.append(s_neg.mean().item()) or feedback(block, s_pos, s_neg)
    for step in range(3):
        trainer.step()
        assert trainer.sampler.advantage.mean.item() == pytest.approx(paid[step - 1] if step else 0.0, rel=1e-5)
