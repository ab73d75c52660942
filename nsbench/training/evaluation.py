"""Filtered ranking of both sides against all entities, exact under ties.

Stored per query: the optimistic rank (ties after the answer) and the pessimistic one (ties before it); their mean, the
realistic rank, is what metrics use. The answer's score is an entry of the same row of all-pairs scores as the
candidates', so that a tie is a tie. Queries that several triples share are scored once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nsbench.contracts import Scoring, TrainGraph
from nsbench.errors import Diverged
from nsbench.kernels.operators import rank_counts

CPU_CHUNK = 16 * 2**20  # bytes of scores at a time: stays near the cache
GPU_CHUNK = 2**30


class Ranking:
    """What ranking a fixed list of triples needs, prepared once: distinct queries, and the facts to filter."""

    def __init__(
        self,
        triples: Tensor,
        known: Tensor,
        num_entities: int,
        num_relations: int,
        device: torch.device | str = "cpu",
        chunk_bytes: int | None = None,
    ) -> None:
        """triples [T, 3] to rank; known [n, 3] facts removed from the candidates (the answer itself stays)."""
        self.device = torch.device(device)
        self.triples = triples
        self.num_entities = num_entities
        self.budget = chunk_bytes or (CPU_CHUNK if self.device.type == "cpu" else GPU_CHUNK)
        self.fewest = 64 if chunk_bytes is None else 1  # a handful of queries at a time would read a large table too often
        ranked, facts = triples.to(self.device), known.to(self.device)
        self.sides = [_Side(ranked, facts, num_entities, num_relations, head) for head in (True, False)]

    @torch.no_grad()
    def ranks(self, scoring: Scoring, progress: Callable[[int, int], None] | None = None) -> tuple[Tensor, Tensor]:
        """ranks int32 [T, 2 (head, tail), 2 (optimistic, pessimistic)] and candidates int32 [T, 2], on the CPU.

        Diverged when a score is not finite. progress(done, total) counts queries. The host waits for a GPU at the end alone.
        """
        total = sum(len(side.anchor) for side in self.sides)
        done = 0
        ranks, candidates, finite = [], [], []
        chunk = self._chunk(scoring)
        for side in self.sides:
            greater, equal = [], []
            for first in range(0, len(side.anchor), chunk):
                last = min(first + chunk, len(side.anchor))
                better, tied, usual = side.compare(scoring, first, last)
                finite.append(usual)
                greater.append(better)
                equal.append(tied)
                done += last - first
                if progress is not None:
                    progress(done, total)
            better, tied = torch.cat(greater)[side.undo], torch.cat(equal)[side.undo]
            ranks.append(torch.stack([better + 1, better + tied], dim=1))
            candidates.append(self.num_entities - side.filtered[side.undo])
        if not torch.stack(finite).all():
            raise Diverged("scores are not finite (nan or infinity): lower the learning rate or the initial range")
        return torch.stack(ranks, dim=1).int().cpu(), torch.stack(candidates, dim=1).int().cpu()

    def _chunk(self, scoring: Scoring) -> int:
        """How many queries at a time. A GPU holds their scores once for each pair of views, as a sum, and in pieces."""
        copies = 1 if self.device.type == "cpu" else len(scoring.tables) ** 2 + 2
        return max(self.fewest, self.budget // (4 * self.num_entities * copies))


class _Side:
    """One side's queries. Triples are held sorted by query, so a chunk of queries owns a contiguous run of triples."""

    def __init__(self, ranked: Tensor, facts: Tensor, num_entities: int, num_relations: int, head: bool) -> None:
        anchor, answer = (2, 0) if head else (0, 2)
        query, inverse = (ranked[:, anchor] * num_relations + ranked[:, 1]).unique(return_inverse=True)
        order = inverse.argsort(stable=True)
        self.undo = order.argsort()  # sorted position of each triple
        self.row = inverse[order]  # [T] the query of each sorted triple
        self.answer = ranked[order, answer]
        self.anchor, self.relation = query // num_relations, query % num_relations  # [Q]
        self.head = torch.full_like(query, head, dtype=torch.bool)
        self.first_triple = torch.searchsorted(self.row, torch.arange(len(query) + 1, device=query.device)).tolist()

        # Known answers of each query, then one (triple, known answer) pair for each that must be filtered.
        distinct = ((facts[:, anchor] * num_relations + facts[:, 1]) * num_entities + facts[:, answer]).unique()
        codes, entities = distinct // num_entities, distinct % num_entities
        start = torch.searchsorted(codes, query)[self.row]
        count = torch.searchsorted(codes, query, right=True)[self.row] - start
        owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        offset = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count)[owner]
        entity = entities[start[owner] + offset]
        other = entity != self.answer[owner]  # the answer itself stays a candidate
        self.pair_triple, self.pair_entity = owner[other], entity[other]
        self.filtered = torch.bincount(self.pair_triple, minlength=len(self.answer))  # [T]
        self.first_pair = [0, *self.filtered.cumsum(0).tolist()]

    def compare(self, scoring: Scoring, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """For the triples of queries first..last: unfiltered-out candidates better than the answer, and tied with it; and
        whether their scores are finite, bool [].
        """
        scores = scoring.all(self.anchor[first:last], self.relation[first:last], self.head[first:last])
        a, b = self.first_triple[first], self.first_triple[last]
        row, answer = self.row[a:b] - first, self.answer[a:b]
        greater, equal, finite = rank_counts(scores, row, answer)
        p, q = self.first_pair[a], self.first_pair[b]
        triple, entity = self.pair_triple[p:q] - a, self.pair_entity[p:q]
        known = scores[row[triple], entity]
        truth = scores[row, answer][triple]
        greater.index_add_(0, triple, (known > truth).long(), alpha=-1)
        equal.index_add_(0, triple, (known == truth).long(), alpha=-1)
        return greater, equal, finite


FREQUENCY_BINS = ("0", "1-3", "4-10", "11+")


def labels(graph: TrainGraph, triples: Tensor) -> dict[str, list[list[str]]]:
    """Breakdown -> label of each (triple, side), [T][2 (head, tail)].

    side: which end is asked for; category: of the relation; seen: whether both entities occur in train; twin: whether train
    joins them by another relation; frequency: training facts of the entity asked for.
    """
    triples = triples.to(graph.device)
    category = graph.categories()
    degree = graph.degree[triples[:, [0, 2]]].cpu()
    bins = torch.bucketize(degree, torch.tensor([1, 4, 11]), right=True).tolist()
    seen = ["seen" if both else "unseen" for both in (degree > 0).all(1).tolist()]
    return {
        "side": [["head", "tail"]] * len(triples),
        "category": [[category[r]] * 2 for r in triples[:, 1].tolist()],
        "seen": [[label] * 2 for label in seen],
        "twin": [["twin" if other else "no twin"] * 2 for other in twins(graph, triples).tolist()],
        "frequency": [[FREQUENCY_BINS[a], FREQUENCY_BINS[b]] for a, b in bins],
    }


def twins(graph: TrainGraph, triples: Tensor) -> Tensor:
    """bool [T]: whether train has the pair of entities under another relation too."""
    n, relations = graph.num_entities, graph.num_relations
    pairs = (graph.codes // (n * relations) * n + graph.codes % n).sort().values  # one for each distinct training fact
    h, r, t = triples.unbind(1)
    facts = torch.searchsorted(pairs, h * n + t, right=True) - torch.searchsorted(pairs, h * n + t)
    return facts > torch.isin(graph.code(h, r, t), graph.codes).long()
