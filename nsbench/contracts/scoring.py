"""From ids, or generated vectors, to scores: a model, a fusion, and the entity tables of one step."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts.batch import Negatives, Positives
from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.model import KGE, Fusion, Pair
from nsbench.kernels import operators as kernels
from nsbench.kernels.operators import distinct, rows, rows_and_table, straight_through


class Scoring:
    """One state of the model. Make a new one after each optimiser step: the fused tables are computed once.

    live=False takes every table out of the graph: nothing scored through it can reach the model's gradients. few=True
    fuses the entities that are asked for, each time, and all of them only for who asks for `tables`.
    """

    def __init__(
        self,
        kge: KGE,
        fusion: Fusion,
        graph: TrainGraph,
        live: bool = True,
        few: bool = False,
        absent: Tensor | None = None,
    ) -> None:
        """absent: the training rows [B] that are being predicted, which no encoder may see; None outside of training."""
        self.kge = kge
        self.fusion = fusion
        self.few = few and type(kge).encode is KGE.encode and type(fusion).some is not Fusion.some
        with torch.set_grad_enabled(live and torch.is_grad_enabled()):
            self.relation: Tensor = kge.prepared(kge.relation)
        self.pairs = fusion.pairs(["fused"]) if self.few else []
        self._graph, self._absent = graph, absent
        self._tables = None if self.few else self._whole(live)
        self.entity: Tensor = kge.entity
        self.live = live
        if not live:
            self._detach()

    @property
    def tables(self) -> dict[str, Tensor]:
        """View -> [N, W], or [2N, W] of models that encode an entity at both ends."""
        if self._tables is None:
            self._tables = self._whole(self.live)
        return self._tables

    @tables.setter
    def tables(self, tables: dict[str, Tensor]) -> None:
        self._tables, self.few = tables, False

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the tables."""
        return ("fused",) if self.few else tuple(self.tables)

    def _whole(self, live: bool) -> dict[str, Tensor]:
        with torch.set_grad_enabled(live and torch.is_grad_enabled()):
            views = self.fusion.views(self.kge.entity)
            self.pairs = self.fusion.pairs(list(views))
            plain = {view for pair in self.pairs if pair.plain for view in (pair.kept, pair.candidate)}
            encoded = {
                name: self.kge.encode(views[name], self.relation, self._graph, self._absent) for name in views.keys() - plain
            }
            return {name: encoded.get(name, table) for name, table in views.items()}

    def detached(self) -> Scoring:
        """The same state without gradients; shares the tables, computes nothing."""
        other = copy.copy(self)
        other._detach()
        return other

    def _detach(self) -> None:
        self.live = False
        if self._tables is not None:
            self._tables = {name: table.detach() for name, table in self._tables.items()}
        self.entity, self.relation = self.entity.detach(), self.relation.detach()

    def block(self, positives: Positives, block: Negatives) -> tuple[Tensor, Tensor]:
        """s_pos [B] and s_neg [B, K] for one block of negatives."""
        side = block.side
        if side.dim() == 2:  # a side per slot: the positive is scored as a tail query
            tail = torch.zeros_like(side[:, 0])
            s_pos = self.ids(positives.h, positives.r, tail, positives.t.unsqueeze(1)).squeeze(1)
            return s_pos, torch.where(side, self._one_side(positives, block, ~tail), self._one_side(positives, block, tail))
        given = block.view_ids if block.ids is None else dict.fromkeys(self.views, block.ids)
        if given is not None:  # one kernel call for the positive and its negatives
            answer = positives.answer(side).unsqueeze(1)
            ids = {view: torch.cat([answer, others], dim=1) for view, others in given.items()}
            scores = sum_of(self.view_pairs(positives.anchor(side), positives.r, side, ids, block.delta))
            return scores[:, 0], scores[:, 1:]
        s_pos = self.ids(positives.anchor(side), positives.r, side, positives.answer(side).unsqueeze(1)).squeeze(1)
        return s_pos, self._one_side(positives, block, side)

    def ids(self, anchor: Tensor, relation: Tensor, side: Tensor, ids: Tensor) -> Tensor:
        """Scores [B, M] of candidates ids [B, M] for queries (anchor, relation, side), each [B]."""
        return sum_of(self.view_pairs(anchor, relation, side, dict.fromkeys(self.views, ids)))

    def view_pairs(
        self, anchor: Tensor, relation: Tensor, side: Tensor, ids: Mapping[str, Tensor], delta: Tensor | None = None
    ) -> dict[tuple[str, str], Tensor]:
        """[B, M] for each pair (view of the kept end, view of the candidate), weighted: their sum is the score.

        `delta` [B, K, D] is of the last K.
        """
        scored = [pair for pair in self.pairs if not pair.plain]
        if delta is not None and len(scored) > 1:
            raise ValueError("vectors and delta are defined for fusions with one view of an entity")
        if self.few:
            ((view, candidates),) = ids.items()
            table, places = self._some(torch.cat([anchor.unsqueeze(1), candidates], dim=1))
            tables, anchor, ids = {view: table}, places[:, 0], {view: places[:, 1:]}
        else:
            tables = self.tables
        r = self.relations(relation)
        scale = self.kge.scale(r, side)
        queries, scores = {}, {}
        for pair in self.pairs:
            other, asked = tables[pair.candidate], ids[pair.candidate]
            if pair.plain:
                score = kernels.gathered(PLAIN, rows(tables[pair.kept], anchor), other, asked)
            else:
                if pair.kept not in queries:
                    e, itself = rows_and_table(tables[pair.kept], self._standing(anchor, side))
                    queries[pair.kept] = self.kge.query(e, r, side), itself
                q, itself = queries[pair.kept]
                asked = self._standing(asked, ~side.unsqueeze(1))
                candidates = itself if pair.candidate == pair.kept else other
                if delta is not None and scale is not None:
                    score = self._moved(q, rows(candidates, asked), scale, delta)
                else:
                    score = self.kge.similarity.gathered(q, candidates, asked, *(() if scale is None else (scale,)))
                    if delta is not None:
                        own = asked[:, -delta.shape[1] :]
                        padded = F.pad(delta, (0, other.shape[1] - delta.shape[2]))  # contexts are not moved
                        zeros = straight_through(self.kge.similarity, q, other, own, padded)
                        score = score + F.pad(zeros, (asked.shape[1] - own.shape[1], 0))
            scores[pair.kept, pair.candidate] = weighted(score, pair, relation)
        return scores

    def _moved(self, q: Tensor, c: Tensor, scale: Tensor, delta: Tensor) -> Tensor:
        """[B, M] of candidates c [B, M, D], of which the last K are moved by delta [B, K, D], and then scaled [B, D]."""
        c = c + F.pad(delta, (0, 0, c.shape[1] - delta.shape[1], 0))
        return self.kge.similarity.pairwise(q.unsqueeze(1), c * scale.unsqueeze(1))

    def all(self, anchor: Tensor, relation: Tensor, side: Tensor) -> Tensor:
        """Scores [Q, N] of every entity for queries (anchor, relation, side), each [Q]."""
        tables = self.tables
        r = self.relations(relation)
        scale = self.kge.scale(r, side)
        queries: dict[str, tuple[Tensor, Tensor]] = {}
        total: Tensor | None = None
        for pair in self.pairs:
            if pair.plain:
                score = rows(tables[pair.kept], anchor) @ tables[pair.candidate].T
            else:
                if pair.kept not in queries:
                    e, itself = rows_and_table(tables[pair.kept], self._standing(anchor, side))
                    queries[pair.kept] = self.kge.query(e, r, side), itself
                q, itself = queries[pair.kept]
                own = pair.candidate == pair.kept and scale is None and not self.kge.roles
                score = self._against_all(q, itself if own else tables[pair.candidate], scale, side)
            score = weighted(score, pair, relation)
            total = score if total is None else total + score if total.requires_grad else total.add_(score)
        assert total is not None
        return total

    def _against_all(self, q: Tensor, table: Tensor, scale: Tensor | None, side: Tensor) -> Tensor:
        """[Q, N]; with roles, heads are compared where side is True and tails elsewhere."""
        if not self.kge.roles:
            return self.kge.similarity.all_pairs(q, table, scale)
        heads, tails = table.chunk(2)
        ranking = not torch.is_grad_enabled() and side.device.type == "cpu"  # no step of training may read a value
        if ranking and bool((side == side[0]).all()):
            return self.kge.similarity.all_pairs(q, heads if side[0] else tails, scale)
        of_heads, of_tails = (self.kge.similarity.all_pairs(q, half, scale) for half in (heads, tails))
        return torch.where(side.unsqueeze(1), of_heads, of_tails)

    def _standing(self, ids: Tensor, as_tail: Tensor) -> Tensor:
        """Rows of the encoded tables for entities ids, by the end at which they stand; shapes broadcast."""
        return ids + as_tail * len(self.entity) if self.kge.roles else ids

    def standing(self, view: str, ids: Tensor, as_tail: Tensor) -> Tensor:
        """Rows [B, W] of a view for entities ids [B], as the model scores them at the end that as_tail [B] names."""
        return rows(*self._some(ids)) if self.few else rows(self.tables[view], self._standing(ids, as_tail))

    def vectors(self, ids: Tensor) -> Tensor:
        """[..., D], of the first view."""
        found = rows(*self._some(ids)) if self.few else rows(next(iter(self.tables.values())), ids)
        return found[..., : self.entity.shape[1]]

    def _some(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A table [n, W] of the entities among ids [...], and the place of each in it."""
        different, place = distinct(ids, len(self.entity))
        with torch.set_grad_enabled(self.live and torch.is_grad_enabled()):
            return self.kge.scored(self.fusion.some(self.entity, different)), place

    def relations(self, ids: Tensor) -> Tensor:
        """[..., Dr]."""
        return rows(self.relation, ids)

    def slots(self, ids: Tensor) -> Tensor:
        """[..., S, D]."""
        with torch.set_grad_enabled(self.live and torch.is_grad_enabled()):
            return self.fusion.slots(self.entity, ids)

    def _one_side(self, positives: Positives, block: Negatives, side: Tensor) -> Tensor:
        """s_neg [B, K] as if every negative of a row replaced the end that side [B] names."""
        anchor = positives.anchor(side)
        if block.view_ids is not None:
            return sum_of(self.view_pairs(anchor, positives.r, side, block.view_ids))
        if block.ids is not None:
            given = dict.fromkeys(self.views, block.ids)
            return sum_of(self.view_pairs(anchor, positives.r, side, given, block.delta))
        scored = [pair for pair in self.pairs if not pair.plain]
        if len(scored) > 1:
            raise ValueError("vectors and delta are defined for fusions with one view of an entity")
        pair, encoded = scored[0], self.standing(scored[0].kept, anchor, side)  # [B, W]
        made = block.generated
        assert made is not None
        candidates, kept = made.vectors, made.anchors
        if made.slot_mask is not None:
            mask = made.slot_mask.unsqueeze(1)  # [B, 1, S]
            if made.joint == "score":
                kept = encoded[:, None, None] if kept is None else self.kge.scored(kept)  # as the model scores that end
                per_slot = self._against(kept, positives, side, self.kge.scored(candidates))  # [B, K, S]
                present = mask.to(per_slot.dtype)
                return weighted((per_slot * present).sum(2) / present.sum(2), pair, positives.r)
            mask = mask.expand(candidates.shape[:3])
            candidates = self.fusion.fuse(candidates, mask)
            kept = None if kept is None else self.fusion.fuse(kept, mask)
        kept = encoded.unsqueeze(1) if kept is None else self.kge.scored(kept)
        return weighted(self._against(kept, positives, side, self.kge.scored(candidates)), pair, positives.r)

    def _against(self, kept: Tensor, positives: Positives, side: Tensor, candidates: Tensor) -> Tensor:
        """Similarity [B, K] or [B, K, S] of candidates [B, K, (S,) W] to the queries of kept [B, K or 1, (S,) W]."""
        lead = [len(side)] + [1] * (kept.dim() - 2)
        r = self.relations(positives.r).view(*lead, -1)
        q = self.kge.query(kept, r, side.view(lead))
        scale = self.kge.scale(r, side.view(lead))
        return self.kge.similarity.pairwise(q, candidates if scale is None else candidates * scale)


class _Plain:
    """The similarity of plain pairs: the dot product."""

    kind: str | None = "dot"
    form: str | None = None
    size = 1
    margin: float | None = None

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        return (q * c).sum(-1)


PLAIN = _Plain()


def weighted(score: Tensor, pair: Pair, relation: Tensor) -> Tensor:
    """score [B, M] of a pair times its weight, which may depend on relation [B]."""
    if isinstance(pair.weight, Tensor):
        return score * pair.weight[relation].unsqueeze(1)
    return score if pair.weight == 1 else score * pair.weight


def sum_of(pairs: Mapping[tuple[str, str], Tensor]) -> Tensor:
    first, *others = pairs.values()
    for other in others:
        first = first + other
    return first
