"""Penalties, by their written-out gradients."""

from __future__ import annotations

import pytest
import torch

from nsbench.training.regularizers import add_gradient


@pytest.mark.parametrize("power", [2, 3])
def test_the_gradient_is_autograds_and_adds_to_what_is_there(power):
    table = torch.randn(50, 7, dtype=torch.float64)
    table[0] = 0
    table.requires_grad_()
    (wanted,) = torch.autograd.grad(0.3 * (table.abs() ** power).sum(), table)
    add_gradient(table, 0.3, power)
    torch.testing.assert_close(table.grad, wanted)
    add_gradient(table, 0.3, power)
    torch.testing.assert_close(table.grad, 2 * wanted)


@pytest.mark.parametrize("power", [2, 3])
def test_a_broken_table_shows(power):
    table = torch.randn(5, 3)
    table[2, 1] = float("nan")
    table.requires_grad_()
    add_gradient(table, 0.1, power)
    assert table.grad.isnan().sum() == 1
