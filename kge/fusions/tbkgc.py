"""TBKGC (Mousselly-Sergieh et al., *SEM 2018): IKRL's four pairs on joint features, and one pair of sums.

    joint     m_e = W [phi_1; phi_2; ...] + b, or its tanh
    score     (s, s) + (m, m) + (s, m) + (m, s) + (s + m, s + m)       r once in each

TBKGC is `--kge transe --fusion tbkgc`. The sum of an entity without features is its structural vector. The authors freeze
structural vectors that TransE has learnt, and learn the map alone; here all is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Setting
from nsbench.kge.fusions import maps
from nsbench.kge.fusions.pairs import PairOptions, Pairs
from nsbench.registry import FUSIONS, option


@FUSIONS.register("tbkgc")
class TBKGC(Pairs):
    version = 1

    @dataclass(frozen=True)
    class Options(PairOptions):
        map: str = option("linear", "of the features; tanh: as released", choices=("linear", "tanh"))
        sum_pair: bool = option(True, "score the pair of sums; without it mans and twins can be used")

    @classmethod
    def square(cls, options: Any) -> bool:
        return not options.sum_pair

    def made(self, setting: Setting) -> maps.Linear:
        squashed = self.options.map == "tanh"
        return maps.Linear(*maps.joint(setting, self.options), setting.entity_width, squashed=squashed)

    def further(self, structure: Tensor, modality: Tensor, there: Tensor) -> dict[str, Tensor]:
        return {"sum": torch.where(there, structure + modality, structure)} if self.options.sum_pair else {}

    def listed(self) -> list[tuple[str, str]]:
        return [*super().listed(), *([("sum", "sum")] if self.options.sum_pair else [])]
