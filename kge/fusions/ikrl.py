"""IKRL (Xie et al., IJCAI 2017): structure and images of an entity, in all four pairs of one translation model.

    image     v_e = W (sum_i a_i phi_i) + b        a = softmax over the entity's images of <W phi_i, s_e>
    score     sum over X, Y in {structure, image} of the model's score of (h_X, r, t_Y)

IKRL is `--kge transe --fusion ikrl`. Features that are one vector per entity have one instance; token-level ones are weighed
by attention. Where the modality is a text it is IKRL's form on that text. The authors train four hinges, one a pair, with
constant attention (`attention=detached`), keep vectors in the unit ball (nearest: `unit`), and rank by the image pair alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsbench.contracts import Need, Setting
from nsbench.kge.fusions import maps
from nsbench.kge.fusions.pairs import PairOptions, Pairs
from nsbench.registry import FUSIONS, option


@FUSIONS.register("ikrl")
class IKRL(Pairs):
    version = 1
    provides = frozenset({Need.VIEWS, Need.PARTS})

    @dataclass(frozen=True)
    class Options(PairOptions):
        modality: str = option("auto", "modality of the second view; auto: an image (official:visual) or the first by name")
        attention: str = option("live", "does it pass gradients on?", choices=("live", "detached"))

    def named(self, setting: Setting) -> str | None:
        return maps.chosen(self.options.modality, sorted(setting.features))

    def made(self, setting: Setting) -> maps.Linear:
        name, detached = str(self.modality), self.options.attention == "detached"
        present, width = setting.present[name], setting.entity_width
        if setting.features[name].dim() == 2:  # one instance has all the attention
            return maps.Linear(maps.vectors(setting, name, self.options), present, width)
        return maps.Instances(maps.tokens(setting, name, self.options), present, width, detached)
