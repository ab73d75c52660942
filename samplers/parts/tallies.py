"""What is told of DHNS's generated negatives after a run. Registers nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Negatives
from nsbench.samplers.parts.chain import QUARTERS


@dataclass(frozen=True)
class Corruption:
    """Marks a generated block in its tape: which ends of the positive it replaces."""

    ends: str


CORRUPTIONS = ("head", "tail", "both")
RECENT = 50  # steps that the noise loss is averaged over: what counts is what the denoiser has come to


class Statistics(nn.Module):
    """Running sums on the device; nothing is read before the run has ended.

    score, gradient [3, L]      generated negatives' score and sigmoid(logit), their share of the largest gradient
    score_positive, score_base  of positives, of the base's negatives
    to_true, to_other [3, L]    distance of slot 0 to the replaced entity, and to another one, over the replaced one's norm
    noise_loss [QUARTERS]       of the denoiser in each quarter of 1..T, a running mean over some RECENT steps; what always
                                predicts 0 has 1
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        by_level = (len(CORRUPTIONS), count)
        shapes = {
            "score": by_level,
            "gradient": by_level,
            "to_true": by_level,
            "to_other": by_level,
            "noise_loss": (QUARTERS,),
            "score_positive": (),
            "score_base": (),
        }
        self.noise_loss: Tensor
        self.noise_loss_steps: Tensor
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(f"{name}_steps", torch.zeros(shape))

    @torch.no_grad()  # with `leak` what is counted hangs on the model's graph, which a running sum would keep for good
    def add(self, name: str, value: Tensor, place: Any = ...) -> None:
        getattr(self, name)[place] += value
        getattr(self, f"{name}_steps")[place] += 1

    @torch.no_grad()
    def learnt(self, by_quarter: Tensor) -> None:
        """The noise loss of one step, [QUARTERS]."""
        self.noise_loss_steps += 1
        self.noise_loss.lerp_(by_quarter, (1 / self.noise_loss_steps).clamp_min(1 / RECENT))

    def scored(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> None:
        """One block's scores, s_neg [B, K], K being L or L * S."""
        if not isinstance(negatives.tape, Corruption):
            self.add("score_positive", s_pos.mean())
            self.add("score_base", s_neg.mean())
            return
        assert negatives.weight is not None
        place = CORRUPTIONS.index(negatives.tape.ends)
        logit = s_neg if negatives.margin_shift is None else s_neg + negatives.margin_shift
        for name, x in (("score", s_neg), ("gradient", logit.sigmoid())):
            by_level = (x * (negatives.weight > 0)).unflatten(1, (self.count, -1)).sum((0, 2))
            counted = (negatives.weight > 0).unflatten(1, (self.count, -1)).sum((0, 2))
            self.add(name, by_level / counted.clamp(min=1), place)

    @torch.no_grad()
    def placed(self, generated: Tensor, truth: Tensor) -> None:
        """Slot 0 of generated vectors [2, B, L, D] and of the entities [2, B, D] that they replace."""
        norm = torch.linalg.vector_norm(truth, dim=2, keepdim=True).clamp_min(1e-12)
        for name, entity in (("to_true", truth), ("to_other", truth.roll(1, dims=1))):
            distance = torch.linalg.vector_norm(generated - entity.unsqueeze(2), dim=3)
            self.add(name, (distance / norm).mean(1), slice(2))

    def means(self, states: list[int]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, steps in self.named_buffers():
            if not name.endswith("_steps"):
                continue
            name = name.removesuffix("_steps")
            mean = getattr(self, name) / (steps if name != "noise_loss" else steps > 0)
            if mean.dim() == 0:
                labels = [name]
            elif mean.dim() == 1:
                labels = [f"{name}_quarter{i + 1}" for i in range(QUARTERS)]
            else:
                labels = [f"{name}_{corruption}_{i}_state{k}" for corruption in CORRUPTIONS for i, k in enumerate(states)]
            found |= {label: x for label, x in zip(labels, mean.flatten().tolist()) if x == x}  # nan: never counted
        return found
