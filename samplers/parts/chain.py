"""The diffusion that DHNS generates with, and its loss as an auxiliary of any sampler (`--set aux.diffusion=1`).

Names. The paper swaps the two letters of DDPM (notes/dhns.md 0.1), so none is used here: A_k is the share of the signal's
variance that is left in state k = 0..T, A_0 = 1; step t = 1..T adds noise of variance v_t = 1 - A_t / A_(t-1).

The reverse step is DDPM's (Ho et al., NeurIPS 2020). The paper's Eq. 4-6 are misprinted: they put the retained share where
the variance stands, which multiplies states by some 1e54 over the chain, and the variance where its root stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Auxiliary, Need, Positives, Setting, View
from nsbench.registry import AUXILIARIES, option
from nsbench.samplers.parts.denoiser import denoiser, pieces

FLOOR = 0.01  # A_T of the cosine: bounds what an imperfect denoiser is amplified by to 1 / sqrt(A_T) = 10
DECAY = 0.99  # of the running latent scale
PRECISIONS = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}  # see parts.denoiser.precision
QUARTERS = 4  # of 1..T, for which the noise loss is told apart


class Schedule(nn.Module):
    """A_k as Python numbers, for the chain, and as tensors, for training.

    `linear`: v_t from 1e-4 to 0.02 spread over any T, as released; it never reaches noise (A_50 = 0.60). `cosine`:
    A_k = FLOOR + (1 - FLOOR) g(k) / g(0), g(k) = cos^2((k / T + 0.008) / 1.008 * pi / 2), which does.
    """

    def __init__(self, kind: str, steps: int) -> None:
        super().__init__()
        self.steps = steps
        kept = torch.tensor({"linear": linear, "cosine": cosine}[kind](steps), dtype=torch.float64)
        self.kept: list[float] = kept.tolist()  # [T + 1]
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)  # [T + 1]
        self.register_buffer("noise", (1 - kept).sqrt().float(), persistent=False)
        self.signal: Tensor
        self.noise: Tensor

    def variance(self, t: int) -> float:
        """v_t."""
        return 1 - self.kept[t] / self.kept[t - 1]

    def noised(self, x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """State k [...] of x [..., D], with noise eps [..., D] (Eq. 2)."""
        return self.signal[k].unsqueeze(-1) * x + self.noise[k].unsqueeze(-1) * eps

    def mean(self, x: Tensor, eps: Tensor, t: int, clip: float = 0.0) -> Tensor:
        """Mean of state t - 1 given state t, x [n, D], and its predicted noise eps (Eq. 3, corrected).

        clip > 0 keeps the signal that the prediction implies within +-clip.
        """
        now, before, v = self.kept[t], self.kept[t - 1], self.variance(t)
        if clip == 0:
            return torch.add(x, eps, alpha=-v / math.sqrt(1 - now)).mul_(math.sqrt(before / now))
        signal = torch.add(x, eps, alpha=-math.sqrt(1 - now)).mul_(1 / math.sqrt(now)).clamp_(-clip, clip)
        of_state = math.sqrt(now / before) * (1 - before) / (1 - now)
        return signal.mul_(math.sqrt(before) * v / (1 - now)).add_(x, alpha=of_state)


def linear(steps: int) -> list[float]:
    kept = [1.0]
    for t in range(steps):
        kept.append(kept[-1] * (1 - (1e-4 + (0.02 - 1e-4) * t / max(steps - 1, 1))))
    return kept


def cosine(steps: int) -> list[float]:
    g = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return [FLOOR + (1 - FLOOR) * x / g[0] for x in g]


@dataclass(frozen=True)
class Ends:
    """Both corruptions of a batch, the replaced head first: what stood there, and the condition for its replacement."""

    target: Tensor  # [2, B, S, D] slots of the replaced entity
    condition: Tensor  # [2, B, S, D] the model's query of the kept one, slot by slot (Eq. 7-9)
    target_mask: Tensor  # bool [2, B, S]
    condition_mask: Tensor  # bool [2, B, S]
    sources: tuple[Tensor, Tensor, Tensor]  # slots of the heads and of the tails [B, S, D], relations [B, Dr]


def both_ends(
    positives: Positives, view: View, masked: bool = True, slots: int | None = None, swapped: bool = False
) -> Ends:
    """masked=False takes missing features as delivered; `slots` keeps the first so many; swapped: the other end's query."""
    side = (torch.arange(2, device=view.device) == 0).view(2, 1, 1).expand(2, len(positives), 1)
    h, t = (view.slots(ids)[:, :slots] for ids in (positives.h, positives.t))
    masks = [view.slot_mask(ids)[:, :slots] for ids in (positives.h, positives.t)]
    if masked:  # what a missing slot holds must not matter, not even if it is nan
        h, t = (torch.where(mask.unsqueeze(2), x, 0.0) for x, mask in zip((h, t), masks))
    else:
        masks = [torch.ones_like(mask) for mask in masks]
    r = view.relations(positives.r)
    condition = view.query(torch.stack([t, h]), r.unsqueeze(1), ~side if swapped else side)
    return Ends(torch.stack([h, t]), condition, torch.stack(masks), torch.stack(masks[::-1]), (h, t, r))


class LatentScale(nn.Module):
    """A running root mean square per slot, of targets and of conditions: latents have unit second moment, as the noise has.

    One number per slot, because more would break a rotation (notes/dhns.md 4.3). A slot that was never seen has scale 1.
    """

    def __init__(self, slots: int, active: bool) -> None:
        super().__init__()
        self.active = active
        self.register_buffer("target", torch.ones(slots))
        self.register_buffer("condition", torch.ones(slots))
        self.register_buffer("seen", torch.zeros(slots, dtype=torch.bool))
        self.target: Tensor
        self.condition: Tensor
        self.seen: Tensor

    @torch.no_grad()
    def update(self, ends: Ends) -> None:
        if not self.active:
            return
        present = torch.ones_like(self.seen)
        for scale, x, mask in (
            (self.target, ends.target, ends.target_mask),
            (self.condition, ends.condition, ends.condition_mask),
        ):
            count = mask.sum((0, 1))  # [S]
            square = (x.square().mean(3) * mask).sum((0, 1)) / count.clamp(min=1)
            rms = square.sqrt().clamp_min(1e-8)
            present = present & (count > 0)
            scale.copy_(torch.where(count > 0, torch.where(self.seen, torch.lerp(rms, scale, DECAY), rms), scale))
        self.seen |= present


class Diffusion(nn.Module):
    """Denoiser, schedule and latent scale: everything that is trained by predicting noise."""

    def __init__(
        self,
        width: int,
        slots: int,
        steps: int,
        schedule: str,
        form: str,
        loss: str,
        normalise: bool,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.schedule = Schedule(schedule, steps)
        self.denoiser = denoiser(form, width, steps, PRECISIONS[precision])
        self.scale = LatentScale(slots, normalise)
        self.absolute = loss == "l1"

    def latents(self, ends: Ends) -> tuple[Tensor, Tensor]:
        """Targets and conditions [2, B, S, D] over their scales."""
        if not self.scale.active:
            return ends.target, ends.condition
        return ends.target / self.scale.target.unsqueeze(1), ends.condition / self.scale.condition.unsqueeze(1)

    def loss(self, ends: Ends, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The noise-prediction loss (Eq. 11), a scalar, and what it is in each quarter of 1..T [QUARTERS], out of the graph.

        One t and one eps per row and slot, shared by the two sides, as released. Squared error, averaged over the valid
        rows and then over slots and sides; or, as released, absolute error, summed over slots and sides.
        """
        self.scale.update(ends)
        target, condition = self.latents(ends)
        _, batch, slots, width = target.shape
        t = torch.randint(1, self.schedule.steps + 1, (batch, slots), generator=rng, device=target.device)
        eps = torch.randn(batch, slots, width, generator=rng, device=target.device)
        folded = self.denoiser.fold()
        x = self.schedule.noised(target, t, eps)
        rows = (x.reshape(-1, width), t.expand(2, batch, slots).reshape(-1), condition.reshape(-1, width))
        parts = [folded(x_p, t_p, folded.condition(c_p)) for x_p, t_p, c_p in zip(*(pieces(part) for part in rows))]
        error = torch.cat(parts).view_as(x) - eps
        error = (error.abs() if self.absolute else error.square()).mean(3)  # [2, B, S]
        valid = ends.target_mask & ends.condition_mask
        means = (error * valid).sum(1) / valid.sum(1).clamp(min=1)  # [2, S]
        with torch.no_grad():
            quarter = ((t - 1) * QUARTERS // self.schedule.steps).expand_as(error)
            inside = (quarter.unsqueeze(-1) == torch.arange(QUARTERS, device=t.device)) & valid.unsqueeze(-1)
            by_quarter = (error.unsqueeze(-1) * inside).sum((0, 1, 2)) / inside.sum((0, 1, 2)).clamp(min=1)
        return means.sum() if self.absolute else means.mean(), by_quarter


@AUXILIARIES.register("diffusion")
class DiffusionLoss(Auxiliary):
    """The noise-prediction loss as part of the model's objective, with a denoiser of its own.

    That is what the released DHNS trains embeddings with, unsaid in the paper (docs/notes/dhns.md 2.4): make an entity
    predictable, under noise, from the other end and the relation. Defaults are the released code's.
    """

    requires = frozenset({Need.LIVE, Need.QUERY, Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        timesteps: int = option(50, "T, diffusion steps", minimum=QUARTERS)
        learning_rate: float = option(2e-3, "learning rate of the denoiser; the protocol's decay applies", minimum=0)

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.diffusion = Diffusion(setting.entity_width, setting.slots, options.timesteps, "linear", "released", "l1", False)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.options.learning_rate}]

    def loss(self, positives: Positives, view: View) -> Tensor:
        return self.diffusion.loss(both_ends(positives, view, masked=False), view.rng)[0]
