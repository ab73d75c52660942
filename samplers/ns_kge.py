"""NS-KGE, training without negative sampling (Li et al., WWW 2021): a squared loss over every possible triple.

L = sum over facts of [ c+ (1 - f)^2 - c- f^2 ]  +  c- sum over all (h, r, t) of f^2,    f = score(h, r, t).

The second sum has N R N terms and, for some models, a closed form of Gram matrices that costs some (N + R) d^2
multiplications (`KGE.sum_of_squares`; docs/notes/classic_samplers.md section 8). A batch of B positives carries its share
B / n of it, so that one pass over the n facts adds up to L. Each step's sum is divided by B: Adam does not see the factor,
and the regulariser weighs as much as beside the mean losses of the samplers.

Bilinear models only (Need.GRAM). NS-KGE's TransE needs squared L2 distances of unit vectors, which nsbench's TransE has
not: the evaluated model would not be the trained one.

The authors' c- lies between 1e-6 and 1e-1 (variant `paper`: 1e-4). How many unknown triples stand against one fact
depends on the data, so `recommended` gives c- as a multiple of n / (N R N), at which the two sums carry equal weight.
The authors take one step per epoch, on all facts at once; here batches are the protocol's. Subsampling weights do not
apply. A triple that train lists twice counts once, for L is a sum over a set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nsbench.contracts import Need, Objective, Positives, Scoring, Setting, View
from nsbench.registry import SAMPLERS, option


@SAMPLERS.register("ns_kge")
class NSKGE(Objective):
    requires = frozenset({Need.GRAM, Need.SQUARE})

    @dataclass(frozen=True)
    class Options:
        c_positive: float = option(1.0, "c+, weight of a fact", minimum=0)
        c_negative: float | None = option(
            None, "c-, weight of a triple that is no known fact; none: as `balance` says", minimum=0
        )
        balance: float = option(
            1.0, "c- as a multiple of n / (N R N), which balances both sums", minimum=0, search=(0.1, 1.0, 10.0, 100.0)
        )

    variants = {"paper": {"c_negative": 1e-4}}

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        graph = setting.graph
        self.c_positive = options.c_positive
        balanced = len(graph.codes) / (graph.num_entities * graph.num_relations * graph.num_entities)
        self.c_negative = options.balance * balanced if options.c_negative is None else options.c_negative
        _, fact, copies = graph.triples.unique(dim=0, return_inverse=True, return_counts=True)
        self.register_buffer("copies", copies[fact], persistent=False)  # [n] how often train lists the triple
        self.copies: Tensor

    def loss(self, positives: Positives, scoring: Scoring, view: View) -> Tensor:
        """Per positive: its own terms, and one n-th of the sum over all triples."""
        tail = torch.zeros_like(positives.h, dtype=torch.bool)
        f = scoring.ids(positives.h, positives.r, tail, positives.t.unsqueeze(1)).squeeze(1)  # [B]
        known = (self.c_positive * (1 - f).square() - self.c_negative * f.square()) / self.copies[positives.rows]
        first, *others = scoring.tables.values()
        entity = sum(others, first)  # a score adds up over pairs of views, and a bilinear one is the score of their sums
        return known.mean() + self.c_negative / len(view.graph) * scoring.kge.sum_of_squares(entity, scoring.relation)
