"""DistMult (Yang et al., ICLR 2015): a relation weighs the components of a dot product.

score(h, r, t) = sum_i h_i r_i t_i. Symmetric in h and t, so the query is e * r on either side, and there is no margin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import KGE, Need
from nsbench.kge.similarity import Dot
from nsbench.registry import MODELS


@MODELS.register("distmult")
class DistMult(KGE):
    version = 1
    provides = KGE.provides | {Need.GRAM}

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = Dot()

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e * r [..., d], whichever side is replaced."""
        return e * r

    def sum_of_squares(self, entity: Tensor, relation: Tensor) -> Tensor:
        """sum_ij (X o Z o X)_ij with the Gram matrices X = E^T E and Z = R^T R."""
        gram = entity.T @ entity
        return (gram.square() * (relation.T @ relation)).sum()
