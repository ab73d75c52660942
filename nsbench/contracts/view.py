"""What a sampler may see of the experiment while it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nsbench.contracts.batch import Positives
from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.scoring import Scoring
from nsbench.contracts.setting import Setting


@dataclass(eq=False)
class View:
    """The state of one step. Everything is detached, unless the component declares Need.LIVE."""

    setting: Setting
    rng: torch.Generator  # the sampler's own, on the device
    scoring: Scoring  # of detached tables, unless live
    sides: str  # the protocol's granularity: per_row, per_slot or alternate
    total_steps: int
    total_epochs: int
    step: int = 0
    epoch: int = 0
    fed: Tensor | None = None  # what `clock` is where steps are CUDA graphs

    @property
    def clock(self) -> Tensor:
        """`step` as a number on the device, float64 []: what depends on it changes from step to step within a regime too."""
        if self.fed is not None:
            return self.fed
        step = vars(self)["step"]  # not asked for by name: nothing is decided by it (nsbench.training.frozen)
        return torch.full((), step, dtype=torch.float64, device=self.device)

    @property
    def graph(self) -> TrainGraph:
        return self.setting.graph

    @property
    def device(self) -> torch.device:
        return self.graph.device

    @property
    def features(self) -> Mapping[str, Tensor]:
        return self.setting.features

    @property
    def present(self) -> Mapping[str, Tensor]:
        return self.setting.present

    @property
    def margin(self) -> float:
        return self.setting.margin

    @property
    def negatives(self) -> int:
        """K."""
        return self.setting.negatives

    def draw_side(self, positives: Positives, p_head: Tensor | float = 0.5) -> Tensor:
        """Which end is replaced: the protocol's choice where it fixes one, else True with probability p_head (or [B]).

        bool [B], or [B, K] where the protocol draws per slot.
        """
        if positives.side is not None:
            return positives.side
        shape = (len(positives), self.negatives) if self.sides == "per_slot" else (len(positives),)
        if isinstance(p_head, Tensor) and self.sides == "per_slot":
            p_head = p_head.unsqueeze(1)
        return torch.rand(shape, generator=self.rng, device=self.device) < p_head

    def score_ids(self, positives: Positives, side: Tensor, ids: Tensor) -> Tensor:
        """Scores [B, M] of candidates ids [B, M] in place of the end that side [B] names."""
        return self.scoring.ids(positives.anchor(side), positives.r, side, ids)

    def score_views(self, positives: Positives, side: Tensor, ids: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """The same for each pair (view of the kept end, view of the candidate): [B, M] each; their sum is the score."""
        return self.scoring.view_pairs(positives.anchor(side), positives.r, side, ids)

    def vectors(self, ids: Tensor) -> Tensor:
        """[..., D], fused."""
        return self.scoring.vectors(ids)

    def relations(self, ids: Tensor) -> Tensor:
        """[..., Dr]."""
        return self.scoring.relations(ids)

    def slots(self, ids: Tensor) -> Tensor:
        """[..., S, D]."""
        return self.scoring.slots(ids)

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., S]."""
        return self.scoring.fusion.slot_mask(ids)

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """The model's query vector [..., D] from vectors e [..., D] and r [..., Dr]."""
        return self.scoring.kge.query(e, r, side)
