"""docs/notes/classic_samplers.md, section 6, Tests. REINFORCE itself is tested in test_reinforce.py."""

import numpy as np
import pytest
import torch

from nsbench.kernels import native
from nsbench.samplers.igan import Generator
from nsbench.testing.rules import toy

TRIPLES = toy().train.tolist()


@pytest.fixture
def toy_trainer(trainer_on):
    def make(*settings, negatives=4):
        return trainer_on("igan", TRIPLES, 40, 5, negatives, *settings)

    return make


def test_probabilities_sum_to_one_and_are_zero_on_known_answers_alone(toy_trainer):
    trainer = toy_trainer()
    positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
    for head in (True, False):
        side = torch.full((len(TRIPLES),), head)
        p = trainer.sampler.logits(positives, side, trainer.view).softmax(1)
        assert torch.allclose(p.sum(1), torch.ones(len(TRIPLES)))
        for (h, r, t), row in zip(TRIPLES, p):
            heads, tails = {a for a, q, b in TRIPLES if (q, b) == (r, t)}, {b for a, q, b in TRIPLES if (a, q) == (h, r)}
            assert {e for e in range(40) if row[e] == 0} == (heads if head else tails)


def test_the_mask_leaves_the_gradient_right(toy_trainer):
    """Masked in place outside the graph; against a log-softmax of a copy masked inside it."""
    trainer = toy_trainer("sampler.turns=none")
    sampler, view = trainer.sampler, trainer.view
    positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
    block = sampler.sample(positives, view)
    sampler.advantage.baseline = "none"
    s_pos, s_neg = trainer.scoring().block(positives, block)
    parameters = list(sampler.parameters())
    found = torch.autograd.grad(sampler.feedback(block, s_pos, s_neg), parameters)

    logits = sampler.generator(positives.anchor(block.side), positives.r, block.side)
    log_p = torch.where(trainer.graph.answers(positives.key(block.side)), -torch.inf, logits).log_softmax(1)
    reward = torch.tanh(s_neg - s_pos.unsqueeze(1) + 1.0)
    expected = torch.autograd.grad(-(reward * log_p.gather(1, block.ids)).mean(), parameters)
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_compiled_draws_are_those_of_plain_torch(toy_trainer, monkeypatch):
    drawn = []
    for choice in ("native", "eager"):
        monkeypatch.setattr(native, "_chosen", choice)
        trainer = toy_trainer()
        drawn.append(trainer.sampler.sample(trainer.graph.positives(torch.arange(len(TRIPLES))), trainer.view))
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    torch.testing.assert_close(drawn[0].log_q, drawn[1].log_q)


def test_the_second_relation_vector_serves_queries_for_the_tail():
    torch.manual_seed(3)  # of four hidden units some are on
    generator = Generator(7, 3, 4)
    for head, used in ((True, 2), (False, 2 + 3)):
        generator.zero_grad()
        generator(torch.tensor([5]), torch.tensor([2]), torch.tensor([head])).sum().backward()
        touched = generator.relation.weight.grad.abs().sum(1) > 0
        assert touched.nonzero().flatten().tolist() == [used]
        assert (generator.entity.weight.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [5]


def test_reward_is_positive_exactly_where_the_hinge_is_active(toy_trainer, monkeypatch):
    trainer = toy_trainer("sampler.margin=0.7")
    paid = []
    monkeypatch.setattr(trainer.sampler.advantage, "forward", lambda reward, valid: paid.append(reward) or reward)
    block = trainer.sampler.sample(trainer.graph.positives(torch.arange(50)), trainer.view)
    rng = torch.Generator().manual_seed(0)
    s_pos, s_neg = torch.randn(50, generator=rng), torch.randn(50, 4, generator=rng)
    trainer.sampler.feedback(block, s_pos, s_neg)
    hinge = (0.7 - s_pos.unsqueeze(1) + s_neg).relu()
    assert torch.equal(paid[0] > 0, hinge > 0)
    assert 0 < (hinge > 0).float().mean() < 1
    assert (paid[0].abs() < 1).all()


def run(trainer, steps):
    """Per step: whether the model and whether the generator changed."""
    changes = []
    for _ in range(steps):
        model, generator = trainer.model_state(), [p.detach().clone() for p in trainer.sampler.parameters()]
        trainer.step()
        model_moved = any(not torch.equal(x, trainer.model_state()[name]) for name, x in model.items())
        generator_moved = any(not torch.equal(x, p) for x, p in zip(generator, trainer.sampler.parameters()))
        changes.append((model_moved, generator_moved))
    return changes


@pytest.mark.parametrize(
    ("turns", "batch", "expected"),
    [
        ("epoch", 65, "GGMMG"),  # 129 triples: passes begin with steps 0, 2, 4
        ("epoch", 300, "GMGMG"),  # more than two passes in a batch
        ("step", 65, "GMGMG"),
        ("none", 65, "BBBBB"),
    ],
)
def test_model_and_generator_learn_in_turns(toy_trainer, turns, batch, expected):
    trainer = toy_trainer(f"sampler.turns={turns}", f"protocol.batch={batch}")
    meaning = {"G": (False, True), "M": (True, False), "B": (True, True)}
    assert run(trainer, 5) == [meaning[letter] for letter in expected]


def test_the_models_turn_builds_no_graph(toy_trainer):
    trainer = toy_trainer("sampler.turns=step")
    positives = trainer.graph.positives(torch.arange(9))
    trainer.view.step = 1
    assert not trainer.sampler.sample(positives, trainer.view).log_q.requires_grad
    trainer.view.step = 2
    assert trainer.sampler.sample(positives, trainer.view).log_q.requires_grad


def test_with_a_frozen_model_the_expected_reward_rises(toy_trainer):
    trainer = toy_trainer("sampler.turns=none", "sampler.learning_rate=0.01")
    with torch.no_grad():
        trainer.kge.entity.mul_(30)  # scores that differ
    sampler = trainer.sampler
    positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
    paid = []
    for _ in range(100):
        block = sampler.sample(positives, trainer.view)
        s_pos, s_neg = trainer.scoring().block(positives, block)
        paid.append(torch.tanh(s_neg - s_pos.unsqueeze(1) + 1).mean().item())
        sampler.feedback(block, s_pos, s_neg).backward()
        trainer.sampler_adam.step()
        trainer.sampler_adam.zero_grad()
    assert sum(paid[-10:]) / 10 > sum(paid[:10]) / 10 + 0.2


def test_state_is_the_formula_of_the_spec(toy_trainer):
    d, n, r = 100, 40, 5
    assert sum(p.numel() for p in toy_trainer().sampler.parameters()) == n * d + 2 * r * d + (2 * d + 1) * d + (d + 1) * n


def test_l2_and_learning_rate_reach_the_optimiser(toy_trainer):
    (group,) = toy_trainer("sampler.l2=0.01", "sampler.learning_rate=0.005").sampler_adam.param_groups
    assert (group["weight_decay"], group["lr"]) == (0.01, 0.005)


def test_paper_draws_known_facts_and_subtracts_nothing(toy_trainer):
    reward = torch.tensor([[0.2, 0.6]])
    for variant, hits, advantage in (("recommended", False, [-0.2, 0.2]), ("paper", True, [0.2, 0.6])):
        trainer = toy_trainer(f"sampler.variant={variant}", negatives=100)
        positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
        block = trainer.sampler.sample(positives, trainer.view)
        known = trainer.graph.answers(positives.key(block.side)).gather(1, block.ids)
        assert known.any().item() is hits
        assert trainer.sampler.filtered is not hits
        assert trainer.sampler.advantage(reward, None)[0].tolist() == pytest.approx(advantage)


@pytest.mark.parametrize("head", [True, False])
def test_the_generator_of_igan_is_a_network_with_one_rectified_layer(head):
    torch.manual_seed(3)
    generator = Generator(6, 2, 4)
    weights = {name: x.detach().double().numpy() for name, x in generator.named_parameters()}
    x = np.concatenate([weights["entity.weight"][5], weights["relation.weight"][1 if head else 3]])
    hidden = np.maximum(weights["hidden.weight"] @ x + weights["hidden.bias"], 0)
    assert 0 < (hidden > 0).sum() < 4  # the rectifier matters
    wanted = weights["out.weight"] @ hidden + weights["out.bias"]
    found = generator(torch.tensor([5]), torch.tensor([1]), torch.tensor([head]))
    np.testing.assert_allclose(found[0].detach().numpy(), wanted, atol=1e-6)
