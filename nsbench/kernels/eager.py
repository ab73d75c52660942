"""The kernels in plain torch, for every device and type: the similarity's own formula in pieces of bounded size."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Formula(Protocol):
    """What the kernels need to know of a similarity."""

    kind: str | None  # one of KINDS; None: eager only
    margin: float | None

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor: ...


def gathered(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """[B, K] for q [B, D], table [N, D], ids [B, K]."""
    step = _piece(q, ids.shape[1])
    pairs = zip(q.split(step), ids.split(step))
    return torch.cat([similarity.pairwise(left.unsqueeze(1), _take(table, some)) for left, some in pairs])


def gradients(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [B, D] and [N, D] of `gathered` for grad [B, K]."""
    step = _piece(q, ids.shape[1])
    dtable, dq = torch.zeros_like(table), []
    for left, some, weight in zip(q.split(step), ids.split(step), grad.split(step)):
        with torch.enable_grad():
            left, c = left.detach().requires_grad_(), _take(table, some).detach().requires_grad_()
            score = similarity.pairwise(left.unsqueeze(1), c)
        to_left, to_c = torch.autograd.grad(score, (left, c), weight)
        dq.append(to_left)
        dtable.index_add_(0, some.reshape(-1), to_c.flatten(0, 1))
    return torch.cat(dq), dtable


def all_pairs(similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None, learns: bool) -> Tensor:
    """[Q, N] for q [Q, D], table [N, D], scale [Q, D]; where it learns, pieces are computed again on the way back."""
    if similarity.kind == "dot":
        return (q if scale is None else q * scale) @ table.T
    if scale is None and similarity.kind in ("l1", "l2") and (not learns or q.device.type == "cpu"):
        # On a GPU the gradient of cdist would build [Q, N, D].
        p = 1.0 if similarity.kind == "l1" else 2.0
        return (similarity.margin or 0.0) - torch.cdist(q, table, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    def score(left: Tensor, c: Tensor, factor: Tensor | None) -> Tensor:
        return similarity.pairwise(left.unsqueeze(1), c if factor is None else c * factor.unsqueeze(1))

    pieces = table.split(_piece(table, len(q)))
    if learns:
        return torch.cat([checkpoint(score, q, c, scale, use_reentrant=False) for c in pieces], dim=1)
    return torch.cat([score(q, c, scale) for c in pieces], dim=1)


def rank_counts(scores: Tensor, row: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `operators.rank_counts`."""
    own = scores[row, answer].unsqueeze(1)
    step = _piece(scores, 1)
    greater, equal, finite = [], [], []
    for some, value in zip(row.split(step), own.split(step)):
        block = scores.index_select(0, some)
        greater.append((block > value).sum(1))
        equal.append((block == value).sum(1))
        finite.append(block.isfinite().all())
    return torch.cat(greater), torch.cat(equal), torch.stack(finite).all()


def _take(table: Tensor, ids: Tensor) -> Tensor:
    # index_select is several times faster than table[ids] on a CPU.
    return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])


def _piece(x: Tensor, per_row: int) -> int:
    """How many rows of x [n, D], each meeting `per_row` others, the eager path takes at a time."""
    numbers = 1 << 18 if x.device.type == "cpu" else 1 << 26  # the fastest on a CPU (1 MiB); 256 MiB on a GPU
    return max(1, numbers // max(1, per_row * x.shape[1]))
