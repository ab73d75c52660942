"""Penalties and their written-out gradients."""

from __future__ import annotations

import pytest
import torch

from nsbench.regularizers import l2, l3


@pytest.mark.parametrize(("penalty", "power"), [(l2, 2), (l3, 3)])
def test_value_and_gradient(penalty, power):
    table = torch.randn(50, 7, dtype=torch.float64)
    table[0] = 0
    table.requires_grad_()
    torch.testing.assert_close(penalty(table), (table.abs() ** power).sum())
    assert torch.autograd.gradcheck(penalty, table)
    (found,) = torch.autograd.grad(3 * penalty(table), table)
    (wanted,) = torch.autograd.grad(3 * (table.abs() ** power).sum(), table)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("penalty", [l2, l3])
def test_a_broken_table_shows(penalty):
    table = torch.randn(5, 3)
    table[2, 1] = float("nan")
    assert penalty(table).isnan()
