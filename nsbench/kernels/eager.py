"""The kernels in plain torch, for every device and type: the similarity's own formula in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Formula(Protocol):
    """What the kernels need to know of a similarity."""

    kind: str | None  # one of KINDS; None: eager only
    margin: float | None
    form: str | None  # one of FORMS, of those without a kind
    size: int  # numbers in a block

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor: ...


def gathered(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None = None) -> Tensor:
    """[B, K] for q and scale [B, D], table [N, D], ids [B, K]."""
    step = _piece(q, ids.shape[1])
    pieces = zip(q.split(step), _split(scale, step, q), ids.split(step))
    return torch.cat([_against(similarity, left, _take(table, some), factor) for left, factor, some in pieces])


def gradients(
    similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, grad: Tensor, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `gathered` for grad [B, K], for q, table and scale."""
    step = _piece(q, ids.shape[1])
    dtable, found = torch.zeros_like(table), list[tuple[Tensor, ...]]()
    for left, factor, some, weight in zip(q.split(step), _split(scale, step, q), ids.split(step), grad.split(step)):
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (_take(table, some), left, factor) if x is not None]
            score = _against(similarity, inputs[1], inputs[0], *inputs[2:])
        to_c, *others = torch.autograd.grad(score, inputs, weight)
        found.append(tuple(others))
        dtable.index_add_(0, some.reshape(-1), to_c.flatten(0, 1))
    dq, *dscale = (torch.cat(parts) for parts in zip(*found))
    return dq, dtable, dscale[0] if dscale else None


def each_gradient(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, grad: Tensor) -> Tensor:
    """[B, K, D]: the gradients of `gathered` for grad [B, K] with respect to the rows that ids name, one by one."""
    found: list[Tensor] = []
    step = _piece(q, ids.shape[1])
    for left, some, weight in zip(q.split(step), ids.split(step), grad.split(step)):
        with torch.enable_grad():
            c = _take(table, some).detach().requires_grad_()
            score = similarity.pairwise(left.detach().unsqueeze(1), c)
        found += torch.autograd.grad(score, c, weight)
    return torch.cat(found)


def all_pairs(similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None, learns: bool) -> Tensor:
    """[Q, N] for q [Q, D], table [N, D], scale [Q, D]; where it learns, pieces are computed again on the way back."""
    if similarity.kind == "dot":
        return (q if scale is None else q * scale) @ table.T
    if scale is None and similarity.kind in ("l1", "l2") and (not learns or q.device.type == "cpu"):
        # On a GPU the gradient of cdist would build [Q, N, D].
        p = 1.0 if similarity.kind == "l1" else 2.0
        return (similarity.margin or 0.0) - torch.cdist(q, table, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    pieces = table.split(_piece(table, len(q)))
    if learns:
        return torch.cat([checkpoint(_against, similarity, q, c, scale, use_reentrant=False) for c in pieces], dim=1)
    return torch.cat([_against(similarity, q, c, scale) for c in pieces], dim=1)


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


def keep_largest(ids: Tensor, score: Tensor, u: Tensor, k: int, tau: float, once: bool) -> Tensor:
    """As `operators.keep_largest`."""
    value = score
    if tau > 0:  # u is moved off 0 and 1, by half of its own step
        value = score - tau * (u * (1 - 2.0**-24) + 2.0**-25).log_().neg_().log_()
    if once:
        ordered, place = ids.sort(dim=1, stable=True)
        again = torch.zeros_like(ids, dtype=torch.bool)
        again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        value = value.masked_fill(again.gather(1, place.argsort(1)), -torch.inf)
    return ids.gather(1, value.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values).int()


def _against(similarity: Formula, q: Tensor, c: Tensor, scale: Tensor | None = None) -> Tensor:
    """[B, K] of q [B, D] against c [B, K, D] or [K, D], times scale [B, D]."""
    return similarity.pairwise(q.unsqueeze(1), c if scale is None else c * scale.unsqueeze(1))


def _split(scale: Tensor | None, step: int, like: Tensor) -> Sequence[Tensor | None]:
    return [None] * -(-len(like) // step) if scale is None else scale.split(step)


def _take(table: Tensor, ids: Tensor) -> Tensor:
    # index_select is several times faster than table[ids] on a CPU.
    return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])


def _piece(x: Tensor, per_row: int) -> int:
    """How many rows of x [n, D], each meeting `per_row` others, the eager path takes at a time."""
    numbers = 1 << 18 if x.device.type == "cpu" else 1 << 26  # the fastest on a CPU (1 MiB); 256 MiB on a GPU
    return max(1, numbers // max(1, per_row * x.shape[1]))
