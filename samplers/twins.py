"""Twins negatives of VBKGC (Zhang and Zhang, CIKM 2022): a negative has one entity's structure and another's features.

For models that see an entity in two views. Each negative draws two ids, independently and uniformly over the entities that
make no known fact with the kept end: one for the structural view, one for the other. No half of a negative is true, unlike
in `mans`; what the model learns is that an entity's two views belong together. This is a reading of the paper's abstract,
all that could be read. share: the share of negatives with two ids; the others are those of `uniform`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nsbench.contracts import Need, Negatives, Positives, Sampler, View
from nsbench.registry import SAMPLERS, option


@SAMPLERS.register("twins")
class Twins(Sampler):
    version = 1
    fusion = "vbkgc"
    requires = frozenset({Need.VIEWS, Need.FEATURES})

    @dataclass(frozen=True)
    class Options:
        share: float = option(1.0, "share of negatives with two ids", minimum=0, search=(0.25, 0.5, 1.0))

    def sample(self, positives: Positives, view: View) -> Negatives:
        """view_ids [B, K] for both views, on the side of the protocol's coin."""
        structure, modality = view.scoring.tables
        side = view.draw_side(positives)
        key = positives.key(side)
        one, other = (view.graph.draw(key, self.k, view.rng) for _ in range(2))
        if self.options.share < 1:
            twin = torch.rand(one.shape, generator=view.rng, device=view.device) < self.options.share
            other = torch.where(twin, other, one)
        return Negatives(side, view_ids={structure: one, modality: other}, valid=view.graph.drawable(key, self.k))
