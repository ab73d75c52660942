"""Penalties on whole tables, with their gradients written out: few passes over memory, all of them in place.

Autograd would keep a copy of the table per operation; these keep the table itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def l3(table: Tensor) -> Tensor:
    """Sum of |x|^3 (specs/mmrns.md 2.3: the RotatE code base's regulariser, on the full table); a scalar."""
    return _L3.apply(table)


def l2(table: Tensor) -> Tensor:
    """Sum of x^2; a scalar."""
    return _L2.apply(table)


class _L3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1)
        return torch.dot(flat.square(), flat.abs())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(x).mul_(3 * grad)  # 3 x |x|


class _L2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1)
        return torch.dot(flat, flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * (2 * grad)
