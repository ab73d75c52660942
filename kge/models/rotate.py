"""RotatE (Sun et al., ICLR 2019): a relation is a rotation of each complex component.

score(h, r, t) = gamma - sum_i | h_i exp(i phi_i) - t_i |, with h, t in C^d and phi in R^d. Because a rotation keeps
moduli, the query of a replaced head is t rotated by -phi. Vectors are stored as [real half | imaginary half], D = 2 d.

The distance is the sum of the d moduli, as in the authors' code. PyKEEN's RotatE takes the root of the sum of their squares:
weights trained there rank differently here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsbench.contracts import KGE
from nsbench.kge.models.sides import sign
from nsbench.kge.similarity import Moduli
from nsbench.registry import MODELS, option


@MODELS.register("rotate")
class RotatE(KGE):
    version = 1

    @dataclass(frozen=True)
    class Options:
        phase: str = option(
            "scaled",
            "scaled: the parameter is initialised within +-(margin + 2) / width, which stands for +-pi (the authors' "
            "code); radians: it is the phase itself",
            choices=("scaled", "radians"),
        )

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = Moduli(margin)
        self.radians = math.pi * width / (margin + 2.0)  # per unit of the parameter
        if options.phase == "radians":
            self.relation.data.mul_(self.radians)  # uniform in +-pi
            self.radians = 1.0

    @staticmethod
    def entity_width(width: int) -> int:
        return 2 * width

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """e [..., 2d] rotated by the phase of r [..., d] for a replaced tail, by its negative for a replaced head."""
        return _Rotation.apply(e, r * (self.radians * sign(side, e)))

    def export(self) -> dict[str, Tensor]:
        """`entity` [N, 2d] and `relation` [R, d] in radians."""
        return {"entity": self.entity.detach(), "relation": self.relation.detach() * self.radians}

    def restore(self, exported: Mapping[str, Tensor]) -> None:
        super().restore({**exported, "relation": exported["relation"] / self.radians})


class _Rotation(torch.autograd.Function):
    """e [..., 2d] rotated by phase [..., d]. Written out because autograd would compute sine and cosine again."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, phase: Tensor) -> Tensor:
        cos, sin = phase.cos(), phase.sin()
        rotated = _rotated(e, cos, sin)
        ctx.save_for_backward(rotated, cos, sin)
        ctx.shapes = e.shape, phase.shape
        return rotated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        rotated, cos, sin = ctx.saved_tensors
        e_shape, phase_shape = ctx.shapes
        (re, im), (d_re, d_im) = rotated.chunk(2, dim=-1), grad.chunk(2, dim=-1)
        d_phase = torch.mul(d_im, re).addcmul_(d_re, im, value=-1)
        return _rotated(grad, cos, sin, -1).sum_to_size(e_shape), d_phase.sum_to_size(phase_shape)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int = 1) -> Tensor:
    re, im = x.chunk(2, dim=-1)
    width = cos.shape[-1]
    out = x.new_empty(*torch.broadcast_shapes(re.shape, cos.shape)[:-1], 2 * width)
    torch.mul(re, cos, out=out[..., :width]).addcmul_(im, sin, value=-direction)
    torch.mul(im, cos, out=out[..., width:]).addcmul_(re, sin, value=direction)
    return out
