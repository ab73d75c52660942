"""Modality adversarial training, the second half of AdaMF-MAT (Zhang et al., LREC-COLING 2024), beside the fusion `adamf`.

For each modality a generator G_m makes a feature vector out of noise z_m ~ N(0, I) and the structural vector e_0; a fake
entity is fused from the true structure and all generated features, those of modalities that it lacks included:

    fake(e)     = fuse(e_0, G_1([z_1; e_0]), G_2([z_2; e_0]), ...)
    f_1..3      = f(fake(h), r, t), f(h, r, fake(t)), f(fake(h), r, fake(t))
    model       + mu sum_i 1/2 [ -log sigma(f(h, r, t)) - log sigma(-f_i) ]       `--set aux.mat=mu`
    generators  sum_i 1/2 [ -log sigma(f_i) ]

The model's term reaches the structural vectors through the generators' input too. The generators take their step after
the model's, on the same batch with fresh noise; here that is when the next batch begins. All of it is notes/dhns.md 6.4.

The released scripts pass mu = 0. Their code weights the fakes by a softmax over the batch: `temperature=2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsbench.contracts import Auxiliary, Need, Positives, Scoring, Setting, View
from nsbench.kernels.adam import Adam
from nsbench.kernels.operators import rows
from nsbench.registry import AUXILIARIES, option

NOISE, HIDDEN = 64, 512


@AUXILIARIES.register("mat")
class MAT(Auxiliary):
    version = 1
    requires = frozenset({Need.LIVE, Need.FEATURES, Need.SLOTS, Need.ALONE})

    @dataclass(frozen=True)
    class Options:
        learning_rate: float = option(1e-4, "the generators' learning rate", minimum=0)
        temperature: float = option(
            0.0,
            "in a softmax over the batch that weights the fakes in the model's term; 0: plain mean",
            minimum=0,
        )

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        width = setting.entity_width
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Linear(NOISE + width, HIDDEN), nn.LeakyReLU(0.01), nn.Linear(HIDDEN, width))
            for _ in range(setting.slots - 1)
        )
        self.generators.requires_grad_(False)  # but for the time of their own step
        self.adam = Adam([{"params": self.generators.parameters(), "lr": options.learning_rate}])
        self.last: Tensor | None = None  # [B, 3] the batch that the generators have yet to learn from

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """None: the generators have an optimiser, and an opposite aim, of their own."""
        return []

    def get_extra_state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "last": self.last}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        device = next(self.generators.parameters()).device
        self.last = None if state["last"] is None else state["last"].to(device)

    def loss(self, positives: Positives, view: View) -> Tensor:
        """The model's term for this batch, after the generators' step for the one before."""
        if self.last is not None:
            self._learn(self.last, view)
        if self.last is None:
            self.last = positives.hrt.clone()
        else:
            self.last.copy_(positives.hrt)  # in place: a CUDA graph knows no other tensor
        s_pos, s_fake = self._scores(positives.hrt, view.scoring, view.rng)
        terms = -F.logsigmoid(-s_fake)
        if self.options.temperature > 0:
            terms = len(positives) * (self.options.temperature * s_fake.detach()).softmax(1) * terms
        return 0.5 * (terms - F.logsigmoid(s_pos)).mean(1).sum()

    def regime(self, view: View) -> bool:
        """Whether there is a batch to learn from."""
        return self.last is not None

    def _learn(self, hrt: Tensor, view: View) -> None:
        self.generators.requires_grad_(True)
        _, s_fake = self._scores(hrt, view.scoring.detached(), view.rng)
        loss = -0.5 * F.logsigmoid(s_fake).mean(1).sum()
        self.adam.zero_grad()
        loss.backward(inputs=list(self.generators.parameters()))  # not the fusion's q, which is no table
        self.adam.step()
        self.generators.requires_grad_(False)

    def _scores(self, hrt: Tensor, scoring: Scoring, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """f of the triples hrt [B, 3], [B], and of their three fakes, [3, B]."""
        h, r, t = hrt.unbind(1)
        ends = torch.stack([h, t])
        true_h, true_t = scoring.vectors(ends)
        fake_h, fake_t = self._fakes(rows(scoring.entity, ends), scoring, rng)
        heads = torch.stack([true_h, fake_h, true_h, fake_h])  # [4, B, D]
        tails = torch.stack([true_t, true_t, fake_t, fake_t])
        relation = scoring.relations(r).expand(len(heads), -1, -1)
        side = torch.zeros(heads.shape[:2], dtype=torch.bool, device=hrt.device)
        scale = scoring.kge.scale(relation, side)
        q = scoring.kge.query(heads, relation, side)
        s = scoring.kge.similarity.pairwise(q, tails if scale is None else tails * scale)
        return s[0], s[1:]

    def _fakes(self, structure: Tensor, scoring: Scoring, rng: torch.Generator) -> Tensor:
        """Fused fakes [..., D] of structural vectors [..., D]."""
        shape = (len(self.generators), *structure.shape[:-1], NOISE)
        noise = torch.randn(shape, generator=rng, device=structure.device)
        features = [g(torch.cat([z, structure], dim=-1)) for g, z in zip(self.generators, noise)]
        slots = torch.stack([structure, *features], dim=-2)
        fused = scoring.fusion.fuse(slots, torch.ones(slots.shape[:-1], dtype=torch.bool, device=slots.device))
        return scoring.kge.scored(fused)
