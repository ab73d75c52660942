"""DHNS: hierarchical negatives from a diffusion over embeddings (Niu and Zhang, DASFAA 2025, arXiv 2501.15393).

On top of the negatives of any sampler (`base`), each positive gets L generated vectors per side, one for each level of
hardness. A step, in the paper's order (section 1 of docs/notes/dhns.md; A_k and states as in nsbench.samplers.parts.chain):

    Eq. 1-2     x_k = sqrt(A_k) x_0 + sqrt(1 - A_k) eps                           Schedule.noised
    Eq. 7-9     C_m = query(e_m, r, side), e_m the kept end in slot m             both_ends
    Eq. 10-11   one step of the denoiser on |eps_hat(x_k, k, C_m) - eps|^2        Diffusion.loss, DHNS._learn
    Eq. 3-6     from noise down to the least of the levels' states: a state       Schedule.mean, DHNS._generate
                k gives one negative per slot and side
    Eq. 12      J_l = mean over slots of f(kept end, r, generated slot)           Negatives.joint
    Eq. 13      mean over levels, sides, batch of                                 DHNS._block
                -log s(f_pos - shift_l) - w_l log s(-(J_l - shift_l)), shift_l = (1 - m_l) gamma
    Eq. 14-15   the base's loss + weight x Eq. 13                                 the trainer

Each weight w_l, margin m_l, schedule value and the weight is a guess: the paper gives none (docs/notes/dhns.md section 3).

Variants. `paper`: its equations with the misprints mended, latents scaled to unit second moment, a schedule that reaches
noise, a pass of warm-up; `recommended` is the same. The LayerNorm at the end of its Eq. 10 gives every prediction one
length, so nothing pulls a state back that has grown too long, and the chain runs off until it is clipped: vectors of twice
the entities' length, and no order in the levels. `tamed` has the released denoiser instead, with which a smaller k is a
harder negative, as the paper means it (both in tests/samplers/test_dhns.py). Validation does not tell the two apart: MRR x
100 on MKG-Y, protocol cpu-mm, one seed, 28.85 (TransE) and 21.20 (DistMult) of `tamed`, 28.83 and 21.19 of `paper`.

`released` is what the authors' code does for DistMult, and would do for the others, where it crashes: heads are one more
step from the *tail's* state, both ends at once are a third corruption, absolute error, no scaling, five other levels of
which one has weight 0, TransE's condition has the wrong sign, and the diffusion loss trains the embeddings too (`leak`).
The rest are the ablations of the paper's Table 5, on top of `recommended` (`wo_leak`: of `released`), and two controls:
`forward` noises the true entity, `gauss` draws noise of the second moment that the chain's vectors have.

Departures from the released code. Its DistMult trains on structural vectors but generates for the features' slots too; here
slots come from the fusion, so that needs `--fusion adamf`, which is then scored. State 0, which it generates and weights
with 0, is not generated. Batches and sides of the base are the protocol's. Nothing is copied: the algebra differs
(nsbench.samplers.parts.denoiser), the distribution does not.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nsbench.contracts import Generated, Need, Negatives, Objective, Positives, Sampler, Setting, View
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts.chain import PRECISIONS, QUARTERS, Diffusion, Ends, both_ends
from nsbench.samplers.parts.denoiser import Folded, pieces
from nsbench.samplers.parts.tallies import Corruption, Statistics


@dataclass(frozen=True)
class Level:
    """A kept state with its weight w_l and the multiplier m_l of its margin."""

    state: int
    weight: float
    margin: float


LEVELS: dict[str, tuple[tuple[int, float, float], ...]] = {  # (divisor of T, weight, margin)
    "paper": ((20, 4 / 17, 0.3), (10, 8 / 17, 0.5), (5, 16 / 17, 0.7), (2, 40 / 17, 0.9)),  # as 1/20 : 1/10 : 1/5 : 1/2
    "released": ((10, 0.5, 0.3), (8, 1.0, 0.5), (4, 1.0, 0.7), (2, 0.5, 0.9)),  # and state 0, of weight 0
    "one": ((10, 1.0, 0.5),),
    "one_x4": ((10, 1.0, 0.5),) * 4,  # four chains
}


def levels(name: str, steps: int) -> list[Level]:
    """The levels of a chain of T = `steps`, least noise first; warns where integer division makes two of a list equal."""
    found = [Level(steps // divisor, weight, margin) for divisor, weight, margin in LEVELS[name]]
    states = [level.state for level in found]
    if name != "one_x4" and len(set(states)) < len(states):
        warnings.warn(f"dhns: T = {steps} is too short for {len(states)} levels, their states are {states}", stacklevel=2)
    return found


RELEASED: dict[str, Any] = {
    "schedule": "linear",
    "normalise": False,
    "clip": 0.0,
    "warmup": 0,
    "levels": "released",
    "heads": "leaf",
    "denoiser": "released",
    "noise_loss": "l1",
    "condition": "released",
    "leak": True,
    "joint": "fuse",
    "positive": "once",
    "missing": "impute",
    "gamma0": 0.0,
    "learning_rate": 2e-3,
}


@SAMPLERS.register("dhns")
class DHNS(Sampler):
    version = 2
    requires = frozenset({Need.QUERY, Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        base: str = option("uniform", "sampler of the negatives beside the generated ones, its options at their defaults")
        weight: float = option(
            0.01, "lambda, weight of the generated negatives; 0: none are generated", minimum=0, search=(0.01, 0.1, 1.0)
        )
        chain: str = option(
            "reverse",
            "reverse: generate; forward: noise the true entity; gauss: noise of equal second moment",
            choices=("reverse", "forward", "gauss"),
        )
        timesteps: int = option(50, "T, diffusion steps", minimum=QUARTERS, search=(20, 50, 70, 100))
        schedule: str = option("cosine", "noise: cosine down to A_T = 0.01, or linear", choices=("cosine", "linear"))
        normalise: bool = option(True, "diffuse vectors over their running root mean square, per slot")
        clip: float = option(4.0, "bound on the signal implied by a prediction, in latent units; 0: none", minimum=0)
        warmup: int = option(1, "passes over train before generated negatives count", minimum=0)
        levels: str = option("paper", "states kept, weights and margins", choices=tuple(LEVELS))
        heads: str = option(
            "own",
            "own: a chain per side; leaf: one more step from the tail's state, and both ends at once are a third corruption",
            choices=("own", "leaf"),
        )
        denoiser: str = option("paper", "form of the denoiser and its time embedding", choices=("paper", "released"))
        noise_loss: str = option("mse", "mse, a mean over slots and sides, or l1, their sum", choices=("mse", "l1"))
        condition: str = option(
            "query", "query: the model's; released: for TransE that of the other side", choices=("query", "released")
        )
        slots: str = option("all", "all, or the structural slot alone", choices=("all", "structure"))
        missing: str = option(
            "mask", "missing features: mask, or impute, which takes what the fusion delivers", choices=("mask", "impute")
        )
        joint: str = option("score", "slots: mean of their scores, or score of their fusion", choices=("score", "fuse"))
        hal: str = option(
            "on",
            "hardness-adaptive loss; flat: no margins; off: nor weights, and every slot is a negative of its own",
            choices=("on", "flat", "off"),
        )
        positive: str = option(
            "per_level", "positives get each level's margin, or count once with the full one", choices=("per_level", "once")
        )
        gamma0: float = option(4.0, "stands for gamma in the margins of models without one", minimum=0)
        leak: bool = option(False, "the diffusion loss trains the model as well")
        precision: str = option(
            "auto",
            "of the denoiser's products; auto: bfloat16 on a GPU, float32 on a CPU",
            choices=tuple(PRECISIONS),
        )
        learning_rate: float = option(5e-4, "the denoiser's learning rate", minimum=0, search=(1e-4, 5e-4, 2e-3))

    variants = {
        "paper": {},
        "tamed": {"denoiser": "released"},
        "released": RELEASED,
        "wo_leak": {**RELEASED, "leak": False},
        "wo_diffheg": {"weight": 0.0},
        "wo_mmc": {"slots": "structure"},
        "wo_mhld": {"levels": "one"},
        "mhld_same_count": {"levels": "one_x4"},
        "wo_hal": {"hal": "flat"},
        "wo_ntat": {"hal": "off"},
        "forward": {"chain": "forward"},
        "gauss": {"chain": "gauss"},
    }

    def __init__(self, setting: Setting, options: Options) -> None:
        super().__init__(setting, options)
        self.base = base_sampler(options.base, setting)
        self.filtered = self.base.filtered
        # With `leak` the model's part of the diffusion loss is `feedback`, which phases of the model alone do not ask for.
        if options.leak and type(self.base).phase is not Sampler.phase:
            raise Misuse(
                f"dhns with sampler.leak cannot be put on top of '{options.base}', which learns in turns with "
                "the model; set sampler.leak=false or another sampler.base"
            )
        self.levels = levels(options.levels, options.timesteps)
        weight = torch.tensor([level.weight for level in self.levels])
        for name, values in (
            ("state", torch.tensor([level.state for level in self.levels])),
            ("weight", weight / weight.mean()),
            ("margin", torch.tensor([level.margin for level in self.levels])),
        ):
            self.register_buffer(f"level_{name}", values, persistent=False)  # [L]
        self.level_state: Tensor
        self.level_weight: Tensor
        self.level_margin: Tensor
        self.slots = 1 if options.slots == "structure" else setting.slots
        self.diffusion = Diffusion(
            setting.entity_width,
            self.slots,
            options.timesteps,
            options.schedule,
            options.denoiser,
            options.noise_loss,
            options.normalise,
            options.precision,
        )
        self.adam = torch.optim.Adam(self.diffusion.parameters(), lr=options.learning_rate, fused=True)
        # A stream of its own, so that the base draws what it would draw alone.
        self.rng = torch.Generator(device=setting.graph.device)
        self.statistics = Statistics(len(self.levels))
        self.leaked: Tensor | None = None

    @classmethod
    def needs(cls, options: Options) -> frozenset[Need]:
        """The choice of the side where the base makes it, and with `leak` gradients into the model, beside `requires`."""
        base = SAMPLERS.get(options.base)
        side = {Need.SIDE} & base.needs(base.Options())
        return cls.requires | side | ({Need.LIVE} if options.leak else set())

    @classmethod
    def reads(cls, options: Options, features: Sequence[str], slots: Sequence[str]) -> tuple[list[str], str]:
        """The slots that are diffused. With one slot alone nothing is conditioned on another: the paper's `w/o MMC`."""
        read = ["structure", *(slots if options.slots == "all" else ())]
        return read, "w/o MMC" if len(read) == 1 and options.weight > 0 else ""

    @property
    def learns(self) -> bool:
        """Whether anything uses the denoiser."""
        return self.options.leak or (self.options.weight > 0 and self.options.chain != "forward")

    def pretrain(self, view: View) -> None:
        seed = torch.randint(2**62, (), generator=view.rng.clone_state(), device=view.device)
        self.rng.manual_seed(int(seed))
        self.base.pretrain(view)

    def sample(self, positives: Positives, view: View) -> list[Negatives]:
        """The base's blocks; then, after the warm-up, one per corruption with vectors [B, L, S, D]. Algorithm 1."""
        detached = dataclasses.replace(view, scoring=view.scoring.detached())
        drawn = self.base.sample(positives, detached)
        blocks = [drawn] if isinstance(drawn, Negatives) else drawn
        counts = self.options.weight > 0 and view.epoch >= self.options.warmup
        if not (self.learns or counts):
            return blocks
        swapped = self.options.condition == "released" and view.scoring.kge.translates
        ends = both_ends(positives, view, self.options.missing == "mask", self.slots, swapped)
        if self.learns:
            self._learn(ends)
        elif self.options.normalise:
            self.diffusion.scale.update(ends)
        return blocks + (self._corruptions(self._generate(ends), ends, view) if counts else [])

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """The base's own loss; with `leak`, once per step, the diffusion loss with its gradient on the model."""
        self.statistics.scored(negatives, s_pos, s_neg)
        if isinstance(negatives.tape, Corruption):
            return None
        own, leaked, self.leaked = self.base.feedback(negatives, s_pos, s_neg), self.leaked, None
        return own if leaked is None else leaked if own is None else own + leaked

    def _learn(self, ends: Ends) -> None:
        """One Adam step on the noise-prediction loss (Eq. 11). Its gradient on the model is kept for `feedback`."""
        loss, by_quarter = self.diffusion.loss(ends, self.rng)
        self.statistics.add("noise_loss", by_quarter)
        parameters = list(self.diffusion.parameters())
        # One backward pass for both: the parameters change before the model's own pass comes.
        sources = list(ends.sources) if self.options.leak else []
        gradients = torch.autograd.grad(loss, parameters + sources)
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.options.leak:
            pulls = [(x * g).sum() for x, g in zip(sources, gradients[len(parameters) :])]
            pull = torch.stack(pulls).sum()
            self.leaked = loss.detach() + pull - pull.detach()  # the loss's value, and its gradient

    @torch.no_grad()
    def _generate(self, ends: Ends) -> Tensor:
        """[2, B, L, S, D], in the scale of the model's vectors, the replaced head first."""
        target, condition = self.diffusion.latents(ends)
        _, batch, slots, width = condition.shape
        if self.options.chain == "forward":
            truth = target.unsqueeze(2).expand(-1, -1, len(self.levels), -1, -1)
            generated = self.diffusion.schedule.noised(truth, self.level_state.unsqueeze(1), self._normal(truth.shape))
        else:
            rows = condition.reshape(2, batch * slots, width)
            generated = self._reverse(rows).view(len(self.levels), 2, batch, slots, width).permute(1, 2, 0, 3, 4)
        if self.options.chain == "gauss":
            mask = ends.condition_mask.view(2, batch, 1, slots, 1)
            square = (generated.square() * mask).sum((1, 4), keepdim=True)
            moment = square / (width * mask.sum((1, 4), keepdim=True)).clamp(min=1)  # [2, 1, L, S, 1]
            generated = self._normal(generated.shape) * moment.sqrt()
        if self.options.normalise:
            generated = generated * self.diffusion.scale.target.unsqueeze(1)
        return generated

    def _reverse(self, condition: Tensor) -> Tensor:
        """States [L, 2, n, D] of the levels (Eq. 3-6) under latent conditions [2, n, D]."""
        folded = self.diffusion.denoiser.fold()
        n, width = condition.shape[1:]
        kept = condition.new_empty(len(self.levels), 2, n, width)
        if self.options.heads == "own":
            self._descend(folded, condition.view(2 * n, width), kept.view(-1, 2 * n, width))
            return kept
        heads, tails = kept.unbind(1)
        self._descend(folded, condition[1], tails)
        head = folded.condition(condition[0])
        for level, x, out in zip(self.levels, tails, heads):
            t = level.state + 1  # the step that led to x, once more
            out.copy_(self._back(x, folded(x, t, head), t))
        return kept

    def _descend(self, folded: Folded, condition: Tensor, out: Tensor) -> None:
        """A chain for each row of condition [n, D]; the levels' states are written to out [L, n, D]."""
        states = [level.state for level in self.levels]
        chains = len(states) if self.options.levels == "one_x4" else 1
        for c, kept in zip(pieces(condition), pieces(out.transpose(0, 1))):
            given = folded.condition(c)
            for chain in range(chains):
                x = self._normal(c.shape)
                for t in range(self.options.timesteps, min(states), -1):
                    x = self._back(x, folded(x, t, given), t)
                    for place in range(chain, len(states), chains):
                        if states[place] == t - 1:
                            kept[:, place] = x

    def _back(self, x: Tensor, eps: Tensor, t: int) -> Tensor:
        """State t - 1 drawn given state t, x [n, D], and its predicted noise."""
        mean = self.diffusion.schedule.mean(x, eps, t, self.options.clip)
        return mean if t == 1 else mean.add_(self._normal(x.shape), alpha=self.diffusion.schedule.variance(t) ** 0.5)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.rng.device)

    def _corruptions(self, generated: Tensor, ends: Ends, view: View) -> list[Negatives]:
        """A block per corruption of generated [2, B, L, S, D]."""
        heads, tails = generated.unbind(0)
        head_mask, tail_mask = (ends.target_mask if self.options.chain == "forward" else ends.condition_mask).unbind(0)
        margin = view.scoring.kge.similarity.margin
        gamma = self.options.gamma0 if margin is None else margin
        self.statistics.placed(generated[:, :, :, 0], ends.target[:, :, 0])
        blocks = [self._block("head", heads, None, head_mask, gamma), self._block("tail", tails, None, tail_mask, gamma)]
        if self.options.heads == "leaf":
            blocks.append(self._block("both", tails, heads, head_mask & tail_mask, gamma))
        return blocks

    def _block(self, corruption: str, vectors: Tensor, anchors: Tensor | None, mask: Tensor, gamma: float) -> Negatives:
        """Eq. 13 for vectors [B, L, S, D], the levels' share of one corruption; mask bool [B, S]."""
        batch, count, slots, _ = vectors.shape
        mean_weight = sum(level.weight for level in self.levels) / count
        corruptions = 3 if self.options.heads == "leaf" else 2
        block = Negatives(
            side=torch.full((batch,), corruption == "head", device=vectors.device),
            generated=Generated(vectors, mask, anchors, self.options.joint),
            weight=self.level_weight.expand(batch, -1),
            margin_shift=((self.level_margin - 1) * gamma).expand(batch, -1) if self.options.hal == "on" else None,
            reduce="weighted",
            positive="once" if self.options.positive == "once" or self.options.hal != "on" else "per_negative",
            coef=self.options.weight * mean_weight / corruptions,
            tape=Corruption(corruption),
        )
        if self.options.hal == "off":  # every slot is a negative of its own, and those that exist share a level's weight
            share = mask * (slots / mask.sum(1, keepdim=True))
            block.weight = share.unsqueeze(1).expand(-1, count, -1).flatten(1)
        if self.options.hal == "off" or self.options.slots == "structure":
            block.generated = Generated(vectors.flatten(1, 2), anchors=None if anchors is None else anchors.flatten(1, 2))
        return block

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The base's; the denoiser's Adam is stepped in `sample`."""
        return self.base.param_groups(learning_rate)

    def start_epoch(self, epoch: int) -> None:
        self.base.start_epoch(epoch)

    def phase(self, view: View) -> Literal["both", "sampler", "model"]:
        return self.base.phase(view)

    def get_extra_state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "rng": self.rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.rng.set_state(state["rng"].cpu())

    def describe(self) -> dict[str, float]:
        """The base's, the latent scales, and means over the run (see `Statistics`), by corruption and state of the level."""
        scale = self.diffusion.scale
        found = dict(self.base.describe())
        if scale.active:
            found |= {f"rms_slot{m}": value for m, value in enumerate(scale.target.tolist())}
        return found | self.statistics.means([level.state for level in self.levels])


def base_sampler(name: str, setting: Setting) -> Sampler:
    """The sampler `name` with its default options; one that needs nothing of the experiment but the choice of the side."""
    component = SAMPLERS.get(name)
    options = component.Options()
    if issubclass(component, Objective) or component.coupled or component.needs(options) - {Need.SIDE}:
        raise Misuse(f"dhns cannot be put on top of '{name}'; set sampler.base to uniform, bernoulli, nscaching or the like")
    return component(setting, options)
