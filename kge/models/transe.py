"""TransE (Bordes et al., NIPS 2013): a relation is a translation.

score(h, r, t) = gamma - || h + r - t ||, with the L1 norm by default or L2. The query of a replaced tail is h + r, that
of a replaced head t - r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import KGE
from nsbench.kge.models.sides import sign
from nsbench.kge.similarity import L1, L2
from nsbench.registry import MODELS, option


@MODELS.register("transe")
class TransE(KGE):
    version = 1
    translates = True

    @dataclass(frozen=True)
    class Options:
        norm: int = option(1, "1: sum of absolute differences; 2: Euclidean distance", choices=(1, 2))

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = L1(margin) if options.norm == 1 else L2(margin)

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e + r for a replaced tail, e - r for a replaced head; e and r [..., d] -> [..., d]."""
        return torch.addcmul(e, r, sign(side, e))
