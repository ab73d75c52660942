"""Structure-aware negative sampling, SANS (Ahrabian et al., EMNLP 2020; code kahrabian/SANS).

Replaces one end of a triple by an entity from the k-hop neighbourhood of the end that is kept. The graph is undirected
and without labels, built from train; A is its symmetric 0/1 adjacency (docs/notes/classic_samplers.md section 7).

`exact`     uniform over support((I + A)^k), which is the paper's support(A^k + A^(k-1)) for every entity that has a
            neighbour, without the query's training answers. Sparse products build it: dense ones are of no use on a CPU.
`rw`        end points of K random walks of k steps, each of which starts at the kept entity again: near and well-linked
            entities are drawn more often, which is the paper's weighting by visits. Needs no matrix. Walks that end at a
            training answer are replaced by others of the same row, in turn, so every slot keeps the walk's law.
`rw_chain`  the published code: the walks of an entity are never set back, the second starts where the first ended. One
            chain of omega k steps, recorded every k steps, leaves the neighbourhood and draws from the whole component by
            degree. Its distinct end points are drawn uniformly; that the code drops the visit counts is kept.

A row with nothing left (for `rw`: none of whose walks may be used) is drawn from all entities but the known answers and
counted in `fallback_rows`; a row is never part neighbourhood, part uniform. Short rows repeat themselves: a result means
little without the row sizes, which `describe` gives.

Variants: `paper` is `exact` with the kept entity among the candidates, as in A^k + A^(k-1); `recommended` leaves it out,
because (h, r, h) would be a frequent negative wherever rows are short. `released` is `rw_chain`, kept entity included.
Not taken over from the code: after one fruitless round of 2 K draws it fills the rest of a row uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from nsbench.contracts import Negatives, Positives, Sampler, Setting, TrainGraph, View
from nsbench.machine import free_memory
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts.allowed import AllowedSets, list_buffers

BLOCK = 1024  # entities whose neighbourhoods are found at a time
SOME = 256  # entities, every so many, whose neighbourhoods tell how large all will be


class Adjacency:
    """The undirected graph of the training triples as sorted rows; an entity without neighbours is its own."""

    def __init__(self, graph: TrainGraph) -> None:
        n = graph.num_entities
        h, _, t = graph.triples.unbind(1)
        alone = (graph.degree == 0).nonzero().squeeze(1)
        edges = torch.cat([h * n + t, t * n + h, alone * n + alone]).unique()
        self.neighbours = edges % n
        self.degree = torch.bincount(edges // n, minlength=n)  # [N]
        self.first = self.degree.cumsum(0) - self.degree  # [N]

    def step(self, here: Tensor, rng: torch.Generator) -> Tensor:
        """One step of a random walk from each entity of `here`, any shape."""
        degree = self.degree[here]
        turn = torch.rand(here.shape, generator=rng, device=here.device).mul_(degree).long()
        turn = torch.minimum(turn, degree.sub_(1))  # rounding may lift u * degree to degree
        return self.neighbours[turn.add_(self.first[here])]


def k_hop(adjacency: Adjacency, k: int) -> tuple[Tensor, Tensor]:
    """Sorted rows of support((I + A)^k), one after another, and their sizes [N]: all entities within distance k.

    MemoryError where they would not fit: around a hub they are as many as pairs of entities, and the system would end the
    process without a word.
    """
    n = len(adjacency.degree)
    columns = adjacency.neighbours.int().cpu().numpy()
    ends = np.concatenate([[0], adjacency.degree.cumsum(0).cpu().numpy()])
    one_hop = sparse.csr_array((np.ones(len(columns), bool), columns, ends), shape=(n, n))
    one_hop = (one_hop + sparse.eye_array(n, dtype=bool, format="csr")).astype(bool)

    def around(some: slice) -> sparse.csr_array:
        rows = one_hop[some]
        for _ in range(k - 1):
            rows = rows @ one_hop  # of bool: a path or none, so counts cannot overflow
        return rows

    room = free_memory()
    few = around(slice(None, None, -(-n // SOME)))
    if room is not None and 8 * few.nnz * (n / few.shape[0]) > room:  # told before all are found, which takes minutes
        raise MemoryError("the neighbourhoods would take more than the memory")
    members, sizes, held = [], [], 0
    for first in range(0, n, BLOCK):
        rows = around(slice(first, first + BLOCK))
        rows.sort_indices()
        members.append(rows.indices.astype(np.int32, copy=False))
        sizes.append(np.diff(rows.indptr).astype(np.int64))
        held += 2 * members[-1].nbytes  # once more when they are put together
        if room is not None and held > room:
            raise MemoryError(f"neighbourhoods of {first + BLOCK:,} of {n:,} entities take all of the memory")
    device = adjacency.degree.device
    return torch.from_numpy(np.concatenate(members)).to(device), torch.from_numpy(np.concatenate(sizes)).to(device)


def chained(adjacency: Adjacency, k: int, omega: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sorted distinct end points of one chain per entity, recorded omega times, every k steps; and their numbers [N]."""
    here = torch.arange(len(adjacency.degree), device=adjacency.degree.device)
    ends = torch.empty(omega, len(here), dtype=torch.int32, device=here.device)
    for walk in range(omega):
        for _ in range(k):
            here = adjacency.step(here, rng)
        ends[walk] = here
    rows = ends.t().sort(dim=1).values
    fresh = torch.ones_like(rows, dtype=torch.bool)
    fresh[:, 1:] = rows[:, 1:] != rows[:, :-1]
    return rows[fresh], fresh.sum(1)


@SAMPLERS.register("sans")
class SANS(Sampler):
    variants = {"paper": {"anchor": True}, "released": {"mode": "rw_chain", "anchor": True}}
    frugal = "sampler.mode=rw, which holds no neighbourhoods, or fewer sampler.hops"

    @dataclass(frozen=True)
    class Options:
        mode: str = option("exact", "how candidates are found", choices=("exact", "rw", "rw_chain"))
        hops: int = option(
            2, "k, the radius of the neighbourhood; with 1, most draws are known facts", minimum=1, search=(2, 3, 4)
        )
        omega: int = option(1000, "walks per entity, of rw_chain", minimum=1)
        anchor: bool = option(False, "the kept entity is a candidate too")

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.graph = setting.graph
        self.seed: int | None = None  # of what `pretrain` built: a checkpoint needs no more than that
        if options.mode == "rw":
            self.adjacency = Adjacency(setting.graph)
            list_buffers(self, self.adjacency)
        self.register_buffer("fallback_rows", torch.zeros((), dtype=torch.int64, device=setting.graph.device))
        self.fallback_rows: Tensor

    def pretrain(self, view: View) -> None:
        """Build the rows: here, so that the time is charged."""
        if self.options.mode != "rw":
            self._build(int(torch.randint(2**31, (), generator=view.rng, device=view.device)))

    def get_extra_state(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["seed"] is not None and state["seed"] != self.seed:
            self._build(state["seed"])

    def _build(self, seed: int) -> None:
        graph, options, self.seed = self.graph, self.options, seed
        if options.mode == "exact":
            members, size = k_hop(Adjacency(graph), options.hops)
        else:
            rng = torch.Generator(graph.device).manual_seed(seed)
            members, size = chained(Adjacency(graph), options.hops, options.omega, rng)
        anchor, _, _ = graph.queries()
        key, entity = graph.answered()
        if not options.anchor:
            key = torch.cat([key, torch.arange(len(anchor), device=graph.device)])
            entity = torch.cat([entity, anchor])
        start = size.cumsum(0) - size
        self.register_buffer("row_size", size, persistent=False)  # [N]
        self.row_size: Tensor
        self.allowed = AllowedSets(graph, members, start[anchor], size[anchor], (key, entity))
        list_buffers(self, self.allowed)

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities near the kept end of each positive; ids are [B, K]."""
        side = view.draw_side(positives)
        key = positives.key(side)
        if self.options.mode == "rw":
            ids, empty = self._walked(positives, side, view)
            uniform = view.graph.draw(key, self.k, view.rng)
            ids = torch.where(empty if empty.dim() == 2 else empty.unsqueeze(1), uniform, ids)
        else:
            ids, empty = self.allowed.draw(key, self.k, view.rng), self.allowed.empty[key]
        self.fallback_rows += empty.sum()
        return Negatives(side=side, ids=ids, valid=view.graph.drawable(key, self.k))

    def _walked(self, positives: Positives, side: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """End points [B, K] of walks, no training answer among them, and which rows (or slots) have none; like `side`."""
        if side.dim() == 2:  # a row of walks for each end: slots of one side replace their lost walks among themselves
            head, no_head = self._walked(positives, torch.ones_like(side[:, 0]), view)
            tail, no_tail = self._walked(positives, torch.zeros_like(side[:, 0]), view)
            return torch.where(side, head, tail), torch.where(side, no_head.unsqueeze(1), no_tail.unsqueeze(1))
        anchor = positives.anchor(side).unsqueeze(1)
        ends = anchor.expand(-1, self.k)
        for _ in range(self.options.hops):
            ends = self.adjacency.step(ends, view.rng)
        heads, tails = torch.where(side.unsqueeze(1), ends, anchor), torch.where(side.unsqueeze(1), anchor, ends)
        lost = view.graph.is_positive(heads, positives.r.unsqueeze(1), tails)
        if not self.options.anchor:
            lost |= ends == anchor
        usable = self.k - lost.sum(1)
        in_turn = torch.arange(self.k, device=view.device) % usable.clamp(min=1).unsqueeze(1)
        first_usable = lost.byte().argsort(dim=1, stable=True)
        return ends.gather(1, first_usable.gather(1, in_turn)), usable == 0

    def describe(self) -> dict[str, float]:
        """Row sizes over entities, candidates left over all training slots, and how many rows fell back so far."""
        counts: dict[str, float] = {"fallback_rows": int(self.fallback_rows)}
        if self.seed is None:
            return counts
        size = self.row_size
        rows = {"row_mean": size.double().mean().item(), "row_median": size.median().item()}
        return rows | self.allowed.describe(torch.cat([self.graph.key_tail, self.graph.key_head])) | counts
