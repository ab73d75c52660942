"""Fusions that make one vector of an entity's slots: a sum with weights that do not depend on the entity.

    slot 0      e_0 = the structural vector            slot m > 0   e_m = a map of modality m (nsbench.kge.fusions.maps)
    fused       e* = sum_m c_m e_m over the slots that the entity has, c divided by its sum over these

An entity without features, or a dataset without modalities, is its structural vector. `missing=shrink` leaves the weights
undivided, which is what code without masks does to features of zeros. The share of structure decides how such a model
learns: rates and regularisers act on the table, not on share x table (docs/notes/models.md 8.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Fusion, Need, Setting
from nsbench.kernels.operators import rows
from nsbench.kge.fusions import maps
from nsbench.registry import option


@dataclass(frozen=True)
class MixOptions(maps.Raw):
    missing: str = option(
        "renormalise",
        "weights of the slots that an entity has: divided by their sum, or as they are",
        choices=("renormalise", "shrink"),
    )
    weights: str = option("fixed", "do the weights of the slots learn, from their given values?", choices=("fixed", "learn"))


class Mix(Fusion):
    """A subclass says which modalities have slots, with which shares, and how they are mapped."""

    provides = frozenset({Need.SLOTS})

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        shares = self.shares(setting)
        self.modalities = sorted(shares)
        self.slot_count = 1 + len(shares)
        self.project = nn.ModuleList(self.made(setting, name) for name in self.modalities)
        structure = torch.ones(setting.graph.num_entities, dtype=torch.bool, device=setting.graph.device)
        mask = torch.stack([structure, *[setting.present[name] for name in self.modalities]], dim=1)
        self.register_buffer("mask", mask, persistent=False)  # [N, S]
        share = torch.tensor([1 - sum(shares.values()), *[shares[name] for name in self.modalities]])
        if options.weights == "learn":
            self.logits = nn.Parameter(share.clamp_min(1e-6).log())
        self.register_buffer("share", share, persistent=False)  # [S]
        self.mask: Tensor
        self.share: Tensor

    def shares(self, setting: Setting) -> dict[str, float]:
        """The weight of each modality that has a slot; structure has the rest of 1."""
        raise NotImplementedError

    def made(self, setting: Setting, name: str) -> maps.Linear:
        """The map of a modality's features."""
        return maps.Linear(
            maps.vectors(setting, name, self.options), setting.present[name], setting.entity_width, bias=False
        )

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        groups = [layer.param_group(learning_rate) for layer in self.project if isinstance(layer, maps.Linear)]
        learnt = [{"params": [self.logits], "lr": learning_rate}] if self.options.weights == "learn" else []
        return groups + learnt

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """The fused table [N, D]."""
        if not self.modalities:
            return {"fused": entity}
        return {"fused": self._sum(self._slots(entity, None), self._coefficients(self.mask))}

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., S, D] for ids [...]: only the rows asked for are mapped."""
        flat = ids.reshape(-1)
        slots = torch.stack(self._slots(rows(entity, flat), flat), dim=1)
        return slots.view(*ids.shape, *slots.shape[1:])

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., S]."""
        return rows(self.mask, ids)

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        """[..., S, D] and bool [..., S] -> [..., D]; whatever slots outside of the mask hold, NaN even, has no effect."""
        slots = slots.masked_fill(~mask.unsqueeze(-1), 0.0)
        return self._sum(slots.unbind(-2), self._coefficients(mask))

    def _slots(self, structure: Tensor, ids: Tensor | None) -> list[Tensor]:
        """S times [n, D]."""
        return [structure, *(layer.slots(structure, ids) for layer in self.project)]  # type: ignore[operator]

    def _coefficients(self, mask: Tensor) -> Tensor:
        """[..., S] of bool [..., S]."""
        share = self.logits.softmax(0) if self.options.weights == "learn" else self.share
        kept = torch.where(mask, share, 0.0)
        if self.options.missing == "shrink":
            return kept
        total = kept.sum(-1, keepdim=True)
        alone = torch.zeros_like(share).index_fill(0, torch.zeros_like(share[:1], dtype=torch.int64), 1.0)
        return torch.where(total > 0, kept / total.clamp_min(1e-12), alone)  # nothing that counts: the structure does

    @staticmethod
    def _sum(slots: Any, coefficients: Tensor) -> Tensor:
        first, *others = slots
        total = first * coefficients[..., :1]
        for m, slot in enumerate(others, start=1):
            total = torch.addcmul(total, slot, coefficients[..., m : m + 1])
        return total
