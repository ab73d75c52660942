"""Bernoulli negative sampling (Wang et al., AAAI 2014, the paper of TransH, section 4.2).

Replaces the head of (h, r, t) with probability tph / (tph + hpt), tails per head against heads per tail, which makes
false negatives rarer for one-to-many and many-to-one relations. The entity is drawn as in `uniform`.
Counts come from train; a relation without training triples falls back to one half.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Need, Negatives, Positives, Sampler, Setting, TrainGraph, View
from nsbench.registry import SAMPLERS


def head_probability(graph: TrainGraph) -> Tensor:
    """[R] probability of replacing the head: with tph = n/|H| and hpt = n/|T| the counts cancel to |T| / (|H| + |T|)."""
    heads, tails = graph.heads_of.float(), graph.tails_of.float()
    return torch.where(heads + tails > 0, tails / (heads + tails).clamp(min=1), 0.5)


@SAMPLERS.register("bernoulli")
class Bernoulli(Sampler):
    requires = frozenset({Need.SIDE})

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.register_buffer("p_head", head_probability(setting.graph))  # [R]
        self.p_head: Tensor

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities per positive on the side drawn for it; ids are [B, K]."""
        side = view.draw_side(positives, self.p_head[positives.r])
        key = positives.key(side)
        return Negatives(side=side, ids=view.graph.draw(key, self.k, view.rng), valid=view.graph.drawable(key, self.k))
