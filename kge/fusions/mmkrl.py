"""MMKRL (Lu et al., Applied Intelligence 2022): structure, structure in the features' space, joint features; four pairs.

    projected  s'_e = P s_e, P starts as the identity        joint  m_e = W [phi_1; phi_2; ...] + b
    score      (s', s') + (m, m) + (m, s) + (s, m)

MMKRL is `--kge transe --fusion mmkrl --set aux.align=1 --set aux.perturb=0.07`. Departures from the only code there is
(zjukg's): the relation table is that of the features' space, and biases by role, which enter the first pair as one constant
vector, are left out. reduce=mean is that code's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Setting
from nsbench.kge.fusions.pairs import PairOptions, Pairs
from nsbench.registry import FUSIONS


@FUSIONS.register("mmkrl")
class MMKRL(Pairs):
    version = 1
    Options = PairOptions
    parts = 3

    def __init__(self, setting: Setting, options: PairOptions) -> None:
        super().__init__(setting, options)
        if self.modality is not None:
            self.turn = nn.Parameter(torch.eye(setting.entity_width))  # P

    @classmethod
    def square(cls, options: Any) -> bool:
        return False

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        groups = super().param_groups(learning_rate)
        return groups if self.modality is None else [*groups, {"params": [self.turn], "lr": learning_rate}]

    def further(self, structure: Tensor, modality: Tensor, there: Tensor) -> dict[str, Tensor]:
        return {"projected": structure @ self.turn.T}

    def listed(self) -> list[tuple[str, str]]:
        return [("projected", "projected"), ("joint", "joint"), ("joint", "structure"), ("structure", "joint")]
