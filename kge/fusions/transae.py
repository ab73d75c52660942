"""TransAE (Wang et al., IJCNN 2019): an entity is the code of its features, and a decoder must find them in it again.

    z_e = act(W_2 [act(W_1 phi_1 + b_1); act(W_2' phi_2 + b_2'); ...] + b)        score: the model's on z

TransAE is `--kge transe --fusion transae --set aux.reconstruct=0.4`. There is no structural vector: entities without any
feature share one code, and tie. `structure=input` gives the encoder the structural vector too, `add` adds it to the code.
A modality that an entity lacks is a part of zeros. tanh by default: codes of a sigmoid lie in one corner.

An entity keeps nothing of its own, so TransAE knows of links what the features know: a test MRR of 1.6 with MKG-Y's names,
which is what the best linear code of them reaches, and of 22 with planted features (docs/features.md 3). Training is not at
fault: with a trained TransE's vectors as features it ranks nearly as that TransE does. mmkgc's TransAE scores a plain table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Fusion, Need, Setting
from nsbench.kernels.operators import rows
from nsbench.kge.fusions import maps
from nsbench.registry import FUSIONS, option

ACTS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


@FUSIONS.register("transae")
class TransAE(Fusion):
    version = 1
    provides = frozenset({Need.CODE})

    @dataclass(frozen=True)
    class Options(maps.Raw):
        act: str = option("tanh", "of both layers", choices=tuple(ACTS))
        hidden: int = option(0, "numbers per modality between the layers; 0: as many as the code has", minimum=0)
        structure: str = option(
            "none",
            "the structural vector: left out, an input of the encoder, or added to the code",
            choices=("none", "input", "add"),
        )

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.act, self.slot_count = ACTS[options.act], 1
        self.modalities = sorted(setting.features)
        width = setting.entity_width
        hidden = options.hidden or width
        self.inner = nn.ModuleList(
            maps.Linear(maps.vectors(setting, name, options), setting.present[name], hidden) for name in self.modalities
        )
        inputs = hidden * len(self.modalities) + (width if options.structure == "input" else 0)
        if self.modalities:
            self.outer = nn.Linear(inputs, width)

    @classmethod
    def needs(cls, options: Any) -> frozenset[Need]:
        return frozenset({Need.FEATURES} if options.structure == "none" else ())

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        if not self.modalities:
            return []
        inner = [layer.param_group(learning_rate) for layer in self.inner if isinstance(layer, maps.Linear)]
        return [*inner, {"params": list(self.outer.parameters()), "lr": learning_rate}]

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """`code` [N, D]."""
        return {"code": self._codes(entity, None)}

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., 1, D] for ids [...]: the code."""
        flat = ids.reshape(-1)
        return self._codes(rows(entity, flat), flat).view(*ids.shape, 1, -1)

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., 1], True."""
        return torch.ones(*ids.shape, 1, dtype=torch.bool, device=ids.device)

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        return slots.squeeze(-2)

    def _codes(self, structure: Tensor, ids: Tensor | None) -> Tensor:
        """[n, D]."""
        if not self.modalities:
            return structure
        parts = []
        for layer in self.inner:
            assert isinstance(layer, maps.Linear)
            there = (layer.present if ids is None else layer.present[ids]).unsqueeze(1)
            parts.append(torch.where(there, self.act(layer.slots(structure, ids)), 0.0))
        if self.options.structure == "input":
            parts.append(structure)
        code = self.act(self.outer(torch.cat(parts, dim=1)))
        return code + structure if self.options.structure == "add" else code
