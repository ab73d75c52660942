"""Uniform negative sampling (Bordes et al., NeurIPS 2013, with Wang et al.'s exclusion of known facts).

Replaces head or tail, a fair coin, by an entity drawn uniformly from those that do not complete a training triple.
The draw is exact: no rejection, no false positive from train (docs/notes/classic_samplers.md sections 0.3 and 1).
"""

from __future__ import annotations

from nsbench.contracts import Negatives, Positives, Sampler, View
from nsbench.registry import SAMPLERS


@SAMPLERS.register("uniform")
class Uniform(Sampler):
    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities per positive on the side drawn for it; ids are [B, K]."""
        side = view.draw_side(positives)
        key = positives.key(side)
        return Negatives(side=side, ids=view.graph.draw(key, self.k, view.rng), valid=view.graph.drawable(key, self.k))
