"""docs/notes/classic_samplers.md, section 5, Tests. REINFORCE itself is tested in test_reinforce.py."""

import pytest
import torch

from nsbench.campaign.plan import dataset_of
from nsbench.config.run import configure
from nsbench.contracts.scoring import Scoring
from nsbench.testing.rules import toy
from nsbench.training.trainer import Trainer

SHORT = "sampler.pretrain_epochs=10"
TRIPLES = toy().train.tolist()


@pytest.fixture
def toy_trainer(trainer_on):
    def make(*settings, negatives=4):
        return trainer_on("kbgan", TRIPLES, 40, 5, negatives, *settings)

    return make


def known(positives, block):
    side = block.side.unsqueeze(1)
    h = torch.where(side, block.ids, positives.h.unsqueeze(1))
    t = torch.where(side, positives.t.unsqueeze(1), block.ids)
    facts = torch.tensor([(h * 5 + r) * 40 + t for h, r, t in TRIPLES])
    return torch.isin((h * 5 + positives.r.unsqueeze(1)) * 40 + t, facts)


def test_log_q_is_the_generators_softmax_over_the_candidates(toy_trainer, monkeypatch):
    trainer = toy_trainer("sampler.tau=0.5", "sampler.candidates=6")
    sampler, asked = trainer.sampler, []
    monkeypatch.setattr(sampler, "_draw", lambda key, n, view: asked.append(view.graph.draw(key, n, view.rng)) or asked[-1])
    positives = trainer.graph.positives(torch.arange(20))
    block = sampler.sample(positives, trainer.view)
    (candidates,) = asked
    assert candidates.shape == (20, 6)
    g = sampler.generator
    kept = torch.where(block.side, positives.t, positives.h)
    scores = (g.entity[kept] * g.relation[positives.r]).unsqueeze(1) * g.entity[candidates]
    log_p = (scores.sum(2) / 0.5).log_softmax(1)
    for row in range(20):
        for slot in range(4):
            column = candidates[row].tolist().index(block.ids[row, slot].item())
            assert block.log_q[row, slot].item() == pytest.approx(log_p[row, column].item(), abs=1e-5)


def test_more_negatives_than_candidates_raise_the_number_of_candidates(toy_trainer):
    assert toy_trainer(negatives=4).sampler.candidates == 20
    assert toy_trainer(negatives=33).sampler.candidates == 33


def test_neither_side_of_the_game_sees_the_others_gradient(toy_trainer):
    trainer = toy_trainer(SHORT)
    trainer.pretrain()
    positives = trainer.graph.positives(torch.arange(20))
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    block = trainer.sampler.sample(positives, trainer.view)
    s_pos, s_neg = scoring.block(positives, block)
    (s_pos.sum() - s_neg.sum()).backward(retain_graph=True)
    assert trainer.kge.entity.grad is not None
    assert all(p.grad is None for p in trainer.sampler.parameters())

    trainer.kge.zero_grad(set_to_none=True)
    trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach()).backward()
    assert all(p.grad is None for p in trainer.kge.parameters())
    assert all(p.grad.abs().sum() > 0 for p in trainer.sampler.parameters())


def test_with_a_frozen_model_the_expected_reward_rises(toy_trainer):
    trainer = toy_trainer("sampler.learning_rate=0.02", "sampler.pretrain_epochs=0", "sampler.l2=0")
    with torch.no_grad():
        trainer.kge.entity.mul_(30)  # scores that differ
    sampler, view = trainer.sampler, trainer.view
    positives = trainer.graph.positives(torch.arange(len(TRIPLES)))

    def reward(block):
        return trainer.scoring().block(positives, block)

    before, after = [], []
    for step in range(200):
        block = sampler.sample(positives, view)
        s_pos, s_neg = reward(block)
        (before if step < 20 else after if step >= 180 else []).append(s_neg.mean().item())
        sampler.feedback(block, s_pos, s_neg).backward()
        trainer.sampler_adam.step()
        trainer.sampler_adam.zero_grad()
    spread = s_neg.std().item()
    assert sum(after) / 20 > sum(before) / 20 + 0.3 * spread


def test_pretraining_teaches_the_generator_on_train_alone():
    dataset = dataset_of(configure("kbgan", "distmult", "planted:small"))
    config = configure("kbgan", "distmult", dataset.name, protocol="quick", settings=["sampler.pretrain_epochs=60"])
    trainer = Trainer(config, dataset)
    model = trainer.model_state()
    held_out = trainer.graph.positives(torch.arange(500))
    side = torch.arange(500) % 2 == 0
    rivals = trainer.graph.draw(held_out.key(side), 50, trainer.view.rng)
    candidates = torch.cat([held_out.answer(side).unsqueeze(1), rivals], dim=1)

    def wins():
        with torch.no_grad():
            s = trainer.sampler.scores(held_out, side, candidates, trainer.view)
        return (s[:, :1] > s[:, 1:]).float().mean().item()

    assert abs(wins() - 0.5) < 0.1
    trainer.pretrain()
    assert wins() > 0.75
    assert trainer.sampler_clock.seconds() > 0  # charged to the sampler
    assert all(torch.equal(x, trainer.model_state()[name]) for name, x in model.items())


def test_pretraining_keeps_the_best_state_and_stops_when_the_held_out_loss_stalls(toy_trainer, monkeypatch):
    trainer = toy_trainer("sampler.pretrain_epochs=50", "sampler.patience=3")
    sampler = trainer.sampler
    script, states = iter([3.0, 2.0, 2.5, 1.9, 2.0, 2.1, 2.2, 0.0]), []
    mistake = sampler._mistake

    def scripted(*quiz):
        if torch.is_grad_enabled():
            return mistake(*quiz)
        states.append(sampler.generator.entity.detach().clone())
        return torch.tensor(next(script))

    monkeypatch.setattr(sampler, "_mistake", scripted)
    trainer.pretrain()
    assert len(states) == 7  # three passes after the fourth
    assert torch.equal(sampler.generator.entity, states[3])


def test_the_cap_ends_pretraining_and_zero_leaves_the_generator_as_it_is(toy_trainer):
    trainer = toy_trainer("sampler.pretrain_epochs=0")
    before = trainer.sampler.generator.entity.clone()
    trainer.pretrain()
    assert torch.equal(before, trainer.sampler.generator.entity)
    trainer = toy_trainer("sampler.pretrain_epochs=1")
    trainer.pretrain()
    assert not torch.equal(before, trainer.sampler.generator.entity)


def test_weight_decay_is_lambda_over_the_training_triples(toy_trainer):
    (group,) = toy_trainer("sampler.l2=0.1", "sampler.learning_rate=0.005").sampler_adam.param_groups
    assert group["weight_decay"] == pytest.approx(0.1 / len(TRIPLES))
    assert group["lr"] == 0.005


def test_state_is_the_generator():
    dataset = dataset_of(configure("kbgan", "distmult", "planted:small"))
    trainer = Trainer(configure("kbgan", "distmult", dataset.name, protocol="quick"), dataset)
    numbers = sum(p.numel() for p in trainer.sampler.parameters())
    assert numbers == 50 * (dataset.num_entities + dataset.num_relations)


def test_recommended_draws_no_known_fact_and_the_variants_do(toy_trainer):
    for variant, expected in (("recommended", False), ("paper", True), ("released", True)):
        trainer = toy_trainer(f"sampler.variant={variant}", negatives=200)
        positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
        block = trainer.sampler.sample(positives, trainer.view)
        assert known(positives, block).any().item() is expected
        assert trainer.sampler.filtered is not expected


def test_variants_pay_differently(toy_trainer):
    first = {}
    for variant in ("recommended", "paper", "released"):
        trainer = toy_trainer(f"sampler.variant={variant}")
        trainer.sampler.start_epoch(0)
        first[variant] = trainer.sampler.advantage(torch.tensor([[100.0, 104.0]]), None).tolist()
    assert first["recommended"] == [[pytest.approx(-1.0), pytest.approx(1.0)]]  # over the deviation, 2
    assert first["paper"] == [[-2.0, 2.0]]
    assert first["released"] == [[100.0, 104.0]]  # nothing is subtracted in the first pass


def test_what_is_held_out_is_never_learnt_and_every_step_learns_of_its_own_batch_alone(toy_trainer, monkeypatch):
    trainer = toy_trainer("sampler.pretrain_epochs=3", "sampler.patience=9")
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


def test_the_released_baseline_is_the_mean_reward_of_the_pass_before(toy_trainer):
    trainer = toy_trainer("sampler.variant=released", "sampler.pretrain_epochs=0")  # a batch is a pass
    paid, feedback = [], trainer.sampler.feedback
    trainer.sampler.feedback = lambda block, s_pos, s_neg: paid.append(s_neg.mean().item()) or feedback(block, s_pos, s_neg)
    for step in range(3):
        trainer.step()
        assert trainer.sampler.advantage.mean.item() == pytest.approx(paid[step - 1] if step else 0.0, rel=1e-5)
