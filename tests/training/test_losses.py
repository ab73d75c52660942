"""docs/notes/classic_samplers.md, section 3, Tests; and every reduction of a block by hand."""

import math

import pytest
import torch

from nsbench.contracts import Negatives
from nsbench.contracts.graph import TrainGraph
from nsbench.training.losses import add_penalty_gradient, block_loss, importance_of

S_POS = torch.tensor([0.5, -1.0, 2.0])
S_NEG = torch.tensor([[0.1, -0.4, 1.5], [2.0, 0.0, -3.0], [-0.2, 0.3, 0.4]])
SHIFT = torch.tensor([[0.0, -1.0, 0.5], [0.2, 0.0, 0.0], [1.0, 1.0, -2.0]])
WEIGHT = torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.0, 1.0], [0.1, 0.2, 0.3]])
VALID = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])


def block(**fields):
    return Negatives(torch.ones(3, dtype=torch.bool), ids=torch.zeros(3, 3, dtype=torch.int64), **fields)


def softplus(x):
    return math.log1p(math.exp(x))


def by_hand(temperature=0.0, importance=None, valid=None, shift=None, weight=None, positive="once", coef=1.0):
    """Loops over Python numbers; the formulas of the contract."""
    q = [1.0] * 3 if importance is None else importance.tolist()
    total = 0.0
    for row in range(3):
        slots = [k for k in range(3) if valid is None or valid[row, k]]
        logit = [S_NEG[row, k].item() + (0.0 if shift is None else shift[row, k].item()) for k in range(3)]
        if weight is not None:
            share = {k: weight[row, k].item() / 3 for k in slots}
        elif temperature:
            z = sum(math.exp(temperature * logit[k]) for k in slots)
            share = {k: math.exp(temperature * logit[k]) / z for k in slots}
        else:
            share = {k: 1 / len(slots) for k in slots}
        loss = sum(share[k] * softplus(logit[k]) for k in slots)
        if positive == "once":
            loss += softplus(-S_POS[row].item())
        elif positive == "per_negative":
            plain = {k: 1 / len(slots) for k in slots}  # weights are the negatives'
            added = {k: 0.0 if shift is None else shift[row, k].item() for k in slots}
            loss += sum(plain[k] * softplus(-(S_POS[row].item() + added[k])) for k in slots)
        total += q[row] * loss
    return 0.5 * coef * total / sum(q)


@pytest.mark.parametrize("importance", [None, torch.tensor([0.1, 0.5, 0.3])])
@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize("shift", [None, SHIFT])
@pytest.mark.parametrize("positive", ["once", "per_negative", "none"])
@pytest.mark.parametrize(("temperature", "weight"), [(0.0, None), (0.7, None), (0.0, WEIGHT), (0.7, WEIGHT)])
def test_every_reduction_equals_the_formula(temperature, weight, positive, shift, valid, importance):
    fields = {"valid": valid, "margin_shift": shift, "weight": weight, "positive": positive, "coef": 0.3}
    made = block(**fields, reduce="loss" if weight is None else "weighted")
    made.check(3)
    expected = by_hand(temperature, importance, valid, shift, weight, positive, 0.3)
    assert block_loss(S_POS, S_NEG, made, temperature, importance).item() == pytest.approx(expected, rel=1e-5)


def test_no_gradient_through_the_self_adversarial_weights():
    s_neg = S_NEG.clone().requires_grad_()
    block_loss(S_POS, s_neg, block(), 0.7, None).backward()
    share = (0.7 * S_NEG).softmax(1)
    assert torch.allclose(s_neg.grad, 0.5 * share * S_NEG.sigmoid() / 3, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("score", [-5.0, 100.0])
def test_a_masked_slot_changes_neither_loss_nor_gradient(temperature, score):
    def loss_and_gradient(s_neg, valid):
        s_neg = s_neg.clone().requires_grad_()
        made = Negatives(torch.ones(3, dtype=torch.bool), ids=torch.zeros(s_neg.shape, dtype=torch.int64), valid=valid)
        loss = block_loss(S_POS, s_neg, made, temperature, None)
        loss.backward()
        return loss.detach(), s_neg.grad

    more = torch.cat([S_NEG, torch.full((3, 1), score)], dim=1)
    valid = torch.tensor([[True, True, True, False]] * 3)
    loss, gradient = loss_and_gradient(S_NEG, None)
    masked_loss, masked_gradient = loss_and_gradient(more, valid)
    assert torch.allclose(loss, masked_loss)
    assert torch.allclose(gradient, masked_gradient[:, :3])
    assert not masked_gradient[:, 3].any()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_without_a_valid_negative_counts_for_its_positive_alone(temperature):
    valid = torch.tensor([[False] * 3, [True] * 3, [True] * 3])
    s_neg = S_NEG.clone().requires_grad_()
    loss = block_loss(S_POS, s_neg, block(valid=valid), temperature, None)
    loss.backward()
    rows = [by_hand_row(row, temperature) for row in (1, 2)]
    assert loss.item() == pytest.approx(0.5 * (softplus(-0.5) + sum(rows)) / 3, rel=1e-5)
    assert s_neg.grad.isfinite().all()
    assert not s_neg.grad[0].any()


def by_hand_row(row, temperature):
    logit = S_NEG[row].tolist()
    z = sum(math.exp(temperature * x) for x in logit)
    negative = sum(math.exp(temperature * x) / z * softplus(x) for x in logit)
    return softplus(-S_POS[row].item()) + negative


def test_subsampling_weights_by_hand_count():
    """1 / sqrt(c(h, r) + c(r, t)), counters starting at 4 for a key seen once, repeated rows counted."""
    triples = [(0, 0, 1), (0, 0, 2), (3, 0, 1), (0, 1, 1), (0, 0, 1)]
    tail_counts = [3, 3, 1, 1, 3]  # triples with this (h, r)
    head_counts = [3, 1, 3, 1, 3]  # triples with this (r, t)
    expected = [1 / math.sqrt(a + 3 + b + 3) for a, b in zip(tail_counts, head_counts)]
    assert importance_of(TrainGraph(torch.tensor(triples), 4, 2)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("power", [2, 3])
def test_the_gradient_is_autograds_and_adds_to_what_is_there(power):
    table = torch.randn(50, 7, dtype=torch.float64)
    table[0] = 0
    table.requires_grad_()
    (wanted,) = torch.autograd.grad(0.3 * (table.abs() ** power).sum(), table)
    add_penalty_gradient(table, 0.3, power)
    torch.testing.assert_close(table.grad, wanted)
    add_penalty_gradient(table, 0.3, power)
    torch.testing.assert_close(table.grad, 2 * wanted)


@pytest.mark.parametrize("power", [2, 3])
def test_a_broken_table_shows(power):
    table = torch.randn(5, 3)
    table[2, 1] = float("nan")
    table.requires_grad_()
    add_penalty_gradient(table, 0.1, power)
    assert table.grad.isnan().sum() == 1
