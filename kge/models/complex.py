"""ComplEx (Trouillon et al., ICML 2016): DistMult with complex numbers, so that a relation need not be symmetric.

score(h, r, t) = Re sum_i h_i r_i conj(t_i), with h, r, t in C^d stored as [real half | imaginary half], D = Dr = 2 d. The
query is e o r for a replaced tail and e o conj(r) for a replaced head; its dot product with a candidate, over all 2 d
numbers, is the score on either side. No margin. It needs the protocol's regulariser: without it, it loses ten points of MRR.

The regulariser is the RotatE code base's, cubes of all 2 d numbers; N3 (Lacroix et al., 2018) has cubes of the moduli.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import KGE, Need
from nsbench.kge.models.sides import sign
from nsbench.kge.similarity import Dot
from nsbench.registry import MODELS


@MODELS.register("complex")
class ComplEx(KGE):
    version = 1
    provides = KGE.provides | {Need.GRAM}

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = Dot()

    @staticmethod
    def entity_width(width: int) -> int:
        return 2 * width

    @staticmethod
    def relation_width(width: int) -> int:
        return 2 * width

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e o r [..., 2d], or e o conj(r) for a replaced head."""
        (e_re, e_im), (re, im) = e.chunk(2, dim=-1), r.chunk(2, dim=-1)
        im = im * sign(side, e)
        return torch.cat([e_re * re - e_im * im, e_im * re + e_re * im], dim=-1)

    def sum_of_squares(self, entity: Tensor, relation: Tensor) -> Tensor:
        """1/2 sum_ij ( |G_ij|^2 Re Z_ij + |P_ij|^2 Re Y_ij ): G = H^T conj(H), P = H^T H of entities, Z, Y of relations."""
        g_re, g_im, p_re, p_im = _products(entity)
        z_re, _, y_re, _ = _products(relation)
        return ((g_re.square() + g_im.square()) * z_re + (p_re.square() + p_im.square()) * y_re).sum() / 2


def _products(table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Real and imaginary part of X^T conj(X), then of X^T X, [d, d] each, for complex X [n, d] as [n, 2d]."""
    re, im = table.chunk(2, dim=1)
    both, mixed = (re.T @ re, im.T @ im), re.T @ im
    return both[0] + both[1], mixed.T - mixed, both[0] - both[1], mixed + mixed.T
