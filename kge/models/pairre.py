"""PairRE (Chao et al., ACL 2021): a relation scales both ends, each by a vector of its own.

score(h, r, t) = gamma - | h~ o r^H - t~ o r^T |_1, with h~ and t~ scaled to Euclidean length 1, and [r^H | r^T] stored,
D = d, Dr = 2 d. The query is the kept end times its half of r; the other half is the candidate's `scale`, which the kernels
apply.

The length of a row has no effect on any score, so entities take no regulariser. All scores begin near gamma, because the
relations are small: PairRE starts slowly and passes TransE later.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import KGE
from nsbench.kge.models.sides import chosen
from nsbench.kge.similarity import L1
from nsbench.registry import MODELS


@MODELS.register("pairre")
class PairRE(KGE):
    version = 1

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = L1(margin)

    @staticmethod
    def relation_width(width: int) -> int:
        return 2 * width

    def scored(self, x: Tensor) -> Tensor:
        """x [..., d] at length 1; zero stays zero."""
        return F.normalize(x, dim=-1)

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e~ o r^H [..., d] for a replaced tail, e~ o r^T for a replaced head."""
        of_head, of_tail = r.chunk(2, dim=-1)
        return self.scored(e) * chosen(side, e, of_tail, of_head)

    def scale(self, r: Tensor, side: Tensor) -> Tensor:
        """r^T [..., d] for a replaced tail, r^H for a replaced head."""
        of_head, of_tail = r.chunk(2, dim=-1)
        return torch.where(side.unsqueeze(-1), of_head, of_tail)
