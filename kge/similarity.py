"""How a query is compared with a candidate. Each kind is one formula; the kernels serve its gathered and all-pairs forms.

The distances carry the margin gamma: their score is gamma minus the distance. The dot product has none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nsbench.contracts import Similarity
from nsbench.kernels import operators as kernels


class Kernelled(Similarity):
    """A similarity whose table forms go through `nsbench.kernels.operators`; a subclass writes `pairwise`."""

    def gathered(self, q: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None = None) -> Tensor:
        return kernels.gathered(self, q, table, ids, scale)

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


class RankOne(Distance):
    """gamma minus | q - (c + <c, v> w) | for queries [q | w] and candidates [c | v]: TransD's projection of a candidate.

    p: 1 or 2, the norm. unit: the projected candidate is scaled to length 1 first (no native kernel).
    """

    def __init__(self, margin: float, p: int, unit: bool = False) -> None:
        super().__init__(margin)
        self.p, self.unit = p, unit
        self.form = None if unit else f"rank_one_l{p}"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        (q, w), (c, v) = q.chunk(2, dim=-1), c.chunk(2, dim=-1)
        projected = c + (c * v).sum(-1, keepdim=True) * w
        projected = F.normalize(projected, dim=-1) if self.unit else projected
        return self.margin - torch.linalg.vector_norm(q - projected, ord=self.p, dim=-1)


class Blocks(Distance):
    """gamma minus the sum of the lengths of blocks of `size` numbers; number j of block g stands at j G + g, G blocks.

    So size 2 is Moduli, size 1 is L1. A block that meets its candidate exactly has gradient zero. contexts: vectors are
    [x | y], y the context of x, and the distance is a quarter of 2 B(x - x') + B(y - x') + B(x - y').
    """

    def __init__(self, margin: float, size: int, contexts: bool = False) -> None:
        super().__init__(margin)
        self.size, self.contexts = size, contexts
        self.form = "contexts" if contexts else "blocks"

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        if not self.contexts:
            return self.margin - self._lengths(q - c)
        (x, y), (a, b) = q.chunk(2, dim=-1), c.chunk(2, dim=-1)
        return self.margin - (2 * self._lengths(x - a) + self._lengths(y - a) + self._lengths(x - b)) / 4

    def _lengths(self, x: Tensor) -> Tensor:
        square = x.unflatten(-1, (self.size, -1)).square().sum(-2)
        return square.clamp_min(1e-30).sqrt().sum(-1)
