"""REINFORCE against exact gradients; docs/notes/classic_samplers.md, section 5, Tests."""

import pytest
import torch

from nsbench.samplers.parts.reinforce import Advantage, choose, on_side, reinforce_loss

LOGITS = [0.3, -1.0, 0.9, 0.0, -0.4]  # of 5 candidates
REWARD = torch.tensor([2.0, -1.0, 0.5, 3.0, -2.5])
DRAWS = 100_000


def exact_gradient(advantage):
    """d/d logits of minus the expected advantage, by differentiating the sum over all five candidates."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    return torch.autograd.grad(-(logits.softmax(0) * advantage).sum(), logits)[0]


def estimates(advantage_of, draws=DRAWS):
    """Mean and standard error of the REINFORCE gradient over single draws."""
    logits = torch.tensor(LOGITS).repeat(draws, 1).requires_grad_()
    chosen, log_q = choose(logits, 1, torch.Generator().manual_seed(5))
    loss = reinforce_loss(advantage_of(REWARD[chosen]), log_q, None)
    each = torch.autograd.grad(loss, logits)[0] * draws  # [draws, 5]; the loss is a mean
    return each.mean(0), each.std(0) / draws**0.5


def test_gradient_is_advantage_times_softmax_minus_onehot():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    advantage = torch.linspace(-2, 2, 18).view(6, 3)
    chosen, log_q = choose(logits, 3, torch.Generator().manual_seed(2))
    found = torch.autograd.grad(reinforce_loss(advantage, log_q, None), logits, retain_graph=True)[0]
    by_autograd = torch.autograd.grad(-(advantage * logits.log_softmax(1).gather(1, chosen)).mean(), logits)[0]
    onehot = torch.nn.functional.one_hot(chosen, 5)
    by_hand = (advantage.unsqueeze(2) * (logits.detach().softmax(1).unsqueeze(1) - onehot)).sum(1) / 18
    assert torch.allclose(found, by_autograd, atol=1e-6)
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_a_constant_baseline_changes_the_spread_and_not_the_mean():
    plain, error = estimates(lambda reward: reward + 10)
    based, smaller = estimates(lambda reward: reward - 0.3)
    assert ((plain - based).abs() < 4 * (error + smaller)).all()
    assert ((based - exact_gradient(REWARD)).abs() < 4 * smaller).all()
    assert (smaller < error).all()


def test_draws_follow_the_softmax_and_never_meet_a_masked_column():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]).repeat(1000, 1)
    chosen, log_q = choose(logits, 100, torch.Generator().manual_seed(3))
    share = torch.bincount(chosen.flatten(), minlength=4) / chosen.numel()
    p = logits[0].softmax(0)
    assert share[2] == 0
    assert torch.allclose(share, p, atol=4 * 0.5 / DRAWS**0.5)
    assert torch.equal(log_q, p.log()[chosen])


def test_invalid_draws_count_for_nothing():
    log_q = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    valid = torch.tensor([[True, False], [True, True]])
    loss = reinforce_loss(torch.ones(2, 2), log_q, valid)
    assert loss.item() == pytest.approx((1 + 3 + 4) / 3)
    loss.backward()
    assert log_q.grad[0, 1] == 0
    reward = torch.tensor([[1.0, 1e6], [2.0, 3.0]])
    for kind in ("running", "epoch"):
        advantage = Advantage(kind)
        advantage(reward, valid)
        advantage.start_pass()
        assert advantage.mean.item() == pytest.approx(2.0)


def test_a_side_per_slot_takes_each_slot_from_its_own_end():
    side = torch.tensor([[True, False, True], [False, False, True]])

    def propose(end):
        ids = torch.where(end, 7, 9).unsqueeze(1).expand(2, 3)
        return ids, -ids.float()

    ids, log_q = on_side(side, propose)
    assert torch.equal(ids, torch.where(side, 7, 9))
    assert torch.equal(log_q, -ids.float())


def test_running_baseline_is_a_decayed_mean_of_earlier_rewards():
    advantage = Advantage("running")
    assert advantage(torch.tensor([[3.0, 5.0]]), None).tolist() == [[-1.0, 1.0]]  # the first batch is its own baseline
    assert advantage(torch.tensor([[10.0, 0.0]]), None).tolist() == [[6.0, -4.0]]  # by the mean before it, 4
    assert advantage.mean.item() == pytest.approx(4 + 0.01 * (5 - 4))


def test_epoch_baseline_is_the_last_pass_and_first_zero():
    advantage = Advantage("epoch")
    advantage.start_pass()
    assert advantage(torch.tensor([[3.0, 5.0]]), None).tolist() == [[3.0, 5.0]]
    advantage(torch.tensor([[7.0, 9.0]]), None)
    advantage.start_pass()
    assert advantage(torch.tensor([[3.0, 5.0]]), None).tolist() == [[-3.0, -1.0]]  # 6 is the mean of the pass


def test_no_baseline_leaves_rewards_alone():
    advantage = Advantage("none")
    for _ in range(2):
        assert advantage(torch.tensor([[3.0, 5.0]]), None).tolist() == [[3.0, 5.0]]


def test_normalised_advantages_do_not_depend_on_the_scale_of_scores():
    rng = torch.Generator().manual_seed(4)
    small, large = Advantage("running", normalise=True), Advantage("running", normalise=True)
    for _ in range(200):
        reward = torch.randn(64, 4, generator=rng)
        a, b = small(reward, None), large(1000 * reward + 5000, None)
    assert torch.allclose(a, b, atol=1e-2)
    assert 0.8 < a.std().item() < 1.2


def test_normalised_advantages_are_right_from_the_first_batches_on():
    advantage = Advantage("running", normalise=True)
    for _ in range(5):  # the mean is 7, the deviation from it 2
        assert advantage(torch.tensor([[5.0, 9.0]]), None).tolist() == [[pytest.approx(-1.0), pytest.approx(1.0)]]
