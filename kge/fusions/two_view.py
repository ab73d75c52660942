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

from nsbench.contracts import Need, Setting, pooled
from nsbench.kge.fusions import maps
from nsbench.kge.fusions.pairs import Pairs
from nsbench.registry import FUSIONS, option


@FUSIONS.register("two_view")
class TwoView(Pairs):
    version = 2
    provides = frozenset({Need.VIEWS, Need.PARTS})

    @dataclass(frozen=True)
    class Options:
        modality: str = option("auto", "modality of the second view; auto: an image (official:visual) or the first by name")

    def named(self, setting: Setting) -> str | None:
        return maps.chosen(self.options.modality, sorted(setting.features))

    def made(self, setting: Setting) -> maps.Linear:
        present = setting.present[str(self.modality)]
        return maps.Linear(pooled(setting.features[str(self.modality)], present), present, setting.entity_width)
