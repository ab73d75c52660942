"""One-versus-all: every entity is compared with the positive, no negative is drawn. The reference row of a table.

loss=softmax, for each of the two queries of (h, r, t), is the cross-entropy of the true entity among all of them (Lacroix et
al., ICML 2018): -log of exp s(t) / sum_e exp s(e), averaged over the batch and the two sides. loss=logistic is
-log sigmoid s(t) / 2 - mean_e log sigmoid(-s(e)) / 2, mean over the negatives e: the expectation of the benchmark's own
loss under `uniform`, so its distance to that row is what the sampling noise costs.

`recommended` leaves the other known answers of a query out, as every filtered sampler does; the published loss counts
them as negatives (variant `paper`). It also asks for heads through reciprocal relations, here through the model's own
head query. Both sides enter at every step, whatever the protocol says about sides. Subsampling weights and the
self-adversarial temperature do not apply. Answers are known from train alone.
Cost per step: 2 B N scores and their gradients. A PIECE of the batch is scored and differentiated at a time, so that
memory holds [PIECE, N] tensors in place of [B, N] ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsbench.contracts import Objective, Positives, Scoring, View
from nsbench.kernels import operators as kernels
from nsbench.registry import SAMPLERS, option

PIECE = 256  # queries


@SAMPLERS.register("one_vs_all")
class OneVsAll(Objective):
    every_entity = True

    @dataclass(frozen=True)
    class Options:
        loss: str = option("softmax", "softmax over all entities, or logistic on each", choices=("softmax", "logistic"))
        filtered: bool = option(True, "leave the other known answers of a query out")

    variants = {"paper": {"filtered": False}}

    def loss(self, positives: Positives, scoring: Scoring, view: View) -> Tensor:
        """Mean over the batch and both sides."""
        names = list(scoring.tables)

        def losses(relation: Tensor, *tables: Tensor) -> Iterator[Tensor]:
            of_leaves = copy.copy(scoring)
            of_leaves.tables, of_leaves.relation = dict(zip(names, tables)), relation
            for rows in positives.rows.split(PIECE):
                piece, share = view.graph.positives(rows), len(rows) / len(positives)
                head = torch.ones_like(piece.h, dtype=torch.bool)
                for side in (head, ~head):
                    yield share / 2 * self._one_side(piece, side, of_leaves, view)

        return _Summed.apply(losses, scoring.relation, *scoring.tables.values())

    def _one_side(self, positives: Positives, side: Tensor, scoring: Scoring, view: View) -> Tensor:
        score = scoring.all(positives.anchor(side), positives.r, side)  # [B, N]
        answer, key = positives.answer(side), positives.key(side)
        if not self.options.filtered:
            key = torch.full_like(key, view.graph.num_keys)  # of queries that train does not answer
        if self.options.loss == "softmax" and kernels.serve(score):
            return kernels.cross_entropy(score, answer, view.graph.answer_lists(key))
        if self.options.filtered:
            known = view.graph.answers(key)
        else:
            known = torch.zeros_like(score, dtype=torch.bool).scatter_(1, answer.unsqueeze(1), True)
        return (softmax_loss if self.options.loss == "softmax" else logistic_loss)(score, answer, known)


class _Summed(torch.autograd.Function):
    """The sum of what `losses(relation, *tables)` yields, each differentiated before the next is made."""

    @staticmethod
    def forward(ctx: Any, losses: Callable[..., Iterator[Tensor]], *leaves: Tensor) -> Tensor:
        leaves = tuple(x.detach().requires_grad_() for x in leaves)
        total = leaves[0].new_zeros(())
        with torch.enable_grad():
            for loss in losses(*leaves):
                loss.backward()
                total += loss.detach()
        ctx.save_for_backward(*(x.grad for x in leaves))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(grad * x for x in ctx.saved_tensors)


def softmax_loss(score: Tensor, answer: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy of answer [B] under score [B, N], among itself and the entities that are not `known` [B, N]."""
    others = known.scatter(1, answer.unsqueeze(1), False)
    return F.cross_entropy(score.masked_fill(others, -torch.inf), answer)


def logistic_loss(score: Tensor, answer: Tensor, known: Tensor) -> Tensor:
    """Half of the positive term plus half of the mean negative term, as in training; a row without negatives has none."""
    positive = F.softplus(-score.gather(1, answer.unsqueeze(1))).mean()
    negative = F.softplus(score).masked_fill(known, 0.0).sum(1) / (~known).sum(1).clamp(min=1)
    return (positive + negative.mean()) / 2
