"""Alignment: pulls the slots of an entity together, of the heads and tails of a batch that have them (`--set aux.align=1`).

    relative  |a - b|^2 / (|a|^2 + |b|^2), between 0 and 2, whatever the slots' scale
    mse       |a - b|^2 / D, which mmkgc's MMKRL has; slots have lengths below 1, so that it hardly acts at weight 1
    sliced    squared sliced Wasserstein distance between the batch's clouds of a and of b, blind to who is who

Means over the heads and tails, summed over pairs of slots. mse and sliced are smallest where both slots shrink to zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Auxiliary, Need, Positives, View
from nsbench.registry import AUXILIARIES, option


@AUXILIARIES.register("align")
class Align(Auxiliary):
    version = 1
    requires = frozenset({Need.LIVE, Need.FEATURES, Need.PARTS})

    @dataclass(frozen=True)
    class Options:
        form: str = option("relative", "what is small where slots are aligned", choices=("relative", "mse", "sliced"))
        pairs: str = option("structure", "structure with each other slot, or all pairs", choices=("structure", "all"))
        stop: str = option("none", "slots that take no gradient", choices=("none", "structure", "modality"))
        projections: int = option(64, "directions of sliced", minimum=1)

    def loss(self, positives: Positives, view: View) -> Tensor:
        ids = torch.cat([positives.h, positives.t])
        mask = view.slot_mask(ids)
        slots = list(view.slots(ids).unbind(1))
        for i in range(len(slots)):
            if self.options.stop == ("modality" if i else "structure"):
                slots[i] = slots[i].detach()
        pairs = [(i, j) for i, j in itertools.combinations(range(len(slots)), 2) if self.options.pairs == "all" or i == 0]
        distance = self._sliced if self.options.form == "sliced" else self._each
        return torch.stack([distance(slots[i], slots[j], mask[:, i] & mask[:, j], view) for i, j in pairs]).sum()

    def _each(self, a: Tensor, b: Tensor, there: Tensor, view: View) -> Tensor:
        square = (a - b).square().sum(1)
        if self.options.form == "relative":
            square = square / (a.square().sum(1) + b.square().sum(1)).clamp_min(1e-12)
        else:
            square = square / a.shape[1]
        return torch.where(there, square, 0.0).sum() / there.sum().clamp(min=1)

    def _sliced(self, a: Tensor, b: Tensor, there: Tensor, view: View) -> Tensor:
        """Those that lack a slot lie at the same place of both clouds, behind all others: they meet each other."""
        directions = torch.randn(a.shape[1], self.options.projections, generator=view.rng, device=view.device)
        directions = F.normalize(directions, dim=0).to(a.dtype)
        on = [(x @ directions).masked_fill(~there.unsqueeze(1), 1e30).sort(dim=0).values for x in (a, b)]
        counted = torch.arange(len(a), device=view.device).unsqueeze(1) < there.sum()
        square = torch.where(counted, on[0] - on[1], 0.0).square()
        return square.sum() / (there.sum().clamp(min=1) * self.options.projections)
