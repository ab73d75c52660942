"""The diffusion that DHNS generates with, and its loss as an auxiliary of any sampler (`--set aux.diffusion=1`).

Names. The paper swaps the two letters of DDPM (notes/dhns.md 0.1), so none is used here: A_k is the share of the signal's
variance that is left in state k = 0..T, A_0 = 1; step t = 1..T adds noise of variance v_t = 1 - A_t / A_(t-1).

The reverse step is DDPM's (Ho et al., NeurIPS 2020). The paper's Eq. 4-6 are misprinted: they put the retained share where
the variance stands, which multiplies states by some 1e54 over the chain, and the variance where its root stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Auxiliary, Need, Positives, Setting, View
from nsbench.kernels.adam import Adam
from nsbench.registry import AUXILIARIES, option
from nsbench.samplers.parts.denoiser import Folded, denoiser, pieces

FLOOR = 0.01  # A_T of the cosine: bounds what an imperfect denoiser is amplified by to 1 / sqrt(A_T) = 10
DECAY = 0.99  # of the running means and scales of latents
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

    target: Tensor  # [2, B, S, D] what is diffused of the replaced entity
    condition: Tensor  # [2, B, S, D] the model's query of the same of the kept one (Eq. 7-9)
    target_mask: Tensor  # bool [2, B, S]
    condition_mask: Tensor  # bool [2, B, S]
    sources: tuple[Tensor, Tensor, Tensor]  # of the heads and of the tails [B, S, D], relations [B, Dr]


def both_ends(positives: Positives, view: View, slots: str = "all", masked: bool = True, swapped: bool = False) -> Ends:
    """`slots`: all of an entity's, the structural one alone (`structure`), or the one vector that it is `fused` into.

    masked=False takes missing features as delivered; swapped: the other end's query.
    """
    side = (torch.arange(2, device=view.device) == 0).view(2, 1, 1).expand(2, len(positives), 1)
    if slots == "fused":
        h, t = (view.vectors(ids).unsqueeze(1) for ids in (positives.h, positives.t))
    else:
        first = 1 if slots == "structure" else None
        h, t = (view.slots(ids)[:, :first] for ids in (positives.h, positives.t))
    if masked and slots == "all":  # what a missing slot holds must not matter, not even if it is nan
        masks = [view.slot_mask(ids) for ids in (positives.h, positives.t)]
        h, t = (torch.where(mask.unsqueeze(2), x, 0.0) for x, mask in zip((h, t), masks))
    else:
        masks = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) for x in (h, t)]
    r = view.relations(positives.r)
    condition = view.query(torch.stack([t, h]), r.unsqueeze(1), ~side if swapped else side)
    return Ends(torch.stack([h, t]), condition, torch.stack(masks), torch.stack(masks[::-1]), (h, t, r))


class Latents(nn.Module):
    """Running means [S, D] and, around them, root mean squares [S], of targets and of conditions.

    (x - mean) / scale is what is diffused: about the origin and of unit second moment, as the noise is. One scale per slot,
    because more would break a rotation (docs/notes/dhns.md 4.3). Centred, because what all entities share tells none from
    another, and noise in proportion to it would drown what does. A slot that was never seen has mean 0 and scale 1.
    """

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        for name in ("target", "condition"):
            self.register_buffer(f"{name}_mean", torch.zeros(slots, width))
            self.register_buffer(f"{name}_scale", torch.ones(slots))
        self.register_buffer("seen", torch.zeros(slots, dtype=torch.bool))
        self.target_mean: Tensor
        self.target_scale: Tensor
        self.condition_mean: Tensor
        self.condition_scale: Tensor
        self.seen: Tensor

    @torch.no_grad()
    def update(self, ends: Ends) -> None:
        present = torch.ones_like(self.seen)
        for mean, scale, x, mask in (
            (self.target_mean, self.target_scale, ends.target, ends.target_mask),
            (self.condition_mean, self.condition_scale, ends.condition, ends.condition_mask),
        ):
            count = mask.sum((0, 1))  # [S]
            some, old = (count > 0).unsqueeze(1), self.seen.unsqueeze(1)
            middle = (x * mask.unsqueeze(3)).sum((0, 1)) / count.clamp(min=1).unsqueeze(1)
            mean.copy_(torch.where(some, torch.where(old, torch.lerp(middle, mean, DECAY), middle), mean))
            square = ((x - mean).square().mean(3) * mask).sum((0, 1)) / count.clamp(min=1)
            rms = square.sqrt().clamp_min(1e-8)
            scale.copy_(torch.where(count > 0, torch.where(self.seen, torch.lerp(rms, scale, DECAY), rms), scale))
            present = present & (count > 0)
        self.seen |= present

    def of(self, ends: Ends) -> tuple[Tensor, Tensor]:
        """Targets and conditions [2, B, S, D] as latents."""
        target = (ends.target - self.target_mean) / self.target_scale.unsqueeze(1)
        return target, (ends.condition - self.condition_mean) / self.condition_scale.unsqueeze(1)

    def vectors(self, latents: Tensor) -> Tensor:
        """Latents [..., S, D] of targets as vectors of the model."""
        return torch.addcmul(self.target_mean, latents, self.target_scale.unsqueeze(1))


class Diffusion(nn.Module):
    """Denoiser with its optimiser, schedule and latents: everything that is trained by predicting noise.

    form: of the denoiser (nsbench.samplers.parts.denoiser). absolute: the loss of the released code. scaled=False diffuses
    vectors as they are.
    """

    def __init__(
        self,
        width: int,
        slots: int,
        steps: int,
        learning_rate: float,
        *,
        form: str = "released",
        schedule: str = "cosine",
        absolute: bool = False,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        self.schedule = Schedule(schedule, steps)
        self.denoiser = denoiser(form, width, steps)
        self.latents = Latents(slots, width) if scaled else None
        self.absolute = absolute
        self.adam = Adam([{"params": self.denoiser.parameters(), "lr": learning_rate}])

    def observe(self, ends: Ends) -> tuple[Tensor, Tensor]:
        """Targets and conditions [2, B, S, D] as latents, after the running means have taken them in."""
        if self.latents is None:
            return ends.target, ends.condition
        self.latents.update(ends)
        return self.latents.of(ends)

    def vectors(self, latents: Tensor) -> Tensor:
        """Latents [..., S, D] as vectors of the model."""
        return latents if self.latents is None else self.latents.vectors(latents)

    def loss(self, ends: Ends, latents: tuple[Tensor, Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The noise-prediction loss (Eq. 11), a scalar; and out of the graph what it is in each quarter of 1..T [QUARTERS],
        over the loss of what always predicts 0.

        One t and one eps per row and slot, shared by the two sides, as released. Squared error, averaged over the valid
        rows and then over slots and sides; or, as released, absolute error, summed over slots and sides.
        """
        target, condition = latents
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
            by_quarter /= math.sqrt(2 / math.pi) if self.absolute else 1.0  # what predicting 0 gives
        return means.sum() if self.absolute else means.mean(), by_quarter

    def learn(
        self, ends: Ends, latents: tuple[Tensor, Tensor], rng: torch.Generator, leak: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """One Adam step of the denoiser on its loss, and the loss by quarter.

        With `leak` also the loss as it was before the step, with its gradient on the model: one backward pass for both,
        because the parameters have changed when the model's own pass comes.
        """
        loss, by_quarter = self.loss(ends, latents, rng)
        parameters = list(self.denoiser.parameters())
        sources = list(ends.sources) if leak else []
        gradients = torch.autograd.grad(loss, parameters + sources)
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        self.adam.step()
        self.adam.zero_grad()
        if not leak:
            return None, by_quarter
        pull = torch.stack([(x * g).sum() for x, g in zip(sources, gradients[len(parameters) :])]).sum()
        return loss.detach() + pull - pull.detach(), by_quarter

    def descend(
        self,
        folded: Folded,
        condition: Tensor,
        states: Sequence[int],
        normal: Callable[[torch.Size], Tensor],
        out: Tensor,
        *,
        clip: float = 0.0,
        chains: int = 1,
    ) -> None:
        """A chain from noise for each row of the latent conditions [n, D] (Eq. 3-6); `states` are written to out [L, n, D].

        Stops at the least of them. With several chains, state i is taken from chain i.
        """
        for c, kept in zip(pieces(condition), pieces(out.transpose(0, 1))):
            given = folded.condition(c)
            for chain in range(chains):
                x = normal(c.shape)
                for t in range(self.schedule.steps, min(states), -1):
                    x = self.back(x, folded(x, t, given), t, normal, clip)
                    for place in range(chain, len(states), chains):
                        if states[place] == t - 1:
                            kept[:, place] = x

    def back(self, x: Tensor, eps: Tensor, t: int, normal: Callable[[torch.Size], Tensor], clip: float = 0.0) -> Tensor:
        """State t - 1 drawn given state t, x [n, D], and its predicted noise eps."""
        mean = self.schedule.mean(x, eps, t, clip)
        return mean if t == 1 else mean.add_(normal(x.shape), alpha=self.schedule.variance(t) ** 0.5)

    def get_extra_state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])


@AUXILIARIES.register("diffusion")
class DiffusionLoss(Auxiliary):
    """The noise-prediction loss as part of the model's objective, with a denoiser of its own.

    That is what the released DHNS trains embeddings with, unsaid in the paper (docs/notes/dhns.md 2.4): make an entity
    predictable, under noise, from the other end and the relation. Defaults are the released code's.
    """

    version = 2
    requires = frozenset({Need.LIVE, Need.QUERY, Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        timesteps: int = option(50, "T, diffusion steps", minimum=QUARTERS)
        learning_rate: float = option(2e-3, "learning rate of the denoiser", minimum=0)

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.diffusion = released(setting, options.timesteps, options.learning_rate)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """None: the denoiser has its own Adam."""
        return []

    def loss(self, positives: Positives, view: View) -> Tensor:
        ends = both_ends(positives, view, masked=False)
        leaked, _ = self.diffusion.learn(ends, self.diffusion.observe(ends), view.rng, leak=True)
        assert leaked is not None
        return leaked


def released(setting: Setting, steps: int, learning_rate: float) -> Diffusion:
    """As the authors' code has it (docs/notes/dhns.md 2.1)."""
    width, slots = setting.entity_width, setting.slots
    return Diffusion(width, slots, steps, learning_rate, schedule="linear", absolute=True, scaled=False)
