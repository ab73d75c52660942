"""From ids, or generated vectors, to scores: a model, a fusion, and the entity tables of one step."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts.batch import Negatives, Positives
from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.model import KGE, Fusion
from nsbench.kernels.operators import distinct, rows, rows_and_table, straight_through


class Scoring:
    """One state of the model. Make a new one after each optimiser step: the fused tables are computed once.

    live=False takes every table out of the graph: nothing scored through it can reach the model's gradients. few=True
    fuses the entities that are asked for, each time, and all of them only for who asks for `tables`.
    """

    def __init__(self, kge: KGE, fusion: Fusion, graph: TrainGraph, live: bool = True, few: bool = False) -> None:
        self.kge = kge
        self.fusion = fusion
        self.few = few and type(kge).encode is KGE.encode and type(fusion).some is not Fusion.some
        self._graph, self._tables = graph, None if self.few else self._whole(graph, live)
        self.entity: Tensor = kge.entity
        self.relation: Tensor = kge.relation
        self.live = live
        if not live:
            self._detach()

    @property
    def tables(self) -> dict[str, Tensor]:
        """View -> [N, D]."""
        if self._tables is None:
            self._tables = self._whole(self._graph, self.live)
        return self._tables

    @tables.setter
    def tables(self, tables: dict[str, Tensor]) -> None:
        self._tables, self.few = tables, False

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the tables."""
        return ("fused",) if self.few else tuple(self.tables)

    def _whole(self, graph: TrainGraph, live: bool) -> dict[str, Tensor]:
        with torch.set_grad_enabled(live and torch.is_grad_enabled()):
            return {name: self.kge.encode(table, graph) for name, table in self.fusion.views(self.kge.entity).items()}

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
        """[B, M] for each pair (view of the kept end, view of the candidate). `delta` [B, K, D] is of the last K."""
        if delta is not None and len(self.views) > 1:
            raise ValueError("vectors and delta are defined for fusions with one view of an entity")
        if self.few:
            ((view, candidates),) = ids.items()
            table, places = self._some(torch.cat([anchor.unsqueeze(1), candidates], dim=1))
            tables, anchor, ids = {view: table}, places[:, 0], {view: places[:, 1:]}
        else:
            tables = self.tables
        r = self.relations(relation)
        scale = self.kge.scale(r, side)
        pairs = {}
        for kept, table in tables.items():
            e, itself = rows_and_table(table, anchor)
            q = self.kge.query(e, r, side)
            for view, other in tables.items():
                if scale is None:
                    candidates = itself if view == kept else other
                    pairs[kept, view] = self.kge.similarity.gathered(q, candidates, ids[view])
                    if delta is not None:
                        own = ids[view][:, -delta.shape[1] :]
                        zeros = straight_through(self.kge.similarity, q, table, own, delta)
                        pairs[kept, view] = pairs[kept, view] + F.pad(zeros, (ids[view].shape[1] - own.shape[1], 0))
                else:
                    c = rows(other, ids[view])
                    if delta is not None:
                        c = c + F.pad(delta, (0, 0, c.shape[1] - delta.shape[1], 0))
                    c = c * scale.unsqueeze(1)
                    pairs[kept, view] = self.kge.similarity.pairwise(q.unsqueeze(1), c)
        return pairs

    def all(self, anchor: Tensor, relation: Tensor, side: Tensor) -> Tensor:
        """Scores [Q, N] of every entity for queries (anchor, relation, side), each [Q]."""
        r = self.relations(relation)
        scale = self.kge.scale(r, side)
        pairs = {}
        for kept, table in self.tables.items():
            e, itself = rows_and_table(table, anchor)
            q = self.kge.query(e, r, side)
            for view, other in self.tables.items():
                candidates = itself if view == kept and scale is None else other
                pairs[kept, view] = self.kge.similarity.all_pairs(q, candidates, scale)
        return sum_of(pairs)

    def vectors(self, ids: Tensor) -> Tensor:
        """[..., D], of the first view."""
        return rows(*self._some(ids)) if self.few else rows(next(iter(self.tables.values())), ids)

    def _some(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A table [n, D] of the entities among ids [...], and the place of each in it."""
        different, place = distinct(ids, len(self.entity))
        with torch.set_grad_enabled(self.live and torch.is_grad_enabled()):
            return self.fusion.some(self.entity, different), place

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
        if len(self.views) > 1:
            raise ValueError("vectors and delta are defined for fusions with one view of an entity")
        made = block.generated
        assert made is not None
        candidates, kept = made.vectors, made.anchors
        if made.slot_mask is not None:
            mask = made.slot_mask.unsqueeze(1)  # [B, 1, S]
            if made.joint == "score":
                kept = self.vectors(anchor)[:, None, None] if kept is None else kept  # as the model itself scores that end
                per_slot = self._against(kept, positives, side, candidates)  # [B, K, S]
                present = mask.to(per_slot.dtype)
                return (per_slot * present).sum(2) / present.sum(2)
            mask = mask.expand(candidates.shape[:3])
            candidates = self.fusion.fuse(candidates, mask)
            kept = None if kept is None else self.fusion.fuse(kept, mask)
        kept = self.vectors(anchor).unsqueeze(1) if kept is None else kept
        return self._against(kept, positives, side, candidates)

    def _against(self, kept: Tensor, positives: Positives, side: Tensor, candidates: Tensor) -> Tensor:
        """Similarity [B, K] or [B, K, S] of candidates [B, K, (S,) D] to the queries of kept [B, K or 1, (S,) D]."""
        lead = [len(side)] + [1] * (kept.dim() - 2)
        r = self.relations(positives.r).view(*lead, -1)
        q = self.kge.query(kept, r, side.view(lead))
        scale = self.kge.scale(r, side.view(lead))
        return self.kge.similarity.pairwise(q, candidates if scale is None else candidates * scale)


def sum_of(pairs: Mapping[tuple[str, str], Tensor]) -> Tensor:
    first, *others = pairs.values()
    for other in others:
        first = first + other
    return first
