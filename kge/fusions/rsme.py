"""RSME (Wang et al., ACM MM 2021): ComplEx on a mix of structure and image, and how alike the ends' images are.

    e     = (1 - alpha) s + alpha A phi
    f     = beta f_model(e_h, r, e_t) + (1 - beta) g_r cos(phi_h, phi_t)

The gate g_r is 1 for relations where images help: whose MRP (mean over heads of the share of candidates that the true tails'
images come behind, by likeness to the head's; chance is 0.5) is below `remember`. It is measured once, on training triples
alone whose ends have one relation only: at most 64 a relation, each against 1,000 random entities with an image.

RSME is `--kge complex --fusion rsme`; its own loss is `--sampler one_vs_all`. Departures from the released code: the cosine
is part of the trained score, not of the ranking alone; MRP knows no test triples; the code's alpha is .7, beta .5 (.95 in
its comments), remember 1, with another loss and optimiser. A cosine with an absent image is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Need, Pair, Setting, TrainGraph
from nsbench.kge.fusions import maps
from nsbench.kge.fusions.mix import Mix, MixOptions
from nsbench.registry import FUSIONS, option

TRIPLES, CANDIDATES = 64, 1000  # of a relation, for MRP


@FUSIONS.register("rsme")
class RSME(Mix):
    version = 1

    @dataclass(frozen=True)
    class Options(MixOptions):
        modality: str = option("auto", "the image; auto: an image (official:visual) or the first modality by name")
        alpha: float = option(0.3, "share of the image in an entity's vector", minimum=0, search=(0.1, 0.3, 0.5, 0.7))
        beta: float = option(0.95, "weight of the model's score; the cosine of images has the rest", minimum=0)
        gate: str = option("mrp", "relations for which images are compared", choices=("mrp", "all", "none"))
        remember: float = option(0.5, "MRP below which images are compared", minimum=0)

    def __init__(self, setting: Setting, options: Options) -> None:
        self.image = maps.chosen(options.modality, sorted(setting.features))
        super().__init__(setting, options)
        if self.image is None:
            return
        phi, present = F.normalize(self.project[0].phi, dim=1), setting.present[self.image]  # type: ignore[arg-type]
        relations = setting.graph.num_relations
        if options.gate == "mrp":
            gate = (mean_rank_percentile(setting.graph, phi, present) < options.remember).to(phi.dtype)
        else:
            gate = torch.full((relations,), float(options.gate == "all"), device=phi.device)
        self.register_buffer("plain", phi, persistent=False)
        self.register_buffer("gate", gate)  # [R]
        self.plain: Tensor
        self.gate: Tensor

    @classmethod
    def provided(cls, options: Any) -> frozenset[Need]:
        return super().provided(options) - (set() if options.beta == 1 else {Need.SQUARE})

    def shares(self, setting: Setting) -> dict[str, float]:
        return {} if self.image is None else {self.image: self.options.alpha}

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """`fused` [N, D], and the image's raw vectors [N, F] at length 1."""
        views = super().views(entity)
        return views if self.image is None or self.options.beta == 1 else {**views, "image": self.plain}

    def pairs(self, views: Sequence[str]) -> list[Pair]:
        if "image" not in views:
            return [Pair("fused", "fused")]
        beta = self.options.beta
        return [Pair("fused", "fused", beta), Pair("image", "image", (1 - beta) * self.gate, plain=True)]


def mean_rank_percentile(graph: TrainGraph, phi: Tensor, present: Tensor) -> Tensor:
    """MRP [R] of phi [N, F], rows of length 1 where present [N]; 1 for relations without a triple that counts."""
    h, r, t = graph.triples.unique(dim=0).unbind(1)
    ends, count = (h * graph.num_entities + t).unique(return_inverse=True, return_counts=True)[1:]
    counted = (count[ends] == 1) & present[h] & present[t]
    found = torch.ones(graph.num_relations, device=phi.device)
    imaged = present.nonzero().squeeze(1)
    for relation in range(graph.num_relations):
        rows = (counted & (r == relation)).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        rows = rows[torch.randperm(len(rows), device=rows.device)[:TRIPLES]]
        others = imaged[torch.randint(len(imaged), (CANDIDATES,), device=rows.device)]
        alike = phi[h[rows]] @ phi[others].T  # [n, candidates]
        candidate = (others != h[rows].unsqueeze(1)) & (others != t[rows].unsqueeze(1))
        better = (alike > (phi[h[rows]] * phi[t[rows]]).sum(1, keepdim=True)) & candidate
        percentile = (1 + better.sum(1)) / (1 + candidate.sum(1))
        head, place = h[rows].unique(return_inverse=True)
        per_head = torch.zeros(len(head), device=rows.device).scatter_reduce(
            0, place, percentile, "mean", include_self=False
        )
        found[relation] = per_head.mean()
    return found
