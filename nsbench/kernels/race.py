"""Draws without replacement from rows of probabilities, and the soft rows behind them (eq. 13 of MMRNS).

A draw is a race: every candidate c left has a unit exponential E_c, fresh for each draw, and the largest p_c / E_c wins.
That is the largest log p_c + Gumbel noise, and the softmax y of those sums is p / E over its sum.

On a CPU the noise is a function of seed, place and candidate: Threefry-2x32 of 13 rounds (Salmon et al., SC 2011). So the
compiled kernels (`race` in kernels.cpp) never hold the K softmaxes [B, K, N]; they compute them again for the gradient. The
eager path draws the same, up to rounding; on a GPU it takes torch's generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsbench.kernels import native

NOBODY = -5e8  # candidates of this log-probability or less are never drawn
PIECE = 1 << 18  # numbers of [rows, K, N] that the gradient holds at a time; on a GPU 256 times as many
WORD = 0xFFFFFFFF
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


@dataclass(eq=False)
class Draws:
    index: Tensor  # int64 [B, K] of the N columns; 0 where nothing was left
    free: Tensor  # bool [B, K]: something was left
    pulled: Callable[[int, Tensor], Tensor]  # first row, pull [b, K, N] -> [b, N]: sum over K of y (pull - sum_c y pull)


@torch.no_grad()
def race(log_p: Tensor, known: Tensor, k: int, rng: torch.Generator) -> Draws:
    """k draws from each row of log_p [B, N], of columns that are not known [B, N]; log_p need not be normalised."""
    log_p, known = log_p.contiguous(), known.contiguous()
    if log_p.device.type != "cpu":
        noise = log_p.new_empty(len(log_p), k, log_p.shape[1]).uniform_(generator=rng)
        return raced(log_p, known, noise.neg_().log1p_().neg_().clamp_min_(2.0**-25))
    seed = int(torch.randint(2**63 - 1, (), generator=rng).numpy())
    library = native.library_for(log_p)
    if library is None:
        places = torch.arange(len(log_p) * k)
        return raced(log_p, known, exponentials(seed, places, log_p.shape[1]).view(len(log_p), k, -1).to(log_p.dtype))
    index, free = native.race(library, log_p, known, seed, k, NOBODY)
    return Draws(index, free, lambda at, pull: native.raced_back(library, log_p, known, seed, index, pull, at, NOBODY))


def raced(log_p: Tensor, known: Tensor, noise: Tensor) -> Draws:
    """The draws that exponentials [B, K, N] lead to."""
    left = log_p.masked_fill(known, 2 * NOBODY)
    index, free, soft = [], [], []
    for one in noise.log().unbind(1):
        v = left - one
        best = v.argmax(1, keepdim=True)
        free.append(left.gather(1, best) > NOBODY)
        index.append(best * free[-1])
        soft.append(v.softmax(1) * free[-1])
        left = left.scatter(1, best, 2 * NOBODY)
    y = torch.stack(soft, dim=1)

    def pulled(first: int, pull: Tensor) -> Tensor:
        some = y[first : first + len(pull)]
        return (some * (pull - (some * pull).sum(2, keepdim=True))).sum(1)

    return Draws(torch.cat(index, dim=1), torch.cat(free, dim=1), pulled)


def exponentials(seed: int, places: Tensor, n: int) -> Tensor:
    """float32 [M, n] of unit exponentials for places [M]: a call of Threefry for columns j and j + ceil(n / 2)."""
    key = [seed & WORD, seed >> 32]
    key.append(0x1BD11BDA ^ key[0] ^ key[1])
    x = (torch.arange((n + 1) // 2) + key[0]).expand(len(places), -1)
    y = (places + key[1]).unsqueeze(1)
    for i in range(13):
        x = (x + y) & WORD
        by = ROTATIONS[i % 8]
        y = ((y << by | (y & WORD) >> (32 - by)) & WORD) ^ x
        if i % 4 == 3:
            x = x + key[(i // 4 + 1) % 3]
            y = y + key[(i // 4 + 2) % 3] + i // 4 + 1
    words = torch.cat([x & WORD, y & WORD], dim=1)[:, :n]
    return (((1 << 24) - (words >> 8)) * 2.0**-24).float().log().neg().clamp_min(2.0**-25)


class SoftRows(torch.autograd.Function):
    """Zeros [B, K, D] with the gradient of factor x sum_c y_c e_c into the log-probabilities behind the softmaxes y."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, draws: Draws, table: Tensor, factor: float) -> Tensor:
        """log_p [B, N], from which the draws are; table [N, D], a constant."""
        ctx.save_for_backward(table)
        ctx.draws, ctx.factor = draws, factor
        return log_p.new_zeros(()).expand(*draws.index.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (table,) = ctx.saved_tensors
        step = max(1, PIECE * (1 if grad.device.type == "cpu" else 256) // (grad.shape[1] * len(table)))
        pieces = enumerate(grad.split(step))
        to_log_p = torch.cat([ctx.draws.pulled(i * step, some @ table.T) for i, some in pieces])
        return ctx.factor * to_log_p, None, None, None
