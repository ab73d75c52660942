"""Penalties on whole tables, with their gradients written out: two passes over memory each way, where autograd takes six."""

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
        signed_square = x.abs().mul_(x)  # a third of the gradient, and all but one factor of the value
        ctx.save_for_backward(signed_square)
        return torch.dot(signed_square.reshape(-1), x.reshape(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (signed_square,) = ctx.saved_tensors
        return signed_square * (3 * grad)


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
