"""REINFORCE, shared by the samplers that learn which negatives to propose (`kbgan`, `igan`). Registers nothing.

The gradient of an expected reward under q is E[(reward - b) grad log q], for any baseline b that does not depend on the
draw (Williams, Machine Learning 1992). The K draws of a positive are independent, with replacement; their terms are
averaged (docs/notes/classic_samplers.md 5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MEMORY = 0.01  # weight of a batch in the running means
EPS = 1e-6


def choose(logits: Tensor, k: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """k columns of logits [B, C], drawn from the softmax of each row, and log q of each with its gradient; [B, k] both."""
    p = logits.softmax(1)
    # A single draw would take a path inside multinomial that waits for the device.
    chosen = torch.multinomial(p.detach(), max(k, 2), replacement=True, generator=rng)[:, :k]
    return chosen, p.gather(1, chosen).log()


def on_side(side: Tensor, propose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What `propose` gives for a side per row [B]; for a side per slot [B, K], slot by slot, what it gives for each end."""
    if side.dim() == 1:
        return propose(side)
    head = torch.ones_like(side[:, 0])
    (head_ids, head_log_q), (tail_ids, tail_log_q) = propose(head), propose(~head)
    return torch.where(side, head_ids, tail_ids), torch.where(side, head_log_q, tail_log_q)


def reinforce_loss(advantage: Tensor, log_q: Tensor, valid: Tensor | None) -> Tensor:
    """Minus the mean of advantage x log q, [B, K] each, over the valid draws; a scalar with gradients through log q."""
    return -mean_of(advantage.detach() * log_q, valid)


def mean_of(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of x over the valid entries."""
    return x.mean() if valid is None else (x * valid).sum() / valid.sum().clamp(min=1)


class Advantage(nn.Module):
    """Rewards minus a baseline, and over their running deviation from it where `normalise` says so.

    baseline: `running`, a decayed mean of the rewards before this batch; `epoch`, the mean of the previous pass over train
    and 0 during the first (as KBGAN was released); `none`, 0.
    """

    def __init__(self, baseline: str, normalise: bool = False) -> None:
        super().__init__()
        self.baseline = baseline
        self.normalise = normalise
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))  # False: mean and square hold nothing yet
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))  # running mean of the squared advantage
        self.register_buffer("pass_sum", torch.zeros((), dtype=torch.float64))  # of rewards since the pass began ...
        self.register_buffer("pass_count", torch.zeros((), dtype=torch.int64))  # ... and their number
        self.seen: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.pass_sum: Tensor
        self.pass_count: Tensor

    def start_pass(self) -> None:
        """Called before the first batch of each pass over train."""
        if self.baseline == "epoch":
            self.mean.copy_(self.pass_sum / self.pass_count.clamp(min=1))
            self.pass_sum.zero_()
            self.pass_count.zero_()

    @torch.no_grad()
    def forward(self, reward: Tensor, valid: Tensor | None) -> Tensor:
        """Advantages [B, K] of rewards [B, K], by what was known before them; then the rewards are taken in."""
        batch_mean = mean_of(reward, valid)
        mean = torch.where(self.seen, self.mean, batch_mean) if self.baseline == "running" else self.mean
        advantage = reward - mean
        batch_square = mean_of(advantage.square(), valid)
        square = torch.where(self.seen, self.square, batch_square)
        if self.normalise:
            advantage = advantage / (square.sqrt() + EPS)

        if self.baseline == "running":
            self.mean.copy_(torch.lerp(mean, batch_mean, MEMORY))
        elif self.baseline == "epoch":
            self.pass_sum += (reward if valid is None else reward * valid).sum()
            self.pass_count += reward.numel() if valid is None else valid.sum()
        self.square.copy_(torch.lerp(square, batch_square, MEMORY))
        self.seen.fill_(True)
        return advantage
