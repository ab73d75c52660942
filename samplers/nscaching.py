"""NSCaching: negatives from a cache of hard ones per query (Zhang et al., ICDE 2019, algorithms 2 and 3).

Every query (h, r, ?) and (?, r, t) of train owns N1 entities. Negatives are drawn from them uniformly. Then the rows of
the batch's queries are renewed: N1 of the row and of N2 fresh entities together, without replacement, with probability
softmax(score / tau); adding Gumbel noise to the scores and keeping the N1 largest draws exactly that.

The first fill of a row is stratified: its query's candidates, ordered by id, are cut into N1 pieces of nearly equal size
and one entity is drawn from each. So no entity stands in a row twice, but neighbours in id seldom stand there together.

Departures from the paper, in `recommended` (docs/notes/classic_samplers.md section 4):
- Known positives never enter a row; the paper has no filter (variant `paper`).
- The side is the protocol's coin; the paper's experiments toss Bernoulli's (variant `paper`, where the protocol leaves a
  choice). Its algorithm has the coin.
- K negatives per positive, drawn from the row with replacement; the paper has one.
- A query that occurs twice in a batch is renewed once, by its last occurrence; the paper does not say.
Variant `released` is the authors' base_model.py: as `paper`, the union keeps duplicates, so that an entity may fill several
slots of a row, and N1 = N2 = 30, its defaults. Lazy updates count epochs, as in the paper (its automated successor counts
iterations).
A query with fewer than N1 candidates, on toys, repeats some of them in its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nsbench.contracts import Negatives, NonPositives, Positives, Sampler, Setting, View
from nsbench.kernels import operators as kernels
from nsbench.registry import SAMPLERS, Range, option
from nsbench.samplers.bernoulli import head_probability
from nsbench.samplers.parts.allowed import list_buffers


@SAMPLERS.register("nscaching")
class NSCaching(Sampler):
    version = 2
    frugal = "a smaller sampler.cache"

    @dataclass(frozen=True)
    class Options:
        cache: int = option(50, "N1, entities kept per query", minimum=1, search=(10, 30, 50, 70, 90))
        candidates: int = option(50, "N2, fresh entities proposed per update", minimum=1, search=(10, 30, 50, 70, 90))
        tau: float = option(
            1.0, "temperature of the update; 0: keep the N1 highest scores", minimum=0, search=Range(1e-2, 1e2)
        )
        lazy: int = option(0, "epochs without updates after each epoch with them", minimum=0)
        update: str = option(
            "both", "caches renewed per positive: both, or the drawn side's alone", choices=("both", "drawn")
        )
        side: str = option("fair", "coin for the side, where the protocol fixes none", choices=("fair", "bernoulli"))
        filtered: bool = option(True, "keep known training positives out of the cache")
        duplicates: bool = option(False, "let an entity fill several slots of a row")

    variants = {
        "paper": {"filtered": False, "side": "bernoulli"},
        "released": {"filtered": False, "side": "bernoulli", "duplicates": True, "cache": 30, "candidates": 30},
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        graph = setting.graph
        self.filtered = options.filtered
        self.pool = (
            graph.non_positives if options.filtered else every_entity(graph.num_keys + 1, graph.num_entities, graph.device)
        )
        if not options.filtered:
            list_buffers(self, self.pool)  # its own; the filtered one is the graph's
        p_head = head_probability(graph)
        self.register_buffer("p_head", p_head if options.side == "bernoulli" else torch.full_like(p_head, 0.5))  # [R]
        self.p_head: Tensor
        self.register_buffer("cache", torch.zeros(graph.num_keys + 1, options.cache, dtype=torch.int32))
        self.cache: Tensor

    def pretrain(self, view: View) -> None:
        """Fill every row with distinct candidates of its query; the last row serves queries that train does not answer."""
        for keys in torch.arange(len(self.cache), device=view.device).split(1 << 14):  # pieces bound the temporaries
            self.cache.index_copy_(0, keys, distinct(self.pool, keys, self.options.cache, view.rng).int())

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities per positive from the row of its query, ids [B, K]; then the update, before the model's step."""
        side = view.draw_side(positives, self.p_head[positives.r])
        key = positives.key(side)
        row = key.unsqueeze(1) if key.dim() == 1 else key
        slot = torch.randint(self.options.cache, (len(positives), self.k), generator=view.rng, device=view.device)
        ids = self.cache.take(row * self.options.cache + slot).long()
        if self.regime(view):
            # Where a row draws a side per negative, both are drawn.
            both = self.options.update == "both" or side.dim() == 2
            head = torch.ones_like(positives.h, dtype=torch.bool)
            for renewed in (head, ~head) if both else (side,):
                self.renew(positives, renewed, view)
        return Negatives(side, ids=ids, valid=view.graph.drawable(key, self.k) if self.filtered else None)

    def regime(self, view: View) -> bool:
        """Whether caches are renewed in this pass."""
        return view.epoch % (self.options.lazy + 1) == 0

    def renew(self, positives: Positives, side: Tensor, view: View) -> None:
        """Algorithm 3 for the queries that side [B] names. No gradient: the view is detached."""
        key = positives.key(side)
        fresh = self.pool.draw(key, self.options.candidates, view.rng)
        union = torch.cat([self.cache.index_select(0, key).long(), fresh], dim=1)  # [B, N1 + N2]
        # Scored in pieces by the kernels: without a candidate scale (PairRE) [B, N1 + N2, D] is never built.
        score = view.score_ids(positives, side, union)
        u = torch.rand(union.shape, generator=view.rng, device=view.device)
        kept = kernels.keep_largest(
            union, score, u, self.options.cache, view.graph.num_entities, self.options.tau, not self.options.duplicates
        )
        # Every occurrence of a query writes the row of the last one: the order of the writes does not matter.
        self.cache.index_copy_(0, key, kept.index_select(0, last_occurrence(key, len(self.cache))))


def every_entity(keys: int, entities: int, device: torch.device) -> NonPositives:
    """The pool without the filter: every query may draw every entity."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return NonPositives(none, none, torch.full((keys,), entities, device=device))


def distinct(pool: NonPositives, key: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """[B, n] candidates of each key [B], one from each n-th of its candidates; distinct where there are n of them."""
    key = key.unsqueeze(1)
    edge = torch.arange(n + 1, device=key.device) * pool.free[key].clamp(min=1) // n  # [B, n + 1]
    low, high = edge[:, :-1], edge[:, 1:]
    u = torch.rand(low.shape, generator=rng, device=key.device, dtype=torch.float64)
    u = (low + (u * (high - low)).long()).clamp(max=high - 1).clamp(min=low)
    return pool.at(key, u)


def last_occurrence(key: Tensor, keys: int) -> Tensor:
    """[B] where the value of key [B] occurs last in it."""
    at = torch.arange(len(key), device=key.device)
    return torch.full((keys,), -1, device=key.device).scatter_reduce_(0, key, at, "amax")[key]
