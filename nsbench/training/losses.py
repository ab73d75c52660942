"""The loss of the experiment, log-sigmoid with a penalty on the tables: the same for every sampler.

See docs/notes/classic_samplers.md section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Negatives, TrainGraph


def block_loss(s_pos: Tensor, s_neg: Tensor, block: Negatives, temperature: float, importance: Tensor | None) -> Tensor:
    """coef x half of (positive term + negative term), each a weighted mean over the batch; a scalar.

    s_pos [B], s_neg [B, K]. temperature > 0 weights the negatives of a row by softmax(temperature x logit), held constant
    (Sun et al., ICLR 2019, eq. 5); 0 takes their mean. importance [B]: subsampling weights, or None. A row without a
    valid negative counts for its positive alone.
    """
    logit = s_neg if block.margin_shift is None else s_neg + block.margin_shift
    negative = _reduce(-F.logsigmoid(-logit), logit.detach(), block, temperature)
    total = _average(negative, importance)
    if block.positive == "once":
        total = total + _average(-F.logsigmoid(s_pos), importance)
    elif block.positive == "per_negative":
        shifted = s_pos.unsqueeze(1) + (block.margin_shift if block.margin_shift is not None else torch.zeros_like(s_neg))
        terms = -F.logsigmoid(shifted)
        positive = terms.mean(1) if block.valid is None else (terms * block.valid).sum(1) / block.valid.sum(1).clamp(min=1)
        total = total + _average(positive, importance)
    return 0.5 * block.coef * total


def importance_of(graph: TrainGraph) -> Tensor:
    """[n] subsampling weight of each training triple, 1 / sqrt(c(h, r) + c(r, t)) with counters that start at 4.

    The word2vec-style weighting of the RotatE code base (docs/notes/classic_samplers.md section 3).
    """
    count = graph.key_count + 3
    return (count[graph.key_tail] + count[graph.key_head]).double().rsqrt().float()


@torch.no_grad()
def add_penalty_gradient(table: Tensor, coefficient: float, power: int) -> None:
    """Add the gradient of coefficient x sum |x|^power (2 or 3) to table.grad, in place.

    Nobody uses the penalty's value, and autograd would take six passes over the table. Power 3 on the full tables is the
    RotatE code base's regulariser (docs/notes/mmrns.md 2.3).
    """
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    if power == 3:
        table.grad.addcmul_(table.abs(), table, value=3 * coefficient)
    elif power == 2:
        table.grad.add_(table, alpha=2 * coefficient)
    else:
        raise ValueError(f"the power must be 2 or 3, not {power}")


def _reduce(terms: Tensor, logit: Tensor, block: Negatives, temperature: float) -> Tensor:
    """terms [B, K] -> [B]."""
    if block.reduce == "weighted":
        assert block.weight is not None
        weight = block.weight if block.valid is None else block.weight * block.valid
        return (weight * terms).sum(1) / terms.shape[1]
    if temperature > 0:
        scaled = temperature * logit
        if block.valid is not None:
            scaled = scaled.masked_fill(~block.valid, -torch.inf)
        weight = scaled.softmax(1)
        if block.valid is not None:
            weight = weight.nan_to_num(0.0)
        return (weight * terms).sum(1)
    if block.valid is None:
        return terms.mean(1)
    return (terms * block.valid).sum(1) / block.valid.sum(1).clamp(min=1)


def _average(rows: Tensor, importance: Tensor | None) -> Tensor:
    return rows.mean() if importance is None else (importance * rows).sum() / importance.sum()
