"""No fusion: an entity is its structural vector alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nsbench.contracts import Fusion
from nsbench.kernels.operators import rows
from nsbench.registry import FUSIONS


@FUSIONS.register("none")
class NoFusion(Fusion):
    version = 1

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        return {"entity": entity}

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., 1, D]."""
        return rows(entity, ids).unsqueeze(-2)

    def slot_mask(self, ids: Tensor) -> Tensor:
        """[..., 1], all True."""
        return torch.ones(*ids.shape, 1, dtype=torch.bool, device=ids.device)

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        """[..., 1, D] -> [..., D]."""
        return slots.squeeze(-2)
