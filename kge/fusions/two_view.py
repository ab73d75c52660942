"""Two views of an entity: its structural vector, and its features through a linear map (Zhang et al., IJCNN 2023, MANS).

    structure  e_s = the structural vector
    modality   e_m = W phi + b          phi: the raw feature vector, frozen
    score      S(h, r, t) = s(h_s, t_s) + s(h_m, t_m) + s(h_m, t_s) + s(h_s, t_m)

Scoring sums over the pairs. Every pair has the model's margin, so a distance model scores 4 gamma minus four distances; the
authors' code takes one margin for all four (docs/notes/classic_samplers.md section 9).

An entity without the feature has its structural vector in both views: nobody shares a made-up feature, all entities are
scored in four pairs, and where nobody has the feature the order of the candidates is that of `none`. Papers and code do not
say what they do. A dataset without modalities leaves the structural view alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Fusion, Need, Setting, pooled
from nsbench.errors import Misuse, suggest
from nsbench.kge.fusions.projection import Projection
from nsbench.registry import FUSIONS, option


@FUSIONS.register("two_view")
class TwoView(Fusion):
    version = 2
    provides = frozenset({Need.VIEWS})

    @dataclass(frozen=True)
    class Options:
        modality: str = option("auto", "modality of the second view; auto: an image (official:visual) or the first by name")

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.modality = chosen(options.modality, sorted(setting.features))
        if self.modality is None:
            return
        present = setting.present[self.modality]
        phi = pooled(setting.features[self.modality], present)
        self.register_buffer("phi", phi, persistent=False)  # [N, F]; the dataset has it: not part of the state
        self.register_buffer("present", present.unsqueeze(1), persistent=False)  # [N, 1]
        self.phi: Tensor
        self.present: Tensor
        self.project = Projection(phi, present, setting.entity_width)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [] if self.modality is None else [self.project.param_group(learning_rate)]

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """`structure` and the modality's name -> [N, D] each."""
        if self.modality is None:
            return {"structure": entity}
        return {"structure": entity, self.modality: torch.where(self.present, self.project(self.phi), entity)}

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """Refused: two views are never one vector, and samplers that make vectors need that."""
        raise Misuse("fusion 'two_view' has views of an entity and no slots; use --fusion adamf")

    def slot_mask(self, ids: Tensor) -> Tensor:
        """Refused, as `slots`."""
        return self.slots(ids, ids)


def chosen(wanted: str, names: list[str]) -> str | None:
    """The modality of the second view among `names`; None where there are none. Misuse for a name that is not there."""
    if wanted == "auto":
        return next((name for name in ("image", "official:visual", *names) if name in names), None)
    if wanted not in names:
        have = f"; it has {', '.join(names)}" if names else "; it has none"
        raise Misuse(f"fusion.modality is '{wanted}', which the dataset does not have{suggest(wanted, names) or have}")
    return wanted
