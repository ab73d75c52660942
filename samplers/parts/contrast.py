"""What MMRNS learns from (eqs. 8 to 11): known answers of a query in contrast to its negatives. Registers nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsbench.contracts import TrainGraph

DELTA = 1e-10  # keeps eq. 8 finite, as released


@dataclass(eq=False)
class Component:
    """Cosines of each row's true answer, and who has the modality (None: everybody)."""

    near: Tensor  # [B, N] to the candidates
    own: Tensor  # [B] to itself
    other: Tensor  # [M] to other answers of its row
    has_candidate: Tensor | None = None  # bool [N]
    has_anchor: Tensor | None = None  # bool [B]
    has_other: Tensor | None = None  # bool [M]


@dataclass(eq=False)
class Others:
    """Known answers of the batch's queries beside the true ones, listed."""

    row: Tensor  # int64 [M] of the batch
    entity: Tensor  # int64 [M]
    live: Tensor  # bool [M]; False: filled up


@dataclass(eq=False)
class Tape:
    components: list[Component]
    known: Tensor  # bool [B, N]
    index: Tensor  # int64 [B, K] of the candidates
    others: Others


def cosine(product: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Eq. 8 from the product of two vectors and their norms, which are broadcast."""
    return product / (x * y + DELTA)


def contrast(tape: Tape, p: Tensor, entities: int) -> tuple[Tensor, Tensor]:
    """Eqs. 9 to 11: the mean over rows, of each the mean over its components; and the share of sums that are empty.

    A drawn negative weighs its p [B, K], every other entity 1 / entities. A row without answers or negatives counts 0.
    """
    unit, others = 1 / entities, tape.others
    loss, kept, empty = [], [], []
    for c, negative in zip(tape.components, of_negatives(tape, p, unit)):
        other = c.other.exp() * (others.live if c.has_other is None else others.live & c.has_other)
        answer = unit * c.own.exp().index_add(0, others.row, other)
        there = (answer > 0) & (negative > 0)
        has = torch.ones_like(there) if c.has_anchor is None else c.has_anchor
        kept.append(has & there)
        empty.append((has & ~there).double().mean())
        loss.append(log_ratio(answer, negative, kept[-1]))
    count = torch.stack(kept).sum(0)
    return (torch.stack(loss).sum(0) / count.clamp(min=1)).mean(), torch.stack(empty).mean()


def of_negatives(tape: Tape, drawn: Tensor, unit: float) -> list[Tensor]:
    """Eq. 10's denominator, [B] for each component: `drawn` [B, K] are the drawn negatives' weights, unit the others'."""
    rest = ~tape.known.scatter(1, tape.index, True)
    sums = []
    for c in tape.components:
        e = c.near.exp() if c.has_candidate is None else c.near.exp() * c.has_candidate
        sums.append(unit * (e * rest).sum(1) + (drawn * e.gather(1, tape.index)).sum(1))
    return sums


def log_ratio(answer: Tensor, negative: Tensor, there: Tensor) -> Tensor:
    """-log(answer / negative) where both are there, else 0, without nan in the gradient."""
    return negative.where(there, 1.0).log() - answer.where(there, 1.0).log()


class Answers(nn.Module):
    """The training answers of every query, to be listed."""

    def __init__(self, graph: TrainGraph) -> None:
        super().__init__()
        key, entity = graph.answered()
        self.n = graph.num_entities
        self.register_buffer("codes", (key * self.n + entity).sort().values, persistent=False)  # [P]
        self.codes: Tensor
        self.of_key = graph.non_positives  # where the answers of a key begin, and how many entities are none

    def others(self, key: Tensor, entity: Tensor, most: int, rng: torch.Generator) -> Others:
        """At most `most` answers of each query key [B] other than entity [B], uniform without replacement (Floyd, 1987)."""
        free = self.n - self.of_key.free[key] - 1
        u = torch.rand(most, len(key), generator=rng, device=key.device, dtype=torch.float64)
        picks = torch.full((most, len(key)), -1, device=key.device)
        for i in range(most):
            last = free - most + i  # of the ranks open to this draw; a row with few answers takes them all in order
            at = (u[i] * (last + 1)).long()
            at = last.where((picks == at).any(0), at)
            picks[i] = at.where(free > most, i)
        live = torch.arange(most, device=key.device).unsqueeze(1) < free
        first = self.of_key.first[key]
        own = torch.searchsorted(self.codes, key * self.n + entity) - first
        place = (first + picks + (picks >= own)).clamp_(min=0, max=len(self.codes) - 1)
        row = torch.arange(len(key), device=key.device).expand(most, -1)

        total = live.sum()
        size = size_of(total, live.numel())
        slot = (live.flatten().cumsum(0) - 1).where(live.flatten(), size)
        place, row = (key.new_zeros(size + 1).scatter_(0, slot, x.flatten())[:size] for x in (place, row))
        return Others(row, self.codes[place] % self.n, torch.arange(size, device=key.device) < total)


def size_of(count: Tensor, bound: int) -> int:
    """How many places to provide for `count` things: on a CPU as many; a GPU must not be asked, so the most there can be."""
    # numpy, because on a CPU this waits for nothing, but int(count) looks like a wait to nsbench.testing.SyncWatch
    return int(count.numpy()) if count.device.type == "cpu" else bound
