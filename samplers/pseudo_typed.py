"""Pseudo-typed negative sampling (PyKEEN's `PseudoTypedNegativeSampler`; no paper of its own).

Replaces the head of (h, r, t) by an entity that train has as head of r, the tail by one that it has as tail of r.
The draw is uniform over these sets H_r and T_r without the query's training answers, and exact
(docs/notes/classic_samplers.md sections 0.3 and 10).

Side: `bernoulli` replaces the head with probability |T_r| / (|H_r| + |T_r|), `fair` with one half, `pykeen` with
|H_r| / (|H_r| + |T_r|), which is what drawing from the concatenation of both sets amounts to: one minus Bernoulli's.
Where a set has nothing left, the other end is replaced; where that has nothing either, the draw is from all entities.
`switched` and `uniform` count the queries (rows; slots where the protocol draws a side per slot) that this happened to.

Variant `paper` is PyKEEN's default: its side rule, and no filter, so that known facts come back as negatives, the
positive itself included. PyKEEN draws a side per negative; here that granularity is the protocol's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nsbench.contracts import Need, Negatives, Positives, Sampler, Setting, TrainGraph, View
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.bernoulli import head_probability
from nsbench.samplers.parts.allowed import AllowedSets, list_buffers


def typed_sets(graph: TrainGraph, filtered: bool) -> AllowedSets:
    """The allowed set of (h, r, ?) is T_r, the anchors of the training queries (?, r, t); that of (?, r, t) is H_r."""
    anchor, relation, side = graph.queries()
    family = relation + graph.num_relations * side  # sorted anchors of a family are H_r, and R further on T_r
    size = torch.bincount(family, minlength=2 * graph.num_relations)
    start = size.cumsum(0) - size
    opposite = relation + graph.num_relations * ~side
    members = anchor[family.argsort(stable=True)].int()
    nothing = anchor[:0]
    removed = graph.answered() if filtered else (nothing, nothing)
    return AllowedSets(graph, members, start[opposite], size[opposite], removed)


@SAMPLERS.register("pseudo_typed")
class PseudoTyped(Sampler):
    requires = frozenset({Need.SIDE})
    variants = {"paper": {"side": "pykeen", "filter": False}}

    @dataclass(frozen=True)
    class Options:
        side: str = option("bernoulli", "how the replaced end is chosen", choices=("bernoulli", "fair", "pykeen"))
        filter: bool = option(True, "never draw a known training positive")

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.filtered = options.filter
        self.graph = setting.graph
        self.allowed = typed_sets(setting.graph, options.filter)
        list_buffers(self, self.allowed)
        p = head_probability(setting.graph)
        p_head = {"bernoulli": p, "fair": torch.full_like(p, 0.5), "pykeen": 1 - p}[options.side]
        self.register_buffer("p_head", p_head)  # [R]
        self.register_buffer("switched", torch.zeros((), dtype=torch.int64, device=p.device))
        self.register_buffer("uniform", torch.zeros((), dtype=torch.int64, device=p.device))
        self.p_head: Tensor
        self.switched: Tensor
        self.uniform: Tensor

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities per positive on the side drawn for it, or on the other where that has none left; ids are [B, K]."""
        side = view.draw_side(positives, self.p_head[positives.r])
        empty = self.allowed.empty
        switch = empty[positives.key(side)] & ~empty[positives.key(~side)]
        side = side ^ switch
        key = positives.key(side)
        self.switched += switch.sum()
        self.uniform += empty[key].sum()
        valid = view.graph.drawable(key, self.k) if self.filtered else None
        return Negatives(side=side, ids=self.allowed.draw(key, self.k, view.rng), valid=valid)

    def describe(self) -> dict[str, float]:
        """Row sizes over all training slots, both sides, and how often a row fell back so far."""
        counts = {"switched": int(self.switched), "uniform": int(self.uniform)}
        return self.allowed.describe(torch.cat([self.graph.key_tail, self.graph.key_head])) | counts
