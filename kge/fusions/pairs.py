"""Fusions that keep an entity's structure and its features in views of their own, and score pairs of views.

    structure  e_s = the structural vector
    modality   e_m = a map of the features (nsbench.kge.fusions.maps)
    score      sum over listed pairs (kept view, candidate view) of weight x the model's score of it

Every pair has the model's margin; `reduce=mean` divides all weights by their sum. An entity without the features has its
structural vector in all views: nobody shares a made-up feature, all entities are scored in the same pairs, and where nobody
has features the order of candidates is that of `none`. A dataset without modalities leaves the structural view alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Fusion, Need, Pair, Setting
from nsbench.kernels.operators import rows
from nsbench.kge.fusions import maps
from nsbench.registry import option


@dataclass(frozen=True)
class PairOptions(maps.Raw):
    reduce: str = option("sum", "the pairs' scores are summed, or averaged", choices=("sum", "mean"))
    unit: bool = option(False, "scale the vectors of every view to length 1")


class Pairs(Fusion):
    """A subclass says which features make the second view, and may add views and choose pairs."""

    provides = frozenset({Need.PARTS})
    parts = 2  # how many of the views, from the first, are slots
    project: maps.Linear

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.reduce, self.unit = getattr(options, "reduce", "sum"), getattr(options, "unit", False)
        self.modality = self.named(setting)
        if self.modality is not None:
            self.project = self.made(setting)

    def named(self, setting: Setting) -> str | None:
        """The name of the second view; None where there are no features for it."""
        return "joint" if setting.features else None

    def made(self, setting: Setting) -> maps.Linear:
        """The map of the second view's features."""
        return maps.Linear(*maps.joint(setting, self.options), setting.entity_width)

    def further(self, structure: Tensor, modality: Tensor, there: Tensor) -> dict[str, Tensor]:
        """Views beyond the two, [n, D] from [n, D] each; there [n, 1]: who has features."""
        return {}

    def listed(self) -> list[tuple[str, str]]:
        """The pairs of views, where there are features."""
        views = ("structure", str(self.modality))
        return [(kept, candidate) for kept in views for candidate in views]

    @classmethod
    def square(cls, options: Any) -> bool:
        """Whether the views are two, structure and modality, in all four pairs."""
        return True

    @classmethod
    def provided(cls, options: Any) -> frozenset[Need]:
        if not cls.square(options):
            return cls.provides
        summed = getattr(options, "reduce", "sum") == "sum"
        return cls.provides | {Need.VIEWS} | ({Need.SQUARE} if summed else set())

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [] if self.modality is None else [self.project.param_group(learning_rate)]

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """view -> [N, D]: `structure`, the modality or `joint`, and what a subclass adds."""
        return self._views(entity, None)

    def pairs(self, views: Sequence[str]) -> list[Pair]:
        if self.modality is None:
            return super().pairs(views)
        listed = self.listed()
        return [Pair(*pair, weight=1.0 if self.reduce == "sum" else 1 / len(listed)) for pair in listed]

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., parts, D] for ids [...]: the views' vectors; they cannot be fused into one."""
        flat = ids.reshape(-1)
        slots = torch.stack(list(self._views(rows(entity, flat), flat).values())[: self.parts], dim=1)
        return slots.view(*ids.shape, *slots.shape[1:])

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., parts]: False where the entity has no features, in all but the structural view."""
        there = torch.ones_like(ids, dtype=torch.bool)
        others = [] if self.modality is None else [self.project.present[ids]] * (self.parts - 1)
        return torch.stack([there, *others], dim=-1)

    def _views(self, structure: Tensor, ids: Tensor | None) -> dict[str, Tensor]:
        views = {"structure": structure}
        if self.modality is not None:
            there = (self.project.present if ids is None else self.project.present[ids]).unsqueeze(1)
            views[self.modality] = torch.where(there, self.project.slots(structure, ids), structure)
            views |= self.further(structure, views[self.modality], there)
        return {name: F.normalize(x, dim=1) for name, x in views.items()} if self.unit else views
