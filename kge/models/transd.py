"""TransD (Ji et al., ACL 2015): TransE after a projection that entity and relation make together.

Entities are (e, v_e) and relations (r, w), stored side by side, D = Dr = 2 d, and M = w v_e^T + I needs no matrix:

    e_perp = e + <v_e, e> w                score(h, r, t) = gamma - | h_perp + r - t_perp |_p

The candidate's projection depends on the relation, so the query is [e_perp + r | w] (a replaced head: - r) and the
similarity projects the candidate. The L1 norm by default, as in OpenKE and in this project's TransE; the paper has squared
L2 and keeps all norms below 1 (PyKEEN clamps them). `unit` is OpenKE's score: projections and r of length 1. Projections
start in the common range: at zero their gradients would be zero. They start small, so TransD begins as TransE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import KGE
from nsbench.kge.models.sides import sign
from nsbench.kge.similarity import RankOne
from nsbench.registry import MODELS, option


@MODELS.register("transd")
class TransD(KGE):
    version = 1

    @dataclass(frozen=True)
    class Options:
        norm: int = option(1, "1: sum of absolute differences; 2: Euclidean distance", choices=(1, 2))
        unit: bool = option(False, "scale projected entities and the relation to length 1 (OpenKE)")

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = RankOne(margin, options.norm, options.unit)

    @staticmethod
    def entity_width(width: int) -> int:
        return 2 * width

    @staticmethod
    def relation_width(width: int) -> int:
        return 2 * width

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """[e_perp + r | w] [..., 2d] for a replaced tail, [e_perp - r | w] for a replaced head."""
        (e, v), (r, w) = e.chunk(2, dim=-1), r.chunk(2, dim=-1)
        projected = torch.addcmul(e, (v * e).sum(-1, keepdim=True), w)
        if self.options.unit:
            projected, r = F.normalize(projected, dim=-1), F.normalize(r, dim=-1)
        moved = torch.addcmul(projected, r, sign(side, e))
        return torch.cat([moved, w.expand_as(moved)], dim=-1)
