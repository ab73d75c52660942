"""What a sampler may see of the data: the training triples, and exact uniform draws around them.

Queries are numbered: key of (h, r, ?) is the rank of h*R + r among the training ones, and the keys of (?, r, t) follow.
One extra key, the last, stands for every query without a training answer (docs/notes/classic_samplers.md 0.1).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from nsbench.contracts.batch import Positives
from nsbench.kernels.operators import passed

MANY = 1.5  # mean answers per query from which an end of a relation counts as `n`


class NonPositives:
    """Uniform draws from an allowed set per key, minus the known positives of the key: exact, in one pass, no rejection.

    A draw takes a rank among the survivors and shifts it past the positives that lie before it
    (notes/classic_samplers.md 0.3). `key` and `rank` [P] list the positives: rank is the position of the positive inside
    its key's sorted allowed set. `size` [keys] counts the allowed set. Without `members` that set is all entities;
    else it is members[start[key] : start[key] + size[key]].
    """

    def __init__(
        self, key: Tensor, rank: Tensor, size: Tensor, members: Tensor | None = None, start: Tensor | None = None
    ) -> None:
        stride = int(size.max()) + 1  # keeps the searched values of different keys apart
        count = torch.bincount(key, minlength=len(size))
        code = (key * stride + rank).sort().values
        first = count.cumsum(0) - count
        inside = torch.arange(len(code), device=code.device) - first[code // stride]
        self.survivors_before = code - inside  # [P] non-decreasing; key * stride + survivors before the positive
        self.first = first
        self.free = size - count  # [keys] how many candidates are left
        self.stride = stride
        self.members = members
        self.start = start

    def draw(self, key: Tensor, k: int, rng: torch.Generator) -> Tensor:
        """[B, k] entities for key [B] or [B, k]. Where `free` is 0 there is nothing to draw: callers mark those rows."""
        key = key.unsqueeze(1) if key.dim() == 1 else key
        free = self.free[key]
        # float64: float32 cannot address every rank once there are 2**24, and is uneven well before
        u = torch.rand(len(key), k, generator=rng, device=key.device, dtype=torch.float64)
        return self.at(key, (u.mul_(free).long()).clamp_(max=free - 1).clamp_(min=0))

    def at(self, key: Tensor, u: Tensor) -> Tensor:
        """[B, k] the candidate that u [B, k] others precede, for key [B, 1] or [B, k]; 0 <= u < free[key]."""
        rank = u + passed(u, key, self.survivors_before, self.first, self.stride)
        rank.clamp_(max=self.stride - 2)  # past the end only where nothing is free
        if self.members is None:
            return rank
        assert self.start is not None
        return self.members[self.start[key] + rank.clamp_(max=len(self.members) - 1)].long()  # int32 saves memory


class TrainGraph:
    """The training triples on one device, with what every sampler shares. Contains nothing of valid and test."""

    def __init__(self, train: Tensor, num_entities: int, num_relations: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.num_entities = num_entities
        self.num_relations = num_relations
        self.triples = train.to(self.device)  # [n, 3] as trained on, duplicates included
        h, r, t = self.triples.unique(dim=0).unbind(1)
        self.codes = self.code(h, r, t).sort().values  # of the distinct facts
        self._tail_codes = (h * num_relations + r).unique()
        self._head_codes = (r * num_entities + t).unique()
        self.num_tail_keys = len(self._tail_codes)
        self.num_keys = self.num_tail_keys + len(self._head_codes)  # the key of unseen queries comes after these

        tail_key, head_key = self._keys(h, r, t)
        size = torch.full((self.num_keys + 1,), num_entities, device=self.device)
        self._answered, self._answer = torch.cat([tail_key, head_key]), torch.cat([t, h])  # each distinct fact, both ways
        self.non_positives = NonPositives(self._answered, self._answer, size)
        self.any_key_full = bool((self.non_positives.free <= 0).any())  # a query that every entity answers

        self.key_tail, self.key_head = self._keys(*self.triples.unbind(1))  # [n] each
        self.key_count = torch.bincount(  # [keys] training triples that answer the query
            torch.cat([self.key_tail, self.key_head]), minlength=self.num_keys + 1
        )
        self.heads_of = torch.bincount(self._tail_codes % num_relations, minlength=num_relations)  # [R] |H_r|
        self.tails_of = torch.bincount(self._head_codes // num_entities, minlength=num_relations)  # [R] |T_r|
        self.degree = torch.bincount(torch.cat([h, t]), minlength=num_entities)  # [N] distinct facts of the entity

    def __len__(self) -> int:
        return len(self.triples)

    def positives(self, rows: Tensor, side: Tensor | None = None) -> Positives:
        """The batch of training triples at `rows` [B]."""
        return Positives(self.triples[rows], rows, self.key_head[rows], self.key_tail[rows], side)

    def queries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Anchor, relation and side, [keys] each, of every query that has a training answer."""
        n, relations = self.num_entities, self.num_relations
        anchor = torch.cat([self._tail_codes // relations, self._head_codes % n])
        relation = torch.cat([self._tail_codes % relations, self._head_codes // n])
        side = torch.arange(self.num_keys, device=self.device) >= self.num_tail_keys
        return anchor, relation, side

    def answered(self) -> tuple[Tensor, Tensor]:
        """Keys and entities, [P] each: every query with each of its training answers, once."""
        return self._answered, self._answer

    def categories(self) -> list[str]:
        """Cardinality of each relation, [R]: `n` where the mean heads per tail (tails per head) is MANY or more.

        Bordes et al., NeurIPS 2013, section 4.3.
        """
        facts = torch.bincount((self.codes // self.num_entities) % self.num_relations, minlength=self.num_relations)
        tails_per_head = (facts / self.heads_of.clamp(min=1)).tolist()
        heads_per_tail = (facts / self.tails_of.clamp(min=1)).tolist()
        return [
            f"{'n' if heads >= MANY else '1'}-{'n' if tails >= MANY else '1'}"
            for heads, tails in zip(heads_per_tail, tails_per_head)
        ]

    def draw(self, key: Tensor, k: int, rng: torch.Generator) -> Tensor:
        """[B, k] entities, uniform over those that do not answer the query `key` [B] or [B, k] in train."""
        return self.non_positives.draw(key, k, rng)

    def drawable(self, key: Tensor, k: int) -> Tensor | None:
        """Which of the draws exist, bool [B, k]; None when all do, as in every dataset but toys."""
        if not self.any_key_full:
            return None
        key = key.unsqueeze(1) if key.dim() == 1 else key
        return (self.non_positives.free[key] > 0).expand(len(key), k)

    def code(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """One number per triple. Shapes broadcast."""
        return (h * self.num_relations + r) * self.num_entities + t

    def is_positive(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """bool: the triple is a training fact. Shapes broadcast."""
        code = self.code(h, r, t)
        at = torch.searchsorted(self.codes, code).clamp_(max=len(self.codes) - 1)
        return self.codes[at] == code

    def answers(self, key: Tensor, among: Tensor | None = None) -> Tensor:
        """bool [B, N]: which entities answer the query `key` [B] in train; or [B, M], which of M different ones, `among`.

        Every training answer is written to its query's row of a table that holds the asked queries alone, and the others'
        to a last row: shapes do not depend on the data, and nothing is stored between calls.
        """
        asked = torch.arange(len(key), device=key.device)
        row = torch.full((self.num_keys + 1,), len(key), device=key.device)
        row.scatter_reduce_(0, key, asked, "amin")  # a query that is asked twice is written once
        column, width = self._answer, self.num_entities
        if among is not None:  # the last column is for all others
            width = len(among) + 1
            place = torch.full((self.num_entities,), width - 1, device=key.device)
            column = place.scatter_(0, among, torch.arange(width - 1, device=key.device))[column]
        table = torch.zeros(len(key) + 1, width, dtype=torch.bool, device=key.device)
        table.view(-1).index_fill_(0, row[self._answered] * width + column, True)
        return table.index_select(0, row[key])[:, : None if among is None else -1]

    def answer_lists(self, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same as lists: the answers of key [B] are entities[start : start + count], for start and count [B]."""
        pool = self.non_positives
        return pool.first[key], self.num_entities - pool.free[key], self._answers_in_order

    @functools.cached_property
    def _answers_in_order(self) -> Tensor:
        """Each distinct fact's answer, by query and entity; for who asks, for it takes a sort."""
        return (self._answered * self.num_entities + self._answer).sort().values % self.num_entities

    def key_of(self, anchor: Tensor, relation: Tensor, side: Tensor) -> Tensor:
        """Keys of arbitrary queries; those without a training answer share the last key."""
        head = find(self._head_codes, relation * self.num_entities + anchor)
        tail = find(self._tail_codes, anchor * self.num_relations + relation)
        unseen = torch.full_like(anchor, self.num_keys)
        head = torch.where(head >= 0, head + self.num_tail_keys, unseen)
        return torch.where(side, head, torch.where(tail >= 0, tail, unseen))

    def _keys(self, h: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        tail = torch.searchsorted(self._tail_codes, h * self.num_relations + r)
        head = torch.searchsorted(self._head_codes, r * self.num_entities + t) + self.num_tail_keys
        return tail, head


def find(codes: Tensor, wanted: Tensor) -> Tensor:
    """Positions of `wanted` in sorted `codes`, -1 where absent."""
    at = torch.searchsorted(codes, wanted).clamp_(max=len(codes) - 1)
    return torch.where(codes[at] == wanted, at, torch.full_like(at, -1))
