"""DHNS as its authors' code has it (github.com/ngl567/DHNS; docs/notes/dhns.md section 2), beside `dhns`, which mends it.

What it does for DistMult, and would do for the others, where it crashes (T13). The marks are those of section 2:

    D1, D2      absolute error, summed over slots and sides
    D4, D16     a linear schedule that never reaches noise, and vectors as they are, of whatever scale
    D10         a head is one more step from the *tail's* state, under the head's condition
    D12, T4     states T/10, T/8, T/4, T/2 with weights 0.5, 1, 1, 0.5 (and state 0 with weight 0, not generated here)
    D13         TransE's condition has the sign of the other side
    T2          the diffusion loss trains the embeddings too (`leak`), as `--set aux.diffusion=1` does for any sampler
    T7          both ends at once are a third corruption
    T8          positives count once, with the full margin
    T11         the fusion makes one vector of the generated slots, with which the kept end is scored
    T12         no margins for models without one
    K3          a missing feature is what the fusion delivers

Departures. The released DistMult trains on structural vectors and generates for the features' slots too; here slots come
from the fusion, so that needs `--fusion adamf`, which is then scored. Batches and sides of the sampled negatives are the
protocol's. Nothing is copied: the algebra differs (nsbench.samplers.parts.denoiser), the distribution does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Generated, Need, Negatives, Positives, Setting, View
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.dhns import DHNS
from nsbench.samplers.parts.chain import QUARTERS, Diffusion, both_ends, released
from nsbench.samplers.parts.tallies import Corruption

FRACTIONS = ((10, 0.5, 0.3), (8, 1.0, 0.5), (4, 1.0, 0.7), (2, 0.5, 0.9))  # (divisor of T, weight, margin)


@SAMPLERS.register("dhns_released")
class DHNSReleased(DHNS):
    version = 1

    @dataclass(frozen=True)
    class Options:
        weight: float = option(0.01, "mu, weight of the generated negatives", minimum=0, search=(0.01, 0.1, 1.0, 10.0))
        timesteps: int = option(50, "T, diffusion steps", minimum=QUARTERS)
        learning_rate: float = option(2e-3, "the denoiser's learning rate", minimum=0)
        leak: bool = option(True, "the diffusion loss trains the model as well")

    variants = {"wo_leak": {"leak": False}}

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.leaked: Tensor | None = None

    @classmethod
    def needs(cls, options: Any) -> frozenset[Need]:
        return cls.requires | ({Need.LIVE} if options.leak else set())

    @classmethod
    def reads(cls, options: Any, features: Sequence[str], slots: Sequence[str]) -> tuple[list[str], str]:
        if options.weight == 0:
            return [], ""
        return ["structure", *slots], "" if slots else "w/o MMC"

    def _fractions(self) -> Sequence[tuple[int, float, float]]:
        return FRACTIONS

    def _diffusion(self, setting: Setting) -> Diffusion:
        return released(setting, self.options.timesteps, self.options.learning_rate)

    def sample(self, positives: Positives, view: View) -> list[Negatives]:
        """Uniform ids [B, K], and vectors [B, L, S, D] for heads, tails, and both at once."""
        blocks = [self.base.sample(positives, view)]
        ends = both_ends(positives, view, masked=False, swapped=view.scoring.kge.translates)
        latents = self.diffusion.observe(ends)
        self.leaked, by_quarter = self.diffusion.learn(ends, latents, self.rng, self.options.leak)
        self.statistics.learnt(by_quarter)
        if self.options.weight == 0:
            return blocks
        margin = view.scoring.kge.similarity.margin
        with torch.no_grad():
            heads, tails = generated = self._reverse(ends.condition)
            self.statistics.placed(generated[:, :, :, 0], ends.target[:, :, 0])
        for name, vectors, anchors, truth in (
            ("head", heads, None, ends.target[0].detach()),
            ("tail", tails, None, ends.target[1].detach()),
            ("both", tails, heads, None),
        ):
            mask = torch.ones(vectors.shape[0], vectors.shape[2], dtype=torch.bool, device=vectors.device)
            blocks.append(
                Negatives(
                    side=torch.full((len(vectors),), name == "head", device=vectors.device),
                    generated=Generated(vectors, mask, anchors, joint="fuse", truth=truth),
                    weight=self.level_weight.expand(len(vectors), -1),
                    margin_shift=((self.level_margin - 1) * (margin or 0.0)).expand(len(vectors), -1),
                    reduce="weighted",
                    coef=self.options.weight * sum(level.weight for level in self.levels) / len(self.levels) / 3,
                    tape=Corruption(name),
                )
            )
        return blocks

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """With `leak`, once per step, the diffusion loss with its gradient on the model."""
        super().feedback(negatives, s_pos, s_neg)
        leaked, self.leaked = self.leaked, None
        return leaked

    @torch.no_grad()
    def _reverse(self, condition: Tensor) -> Tensor:
        """States [2, B, L, S, D] of the levels under conditions [2, B, S, D]: tails, and of each a head."""
        width, states = condition.shape[-1], [level.state for level in self.levels]
        head, tail = condition.reshape(2, -1, width)
        folded = self.diffusion.denoiser.fold()
        kept = tail.new_empty(len(states), 2, len(tail), width)
        self.diffusion.descend(folded, tail, states, self._normal, kept[:, 1])
        given = folded.condition(head)
        for state, (out, x) in zip(states, kept):
            t = state + 1  # the step that led to x, once more
            out.copy_(self.diffusion.back(x, folded(x, t, given), t, self._normal))
        return kept.view(len(states), *condition.shape).permute(1, 2, 0, 3, 4)
