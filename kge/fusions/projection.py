"""The linear map from a modality's vectors to slots, and how fast it learns."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Projection(nn.Linear):
    """W phi + b, [..., F] -> [..., D].

    A step of Adam moves every weight by about its rate, so a slot by that times the L1 norm of phi, which is some 15 for a
    unit vector of 384 numbers. Rows of the table move by the rate alone. At one rate for both, slots of features outgrow
    the structure in the first steps; products of such slots (DistMult) then rank hardly better than chance, and distances
    do worse as well (docs/features.md 2). So the rate is divided by that norm: both move equally fast.
    """

    def __init__(self, phi: Tensor, present: Tensor, width: int) -> None:
        """phi [N, F], of which the rows of `present` [N] count."""
        super().__init__(phi.shape[1], width)
        self.reach = phi[present].abs().sum(1).mean().item() if present.any() else 1.0

    def param_group(self, learning_rate: float) -> dict[str, Any]:
        return {"params": list(self.parameters()), "lr": learning_rate / self.reach}
