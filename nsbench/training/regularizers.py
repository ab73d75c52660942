"""Penalties on whole tables, by their gradients alone: nobody uses the value, and autograd would take six passes."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def add_gradient(table: Tensor, coefficient: float, power: int) -> None:
    """Add the gradient of coefficient x sum |x|^power (2 or 3) to table.grad, in place.

    Power 3 on the full tables is the RotatE code base's regulariser (specs/mmrns.md 2.3).
    """
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    if power == 3:
        table.grad.addcmul_(table.abs(), table, value=3 * coefficient)
    elif power == 2:
        table.grad.add_(table, alpha=2 * coefficient)
    else:
        raise ValueError(f"the power must be 2 or 3, not {power}")
