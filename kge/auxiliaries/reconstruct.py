"""Reconstruction, TransAE's second loss: a decoder finds an entity's features in its code (`--set aux.reconstruct=0.4`).

    loss = sum over modalities m of  mean |phi_m - Dec_m(z)|^2 / mean |phi_m|^2

Means over the entities of the sample that have m. A decoder that says zero has loss 1 for each modality, at any scale. The
features are pooled and at length 1. Decoders are linear by default: a sigmoid cannot reach what lies outside of (0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsbench.contracts import Auxiliary, Need, Positives, Setting, View
from nsbench.kernels.operators import rows
from nsbench.kge.fusions.maps import Raw, vectors
from nsbench.registry import AUXILIARIES, option


@AUXILIARIES.register("reconstruct")
class Reconstruct(Auxiliary):
    version = 1
    requires = frozenset({Need.LIVE, Need.FEATURES, Need.CODE})

    @dataclass(frozen=True)
    class Options:
        decoder: str = option(
            "linear", "of each modality; mlp: with a hidden layer of the code's width", choices=("linear", "mlp")
        )
        sample: int = option(4096, "entities a step; 0: all", minimum=0)

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.modalities, width = sorted(setting.features), setting.entity_width
        self.decoders = nn.ModuleList()
        for name in self.modalities:
            phi = vectors(setting, name, Raw())
            self.register_buffer(f"phi_{name}", phi, persistent=False)
            self.register_buffer(f"present_{name}", setting.present[name], persistent=False)
            hidden = [nn.Linear(width, width), nn.ReLU()] if options.decoder == "mlp" else []
            self.decoders.append(nn.Sequential(*hidden, nn.Linear(width, phi.shape[1])))

    def loss(self, positives: Positives, view: View) -> Tensor:
        entities, sample = view.graph.num_entities, self.options.sample
        if 0 < sample < entities:
            ids = torch.randint(entities, (sample,), generator=view.rng, device=view.device)
        else:
            ids = torch.arange(entities, device=view.device)
        code = view.slots(ids)[:, 0]
        losses = []
        for name, decoder in zip(self.modalities, self.decoders):
            phi, there = rows(getattr(self, f"phi_{name}"), ids), getattr(self, f"present_{name}")[ids]
            wrong = (phi - decoder(code)).square().sum(1) * there
            losses.append(wrong.sum() / (phi.square().sum(1) * there).sum().clamp_min(1e-12))
        return torch.stack(losses).sum()
