"""What replacing the head or the tail means for a query vector."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(side: Tensor, e: Tensor) -> Tensor:
    """+1 where the tail is replaced, -1 where the head is; side's dimensions are the first ones of e [..., D]."""
    if side.dim() >= e.dim():
        raise ValueError(f"side {list(side.shape)} must name leading dimensions of the vectors {list(e.shape)}")
    shape = [*side.shape, *[1] * (e.dim() - side.dim())]
    return torch.where(side, -1.0, 1.0).to(e.dtype).view(shape)


def chosen(side: Tensor, like: Tensor, head: Tensor, tail: Tensor) -> Tensor:
    """`head` where the head is replaced, else `tail`; side's dimensions are the first ones of like [..., D]."""
    return torch.where(side.view(*side.shape, *[1] * (like.dim() - side.dim())), head, tail)
