"""Perturbation, MMKRL's adversary: the positives' loss at the worst point near their vectors (`--set aux.perturb=0.07`).

    delta_h = -radius g / |g| with g = df/dh, delta_t alike, both constant
    loss    = mean softplus(-f(h + delta_h, r, t + delta_t))

Each view's row has a ball of its own. With one view and a distance this only shifts the margin, because the direction
depends on no magnitude: it is for several views, or for products. mmkgc's MMKRL has a generator make the perturbation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Auxiliary, Positives, Scoring, View
from nsbench.contracts.scoring import weighted
from nsbench.registry import AUXILIARIES, option


@AUXILIARIES.register("perturb")
class Perturb(Auxiliary):
    version = 2

    @dataclass(frozen=True)
    class Options:
        radius: float = option(0.1, "of the ball", minimum=0, search=(0.01, 0.03, 0.1, 0.3))
        views: str = option("all", "which are perturbed", choices=("all", "structure", "modality"))

    def loss(self, positives: Positives, view: View) -> Tensor:
        scoring = view.scoring
        scored = {view for pair in scoring.pairs if not pair.plain for view in (pair.kept, pair.candidate)}
        names = [view for view in scoring.views if view in scored]  # structure is the first
        if view.step == 0 and len(names) == 1 and scoring.kge.similarity.margin is not None:
            warnings.warn("aux.perturb only shifts the margin of a distance with one view; use it with others", stacklevel=2)
        ends = [
            {name: scoring.standing(name, ids, torch.full_like(ids, tail, dtype=torch.bool)) for name in names}
            for tail, ids in enumerate((positives.h, positives.t))
        ]
        moved = (
            {names[0]}
            if self.options.views == "structure"
            else set(names[1:] if self.options.views == "modality" else names)
        )
        leaves = [{name: x.detach().requires_grad_(name in moved) for name, x in end.items()} for end in ends]
        inputs = [end[name] for end in leaves for name in names if name in moved]
        if inputs:
            slopes = iter(torch.autograd.grad(_score(scoring, positives, *leaves).sum(), inputs))
            ends = [
                {
                    name: x - self.options.radius * F.normalize(next(slopes), dim=1) if name in moved else x
                    for name, x in end.items()
                }
                for end in ends
            ]
        return F.softplus(-_score(scoring, positives, *ends)).mean()


def _score(scoring: Scoring, positives: Positives, heads: dict[str, Tensor], tails: dict[str, Tensor]) -> Tensor:
    """f [B] of rows [B, W] by view; plain pairs, which nothing can move, are left out."""
    side = torch.zeros_like(positives.h, dtype=torch.bool)
    r = scoring.relations(positives.r)
    scale = scoring.kge.scale(r, side)
    terms = []
    for pair in scoring.pairs:
        if not pair.plain:
            tail = tails[pair.candidate] if scale is None else tails[pair.candidate] * scale
            score = scoring.kge.similarity.pairwise(scoring.kge.query(heads[pair.kept], r, side), tail)
            terms.append(weighted(score.unsqueeze(1), pair, positives.r).squeeze(1))
    return torch.stack(terms).sum(0)
