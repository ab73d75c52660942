"""How a query is compared with a candidate. Each kind is one formula; the kernels serve its gathered and all-pairs forms.

The distances carry the margin gamma: their score is gamma minus the distance. The dot product has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nsbench.contracts import Similarity
from nsbench.kernels import operators as kernels


class Kernelled(Similarity):
    """A similarity whose table forms go through `nsbench.kernels.operators`; a subclass writes `pairwise`."""

    def gathered(self, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        return kernels.gathered(self, q, table, ids)

    def all_pairs(self, q: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
        return kernels.all_pairs(self, q, table, scale)


class Dot(Kernelled):
    """The dot product."""

    kind = "dot"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        return (q * c).sum(-1)


class Distance(Kernelled):
    """gamma minus a distance."""

    margin: float

    def __init__(self, margin: float) -> None:
        self.margin = float(margin)


class L1(Distance):
    """gamma minus the sum of absolute differences."""

    kind = "l1"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        return self.margin - (q - c).abs().sum(-1)


class L2(Distance):
    """gamma minus the Euclidean distance; its gradient at distance zero is zero."""

    kind = "l2"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        return self.margin - torch.linalg.vector_norm(q - c, dim=-1)


class Moduli(Distance):
    """gamma minus the sum of the moduli of complex differences; vectors are [real half | imaginary half].

    A component that meets its candidate exactly has gradient zero.
    """

    kind = "moduli"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        re, im = (q - c).chunk(2, dim=-1)
        # The clamp stops the square root's infinite slope at zero; 1e-30 is the square of an invisible distance.
        return self.margin - (re * re + im * im).clamp_min(1e-30).sqrt().sum(-1)
