"""GC-OTE (Tang et al., ACL 2020): relations are orthogonal maps of blocks; entities are compared with their neighbours too.

Vectors of d numbers consist of G = d / b blocks, number j of block g at place j G + g; a relation has a b x b matrix for
each block, made orthogonal by Gram-Schmidt of its rows. With B(x) the sum of the blocks' lengths and x M the product block
by block:

    context none       f = gamma - B(h M - t)                                                              (OTE)
    mean, attention    f = gamma - 1/4 [ B(h M - t) + B(h M - in(t)) + B(t M^T - h) + B(t M^T - out(h)) ]
    in(t)  = (t + sum over facts (h', r', t) of h' M_r') / (1 + their number)
    out(h) = (h + sum over facts (h, r', t') of t' M_r'^T) / (1 + their number)

M keeps lengths, so B(t M^T - h) = B(h M - t), and all four are one distance of vectors twice as wide: [h | out(h)] for an
entity as head, [t | in(t)] as tail. `attention` weighs the sum by a softmax of <entity, message> / sqrt(d), the entity
itself among the messages. Facts that a step predicts have no part in it. b = 2 is RotatE's distance, b = 1 L1.

Departures: no scale per coordinate, whose inverse the paper and its code do not have; matrices start as normal numbers,
which makes random rotations of them (the code: uniform in [0, 1), whose first rows all point alike); no dummy neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import KGE, Need, TrainGraph
from nsbench.errors import Misuse
from nsbench.kernels.operators import rows
from nsbench.kge.similarity import Blocks
from nsbench.registry import MODELS, option


@MODELS.register("gcote")
class GCOTE(KGE):
    version = 1

    @dataclass(frozen=True)
    class Options:
        size: int = option(4, "b, numbers in a block; it divides the width", minimum=1, search=(2, 4, 8, 20))
        context: str = option(
            "mean", "of an entity, from its facts; none: OTE", choices=("mean", "attention", "none"), search=("mean", "none")
        )

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.relation = nn.Parameter(torch.randn(num_relations, width * options.size, generator=rng))
        self.roles = options.context != "none"
        self.similarity = Blocks(margin, options.size, self.roles)
        self._keys: _Keys | None = None

    @classmethod
    def check(cls, options: Any, width: int) -> None:
        if width % options.size:
            raise Misuse(f"kge.size {options.size} does not divide protocol.width {width}; set one of them so that it does")

    @classmethod
    def provided(cls, options: Any) -> frozenset[Need]:
        return super().provided(options) - (set() if options.context == "none" else {Need.ALONE})

    def prepared(self, relation: Tensor) -> Tensor:
        """Orthogonal matrices [R, d b] of free ones: number (i, j) of block g at place (i b + j) G + g."""
        free = self._matrices(relation).movedim(-1, 1)  # [R, G, b, b]
        q, triangle = torch.linalg.qr(free.mT)  # Gram-Schmidt of the rows, once the triangle's diagonal is positive
        q = q * torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype).unsqueeze(-2)
        return q.mT.movedim(1, -1).reshape(relation.shape)

    def scored(self, x: Tensor) -> Tensor:
        """[x | x] [..., 2d] where there are contexts: a vector without neighbours is its own context."""
        return torch.cat([x, x], dim=-1) if self.roles else x

    def encode(self, table: Tensor, relation: Tensor, graph: TrainGraph, absent: Tensor | None) -> Tensor:
        """[2N, 2d]: every entity with its context as head, then as tail."""
        if not self.roles:
            return table
        if self._keys is None or self._keys.graph is not graph:
            self._keys = _Keys(graph)
        message = self._keys.messages(table, self._matrices(relation))  # [keys, d]
        weight = torch.ones(len(graph), dtype=table.dtype, device=table.device)
        if absent is not None:
            weight = weight.index_fill(0, absent, 0.0)
        h, _, t = graph.triples.unbind(1)
        context = [self._context(table, message, *facts, weight) for facts in ((h, graph.key_head), (t, graph.key_tail))]
        return torch.cat([torch.cat([table, y], dim=1) for y in context])

    def _context(self, table: Tensor, message: Tensor, entity: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        """[N, d] of table [N, d]: entity [n] gets message[key[n]] with weight [n], and its own vector with weight 1."""
        own, sent = torch.ones_like(table[:, 0]), rows(message, key)
        if self.options.context == "attention":
            root = table.shape[1] ** 0.5
            logit = (rows(table, entity) * sent).sum(1) / root
            to_self = table.square().sum(1) / root
            most = to_self.detach().scatter_reduce(0, entity, logit.detach(), "amax")  # keeps exponents at 0 or below
            weight = weight * (logit - most[entity]).exp()
            own = (to_self - most).exp()
        total = own.index_add(0, entity, weight)
        summed = (table * own.unsqueeze(1)).index_add(0, entity, sent * weight.unsqueeze(1))
        return summed / total.unsqueeze(1)

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e M for a replaced tail, e M^T for a replaced head, of each d numbers in e [..., d or 2d]; r [..., d b]."""
        matrix, flag = self._matrices(r), side.view(*side.shape, *[1] * (e.dim() + 2 - side.dim()))
        matrix = torch.where(flag, matrix.transpose(-3, -2), matrix)
        parts = e.unflatten(-1, (-1, self.options.size, self.width // self.options.size))
        return (parts.unsqueeze(-2) * matrix.unsqueeze(-4)).sum(-3).flatten(-3)

    def _matrices(self, relation: Tensor) -> Tensor:
        """[..., b, b, G] of [..., d b]."""
        size = self.options.size
        return relation.unflatten(-1, (size, size, self.width // size))


class _Keys:
    """The queries that train answers, in the order of their maps, for one product per map instead of a matrix per query."""

    def __init__(self, graph: TrainGraph) -> None:
        self.graph = graph
        anchor, relation, side = graph.queries()
        order = (side * graph.num_relations + relation).argsort(stable=True)
        self.anchor, self.back = anchor[order], order.argsort()
        count = torch.bincount(side * graph.num_relations + relation, minlength=2 * graph.num_relations).tolist()
        self.counts = [(n, i % graph.num_relations, i >= graph.num_relations) for i, n in enumerate(count) if n]

    def messages(self, table: Tensor, matrices: Tensor) -> Tensor:
        """[keys, d]: e M for a query (e, r, ?), e M^T for (?, r, e); table [N, d], matrices [R, b, b, G]."""
        size, blocks = matrices.shape[-2:]
        made = []
        for e, (_, r, head) in zip(rows(table, self.anchor).split([n for n, _, _ in self.counts]), self.counts):
            matrix = matrices[r].permute(2, 0, 1)  # [G, b, b]
            moved = torch.bmm(e.view(-1, size, blocks).permute(2, 0, 1), matrix.mT if head else matrix)
            made.append(moved.permute(1, 2, 0).flatten(1))
        return rows(torch.cat(made), self.back)
