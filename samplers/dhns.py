"""DHNS: hierarchical negatives from a diffusion over embeddings (Niu and Zhang, DASFAA 2025, arXiv 2501.15393).

On top of uniform negatives each positive gets L generated vectors per side, one for each level of hardness. A step, in the
paper's order (section 1 of docs/notes/dhns.md; A_k and states as in nsbench.samplers.parts.chain):

    Eq. 1-2     x_k = sqrt(A_k) x_0 + sqrt(1 - A_k) eps                           Schedule.noised
    Eq. 7-9     C = query(e, r, side), e the kept end                             both_ends
    Eq. 10-11   one step of the denoiser on |eps_hat(x_k, k, C) - eps|^2          Diffusion.learn
    Eq. 3-6     from noise down to the least of the levels' states: a state       Diffusion.descend
                k gives one negative per side
    Eq. 12      J_l = the score of level l                                        Generated
    Eq. 13      mean over levels, sides, batch of                                 DHNS._block
                -log s(f_pos - shift_l) - w_l log s(-(J_l - shift_l)), shift_l = (1 - m_l) gamma
    Eq. 14-15   the uniform negatives' loss + weight x Eq. 13                     the trainer

What is diffused (option `slots`). With a fusion an entity has a slot for its structure and one for each modality. The paper
diffuses each slot, scores each against the kept end, and averages (Eq. 12): `each`. To a model that scores fused entities
such negatives are easy, below nine tenths of the entities, and teach little: nothing in the paper's loss makes a slot by
itself comparable with an entity (docs/notes/dhns.md 9.2). `attended` fuses the generated slots again, as the released code
does. `recommended` diffuses the one vector that the model scores, `fused`, which holds all modalities. Where there is no
fusion, an entity is its structure alone: the paper's ablation "w/o MMC".

Variants. `paper` has its equations with the misprints mended, and its sizes: T = 50, the denoiser's rate and the weight are
guesses inside its grids (docs/notes/dhns.md section 3). `printed` has Eq. 10 to the letter as well: a LayerNorm at the
denoiser's end gives all predictions one length, so nothing pulls a state back that has grown too long, and the vectors come
out too long, in no order. All others have the denoiser of the released code, normalised before its hidden maps.
`recommended` is the default; docs/notes/dhns.md 9.3 says where its weight, rate and T come from.
The rest change one thing in it. The paper's Table 5: `wo_diffheg`, `wo_mmc`, `wo_mhld` and `mhld_same_count` (as many
negatives), `wo_hal`, `wo_ntat`. Controls, to tell what the generator adds: `forward` noises the true entity to each level's
state, which needs no denoiser; `around` puts noise around the true entity, as far from it at each level as the chain's
vectors are, and as long; `gauss` is noise alone, as long.

Departures of `paper`, and of all others, from the paper:

    Eq. 4-6     misprinted: the reverse step is DDPM's (nsbench.samplers.parts.chain)
    Eq. 7-9     printed for tails; a replaced head has the model's query of the other side (TransE e - r, RotatE turned back)
    Eq. 10      the time embedding is the released code's, but in `printed`; the implied signal is clipped to +-CLIP
    Eq. 11      printed for the tail's side; here for both, which share t and eps, as released
    Eq. 12      the kept end is the entity as the model scores it, fused where there is a fusion
    Eq. 13      the positive term has each level's margin; the mean is over levels and sides
    Eq. 14      prints the joint score for sampled negatives too; here it is the model's score f, as for every sampler
    not said    the schedule, w_l, m_l, gamma for models without a margin (GAMMA0), centred and scaled latents, and a first
                pass over train (WARMUP) in which the denoiser learns and generates nothing
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsbench.contracts import Generated, Need, Negatives, NoOptions, Positives, Sampler, Setting, View
from nsbench.registry import SAMPLERS, option
from nsbench.samplers.parts.chain import QUARTERS, Diffusion, Ends, both_ends
from nsbench.samplers.parts.tallies import Corruption, Statistics
from nsbench.samplers.uniform import Uniform

CLIP = 4.0  # bound on the signal implied by a prediction, in latent units
WARMUP = 1  # passes over train before generated negatives count
GAMMA0 = 4.0  # stands for gamma in the margins of models without one


@dataclass(frozen=True)
class Level:
    """A kept state with its weight w_l and the multiplier m_l of its margin."""

    state: int
    weight: float
    margin: float


LEVELS: dict[str, tuple[tuple[int, float, float], ...]] = {  # (divisor of T, weight, margin)
    "paper": ((20, 4 / 17, 0.3), (10, 8 / 17, 0.5), (5, 16 / 17, 0.7), (2, 40 / 17, 0.9)),  # as 1/20 : 1/10 : 1/5 : 1/2
    "one": ((10, 1.0, 0.5),),
    "one_x4": ((10, 1.0, 0.5),) * 4,  # four chains
}


def levels(fractions: Sequence[tuple[int, float, float]], steps: int) -> list[Level]:
    """The levels of a chain of T = `steps`, least noise first; warns where integer division makes different ones equal."""
    found = [Level(steps // divisor, weight, margin) for divisor, weight, margin in fractions]
    states = [level.state for level in found]
    if len(set(states)) < len(set(fractions)):
        warnings.warn(f"dhns: T = {steps} is too short for {len(states)} levels, their states are {states}", stacklevel=2)
    return found


PAPER: dict[str, Any] = {"weight": 0.01, "timesteps": 50, "learning_rate": 5e-4, "slots": "each"}


@SAMPLERS.register("dhns")
class DHNS(Sampler):
    version = 3
    fusion = "adamf"
    requires = frozenset({Need.QUERY, Need.ONE_VIEW})

    @dataclass(frozen=True)
    class Options:
        weight: float = option(
            0.1, "lambda, weight of the generated negatives; 0: none are generated", minimum=0, search=(0.01, 0.1, 1.0, 10.0)
        )
        timesteps: int = option(50, "T, diffusion steps", minimum=QUARTERS, search=(20, 50, 70, 100))
        learning_rate: float = option(2e-3, "the denoiser's learning rate", minimum=0, search=(1e-4, 5e-4, 2e-3))
        slots: str = option(
            "fused",
            "what is diffused. fused: the vector that the model scores; each: every slot, scored one by one (Eq. 12); "
            "attended: every slot, fused again before scoring; structure: the structural slot alone",
            choices=("fused", "each", "attended", "structure"),
        )
        chain: str = option(
            "reverse",
            "reverse: generate; forward: noise the true entity; around: noise about it, as far away as generated vectors; "
            "gauss: noise alone, as long",
            choices=("reverse", "forward", "around", "gauss"),
        )
        levels: str = option("paper", "states kept, weights and margins", choices=tuple(LEVELS))
        hal: str = option(
            "on",
            "hardness-adaptive loss; flat: no margins; off: nor weights, and every slot is a negative of its own",
            choices=("on", "flat", "off"),
        )
        products: str = option(
            "float32", "the denoiser's matrix products; bfloat16 is faster on a GPU", choices=("float32", "bfloat16")
        )
        denoiser: str = option(
            "released", "printed: with the LayerNorm at the end that Eq. 10 prints", choices=("released", "printed")
        )

    variants = {
        "paper": PAPER,
        "printed": {**PAPER, "denoiser": "printed"},
        "attended": {"slots": "attended"},
        "wo_diffheg": {"weight": 0.0},
        "wo_mmc": {"slots": "structure"},
        "wo_mhld": {"levels": "one"},
        "mhld_same_count": {"levels": "one_x4"},
        "wo_hal": {"hal": "flat"},
        "wo_ntat": {"hal": "off"},
        "forward": {"chain": "forward"},
        "around": {"chain": "around"},
        "gauss": {"chain": "gauss"},
    }

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.base = Uniform(setting, NoOptions())
        self.levels = levels(self._fractions(), options.timesteps)
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
        self.diffusion = self._diffusion(setting)
        # A stream of its own, so that the uniform negatives are those that `uniform` would draw.
        self.rng = torch.Generator(device=setting.graph.device)
        self.statistics = Statistics(len(self.levels))

    @classmethod
    def reads(cls, options: Any, features: Sequence[str], slots: Sequence[str]) -> tuple[list[str], str]:
        if options.weight == 0:
            return [], ""
        used = [] if options.slots == "structure" else list(slots)
        return ["structure", *used], "" if used else "w/o MMC"

    def _fractions(self) -> Sequence[tuple[int, float, float]]:
        return LEVELS[self.options.levels]

    def _diffusion(self, setting: Setting) -> Diffusion:
        options = self.options
        slots = setting.slots if options.slots in ("each", "attended") else 1
        made = Diffusion(setting.entity_width, slots, options.timesteps, options.learning_rate, form=options.denoiser)
        made.denoiser.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.products]
        return made

    def pretrain(self, view: View) -> None:
        seed = torch.randint(2**62, (), generator=view.rng.clone_state(), device=view.device)
        self.rng.manual_seed(int(seed))

    def sample(self, positives: Positives, view: View) -> list[Negatives]:
        """Uniform ids [B, K]; after the warm-up also vectors [B, L, D] or [B, L, S, D], a block for each corruption."""
        blocks = [self.base.sample(positives, view)]
        if self.options.weight == 0:
            return blocks
        kind = {"each": "all", "attended": "all"}.get(self.options.slots, self.options.slots)
        ends = both_ends(positives, view, kind)
        target, condition = self.diffusion.observe(ends)
        if self.options.chain != "forward":
            _, by_quarter = self.diffusion.learn(ends, (target, condition), self.rng)
            self.statistics.learnt(by_quarter)
        if view.epoch < WARMUP:
            return blocks
        generated = self.diffusion.vectors(self._generate(target, condition, ends))
        self.statistics.placed(generated[:, :, :, 0], ends.target[:, :, 0])
        margin = view.scoring.kge.similarity.margin
        gamma = GAMMA0 if margin is None else margin
        masks = ends.target_mask if self.options.chain == "forward" else ends.condition_mask
        for name, vectors, truth, mask in zip(("head", "tail"), generated, ends.target, masks):
            blocks.append(self._block(name, vectors, truth, mask, gamma))
        return blocks

    def regime(self, view: View) -> bool:
        """Whether the warm-up is over."""
        return view.epoch >= WARMUP

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """No loss of its own: the scores are counted."""
        self.statistics.scored(negatives, s_pos, s_neg)
        return None

    @torch.no_grad()
    def _generate(self, target: Tensor, condition: Tensor, ends: Ends) -> Tensor:
        """Latents [2, B, L, S, D] from latent targets and conditions [2, B, S, D], the replaced head first."""
        truth = target.unsqueeze(2).expand(-1, -1, len(self.levels), -1, -1)
        if self.options.chain == "forward":
            return self.diffusion.schedule.noised(truth, self.level_state.unsqueeze(1), self._normal(truth.shape))
        made = self._reverse(condition)
        if self.options.chain == "reverse":
            return made

        def moment(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            """Mean of x y over rows and numbers, [2, 1, L or 1, S, 1]."""
            there = mask.unsqueeze(2).unsqueeze(4)
            count = there.sum((1, 4), keepdim=True) * x.shape[-1]
            return (x * y * there).sum((1, 4), keepdim=True) / count.clamp(min=1)

        square = moment(made, made, ends.condition_mask)
        if self.options.chain == "gauss":
            return self._normal(made.shape) * square.sqrt()
        both = ends.condition_mask & ends.target_mask
        share = moment(made, truth, both) / moment(truth, truth, both).clamp_min(1e-12)
        rest = square - share.square() * moment(truth, truth, both)
        return share * truth + self._normal(made.shape) * rest.clamp_min(0).sqrt()

    def _reverse(self, condition: Tensor) -> Tensor:
        """Latents [2, B, L, S, D] of the levels' states (Eq. 3-6) under latent conditions [2, B, S, D]."""
        width, states = condition.shape[-1], [level.state for level in self.levels]
        rows = condition.reshape(-1, width)
        kept = rows.new_empty(len(states), len(rows), width)
        chains = len(states) if self.options.levels == "one_x4" else 1
        folded = self.diffusion.denoiser.fold()
        self.diffusion.descend(folded, rows, states, self._normal, kept, clip=CLIP, chains=chains)
        return kept.view(len(states), *condition.shape).permute(1, 2, 0, 3, 4)

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.rng.device)

    def _block(self, corruption: str, vectors: Tensor, truth: Tensor, mask: Tensor, gamma: float) -> Negatives:
        """Eq. 13 for vectors [B, L, S, D], the levels' share of one corruption; truth [B, S, D], mask bool [B, S]."""
        options, (batch, count, slots, _) = self.options, vectors.shape
        block = Negatives(
            side=torch.full((batch,), corruption == "head", device=vectors.device),
            generated=Generated(vectors, mask, truth=truth, joint="fuse" if options.slots == "attended" else "score"),
            weight=self.level_weight.expand(batch, -1),
            margin_shift=((self.level_margin - 1) * gamma).expand(batch, -1) if options.hal == "on" else None,
            reduce="weighted",
            positive="per_negative" if options.hal == "on" else "once",
            coef=options.weight * sum(level.weight for level in self.levels) / count / 2,
            tape=Corruption(corruption),
        )
        if slots == 1:
            block.generated = Generated(vectors.squeeze(2), truth=truth.squeeze(1))
        if options.hal == "off":  # every slot is a negative of its own, and those that exist share a level's weight
            share = mask * (slots / mask.sum(1, keepdim=True))
            block.weight = share.unsqueeze(1).expand(-1, count, -1).flatten(1)
            block.generated = Generated(vectors.flatten(1, 2), truth=truth[:, 0] if slots == 1 else None)
        return block

    def get_extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.set_state(state["rng"].cpu())

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """None: the denoiser has its own Adam."""
        return []

    def describe(self) -> dict[str, float]:
        """The latents' scales, and means over the run (see `Statistics`), by corruption and state of the level."""
        latents = self.diffusion.latents
        scales = [] if latents is None else latents.target_scale.tolist()
        found = {f"rms_slot{m}": value for m, value in enumerate(scales)}
        return found | self.statistics.means([level.state for level in self.levels])
