"""MANS, modality-aware negative sampling (Zhang et al., IJCNN 2023): negatives that replace one view of an entity.

For models that see an entity in two views, structure and modality (`--fusion two_view`), whose score sums over the pairs
of views. One entity e' is drawn as in `uniform`. A normal negative replaces both views of the answer by those of e'; a
visual negative replaces the modality's alone and keeps the answer's structure, so that the model learns which features
belong to which entity. The strategies differ in which negatives are visual:

    V  all
    T  all during the first `visual_epochs` of the epochs, ceil(beta E) of them, and none after (two stages)
    H  the share `visual_share` of a batch, floor(beta B K) negatives chosen at random (hybrid)
    A  those that the model finds more plausible across the views than within them (adaptive):
           s(e_m, e'_s) + s(e_s, e'_m) > s(e_s, e'_s) + s(e_m, e'_m)        e: the kept entity, one side shown
       adapt=row takes these negatives, adapt=count as many at random

A visual negative is the same triple with another feature: the filter is about e' (docs/notes/classic_samplers.md section 9).
Its s(., _s) pairs are the positive's own. In a pairwise loss they cancel; in this project's log-sigmoid they do not, and
the same term is pushed up and down. `visual_share` in the result is the share of visual negatives over the run.

Departures, in `recommended`: a visual negative takes two different features, of the answer and of e'. Where one of them
has none, or both have the same, the negative is normal (`distinct`): else it would be the positive itself, or about who
has a feature. V and T then have fewer visual negatives, and H where less than its share can be visual. The side is the
protocol's coin; the paper tosses Bernoulli's (variant `paper`). K negatives per positive; the paper and its code have one.

Variant `released` is the authors' code: T lasts for half of the epochs, because the option never arrives, and A counts the
negatives of its criterion and makes as many rows visual, the first of the batch. Batches are shuffled: with one negative
per positive, as there, that is adapt=count. Their model (normalised vectors, one margin for four distances, Adam at a
learning rate of 1) is not the sampler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nsbench.contracts import Need, Negatives, Positives, Sampler, Setting, View, pooled
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.bernoulli import head_probability


@SAMPLERS.register("mans")
class MANS(Sampler):
    fusion = "two_view"
    requires = frozenset({Need.VIEWS, Need.FEATURES})

    @dataclass(frozen=True)
    class Options:
        strategy: str = option(
            "A",
            "which negatives are visual: all, in two stages, a share, or as the model says",
            choices=("V", "T", "H", "A"),
            search=("V", "T", "H", "A"),
        )
        visual_epochs: float = option(
            0.3, "beta of T, share of the epochs with visual negatives", minimum=0, search=(0.1, 0.3, 0.5, 0.7, 0.9)
        )
        visual_share: float = option(
            0.3, "beta of H, share of visual negatives in a batch", minimum=0, search=(0.1, 0.3, 0.5, 0.7, 0.9)
        )
        adapt: str = option("row", "A: the negatives of the criterion, or their number at random", choices=("row", "count"))
        distinct: bool = option(True, "a visual negative takes two different features, else it is normal")
        side: str = option("fair", "coin for the side, where the protocol fixes none", choices=("fair", "bernoulli"))

    variants = {
        "paper": {"distinct": False, "side": "bernoulli"},
        "released": {"distinct": False, "side": "bernoulli", "visual_epochs": 0.5, "adapt": "count"},
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        p_head = head_probability(setting.graph)
        self.register_buffer("p_head", p_head if options.side == "bernoulli" else torch.full_like(p_head, 0.5))  # [R]
        self.p_head: Tensor
        for name, features in setting.features.items() if options.distinct else ():
            alike = alike_classes(features, setting.present[name])
            self.register_buffer(f"alike_{name}", alike, persistent=False)
        if options.distinct and setting.features:
            self.register_buffer(
                "alike_joint", joint_classes([getattr(self, f"alike_{m}") for m in setting.features]), False
            )
        self.register_buffer("visual", torch.zeros((), dtype=torch.int64))
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        self.visual: Tensor
        self.drawn: Tensor

    def sample(self, positives: Positives, view: View) -> Negatives:
        """K entities per positive on the side drawn for it: view_ids [B, K] for both views, structure kept where visual."""
        structure, modality = view.scoring.tables
        side = view.draw_side(positives, self.p_head[positives.r])
        key = positives.key(side)
        ids = view.graph.draw(key, self.k, view.rng)
        answer = positives.answer(side)
        answer = (answer.unsqueeze(1) if side.dim() == 1 else answer).expand_as(ids)
        visual = self._visual(positives, side, ids, self._able(answer, ids, modality), view)
        self.visual += visual.sum()
        self.drawn += visual.numel()
        view_ids = {structure: torch.where(visual, answer, ids), modality: ids}
        return Negatives(side, view_ids=view_ids, valid=view.graph.drawable(key, self.k))

    def regime(self, view: View) -> bool:
        """Whether T is in its first stage."""
        return view.epoch < whole(math.ceil, self.options.visual_epochs, view.total_epochs)

    def describe(self) -> dict[str, float]:
        return {"visual_share": int(self.visual) / max(int(self.drawn), 1)}

    def _able(self, answer: Tensor, ids: Tensor, modality: str) -> Tensor:
        """bool [B, K]: which negatives can be visual."""
        if not self.options.distinct:
            return torch.ones_like(ids, dtype=torch.bool)
        alike = getattr(self, f"alike_{modality}")
        a, b = alike[answer], alike[ids]
        return (a != b) & (a >= 0) & (b >= 0)

    def _visual(self, positives: Positives, side: Tensor, ids: Tensor, able: Tensor, view: View) -> Tensor:
        """bool [B, K]: which of the able negatives are visual."""
        options = self.options
        if options.strategy == "V":
            return able
        if options.strategy == "T":
            return able if self.regime(view) else torch.zeros_like(able)
        if options.strategy == "H":
            return some_of(able, whole(math.floor, options.visual_share, able.numel()), view.rng)
        across = able & prefers_across(positives, side, ids, view)
        return across if options.adapt == "row" else some_of(able, across.sum(), view.rng)


@torch.no_grad()
def prefers_across(positives: Positives, side: Tensor, ids: Tensor, view: View) -> Tensor:
    """bool [B, K]: the model scores the normal negatives `ids` higher across the two views than within them."""
    if side.dim() == 2:
        head = torch.ones_like(side[:, 0])
        of_heads, of_tails = (prefers_across(positives, end, ids, view) for end in (head, ~head))
        return torch.where(side, of_heads, of_tails)
    pairs = view.score_views(positives, side, dict.fromkeys(view.scoring.tables, ids))
    s, m = view.scoring.tables
    return pairs[s, m] + pairs[m, s] > pairs[s, s] + pairs[m, m]


def some_of(able: Tensor, count: int | Tensor, rng: torch.Generator) -> Tensor:
    """bool like able [B, K]: `count` of its True entries at random, or all where there are fewer."""
    draw = torch.rand(able.numel(), generator=rng, device=able.device) + ~able.flatten()  # those come last
    place = torch.empty_like(draw, dtype=torch.int64)
    place.scatter_(0, draw.argsort(), torch.arange(len(draw), device=draw.device))
    return able & (place < count).view_as(able)


def alike_classes(features: Tensor, present: Tensor) -> Tensor:
    """int32 [N]: entities with the same pooled feature vector have the same number; -1 without the feature."""
    classes = pooled(features, present).unique(dim=0, return_inverse=True)[1]
    return classes.masked_fill(~present, -1).int()


def joint_classes(alike: list[Tensor]) -> Tensor:
    """int32 [N] of several `alike_classes`: alike where all are, -1 where an entity has none."""
    classes = torch.stack(alike, dim=1)
    return classes.unique(dim=0, return_inverse=True)[1].masked_fill((classes < 0).all(1), -1).int()


def whole(rounding: Callable[[float], int], share: float, number: int) -> int:
    """rounding(share x number), exact where the product is a whole number but for its last bits (0.29 x 100)."""
    return rounding(round(share * number, 6))
