"""Samplers, and what may stand beside or in place of one: auxiliary losses and objectives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from nsbench.contracts.batch import Negatives, Positives
from nsbench.contracts.scoring import Scoring
from nsbench.contracts.setting import Need, NoOptions, Setting
from nsbench.contracts.view import View


class _Component(nn.Module):
    """What samplers, objectives and auxiliary losses have in common."""

    Options: type = NoOptions
    requires: frozenset[Need] = frozenset()
    version: int = 1  # raise it whenever behaviour changes; part of the run id
    fusion: str = "none"  # what its paper's model is built with; `--fusion auto` takes it where there are features
    few: bool = False  # True: a step reads few entities' vectors, so on a CPU no table of all fused ones is made
    every_entity: bool = False  # a step's work grows with the number of entities, each of which it compares
    frugal: str = ""  # what to set where memory runs out in it: "sampler.mode=rw, which holds no neighbourhoods"
    captured: bool = True  # False: no CUDA graphs, for Python keeps what changes from step to step
    needs_run: bool = False  # True: it works beside another run alone, and is asked for as NAME:RUN (replay)

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def needs(cls, options: Any) -> frozenset[Need]:
        """What a component with these options requires of the experiment."""
        return cls.requires

    def regime(self, view: View) -> Hashable:
        """What Python decides about this step (a branch on view.epoch, say).

        On a GPU all steps of a regime are one CUDA graph: what else changes from step to step must lie on the device, in
        buffers that are written in place, or follow from view.clock.
        """
        return None


class Sampler(_Component):
    """Draws negatives. A plugin writes `sample`; everything else has a default.

    Caches are buffers and learnables are parameters, so devices and checkpoints take care of themselves; optimisers and
    scalars of your own go through `get_extra_state` / `set_extra_state`. Random numbers come from `view.rng` alone.
    """

    variants: Mapping[str, Mapping[str, Any]] = {}  # variant -> option values; "recommended" is the defaults
    coupled: bool = False  # True, or Need.LIVE: feedback joins the model's loss, one backward, all optimisers step
    filtered: bool = True  # False: may return known training positives (paper variants say so)
    reads_features: bool = False  # True: uses features where there are any; Need.FEATURES refuses to do without

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__(setting, options)
        self.k = setting.negatives

    @classmethod
    def reads(cls, options: Any, features: Sequence[str], slots: Sequence[str]) -> tuple[list[str], str]:
        """What of an entity decides which negatives are drawn: `structure` and modalities, none where neither does; and
        what the method is to be called where that is less than its paper has (`w/o MMC`), else "".

        features: the dataset's modalities; slots: those of them that the fusion keeps in slots of their own.
        """
        return [], ""

    def sample(self, positives: Positives, view: View) -> Negatives | list[Negatives]:
        """Negatives for the batch: one block or several. May step an optimiser of the sampler's own."""
        raise NotImplementedError

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """The sampler's own loss for one block; scores are detached, s_pos [B] (or [B, K]) and s_neg [B, K]."""
        return None

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Adam groups for the sampler's parameters; the trainer builds, steps and checkpoints that Adam."""
        parameters = list(self.parameters())
        return [{"params": parameters, "lr": learning_rate}] if parameters else []

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of each pass over the training triples."""

    def phase(self, view: View) -> Literal["both", "sampler", "model"]:
        """Who learns in this step (IGAN alternates)."""
        return "both"

    def pretrain(self, view: View) -> None:
        """Once before step 0; its time is charged to the sampler."""

    def describe(self) -> dict[str, float]:
        """What a reader of the result should know of the draws (row sizes, fallbacks); called once, after training."""
        return {}


class Objective(_Component):
    """Replaces sampling: a loss of its own over the positives (NS-KGE, 1-vs-all). Chosen like a sampler."""

    variants: Mapping[str, Mapping[str, Any]] = {}

    def loss(self, positives: Positives, scoring: Scoring, view: View) -> Tensor:
        """The step's loss, a scalar with gradients into the model."""
        raise NotImplementedError


class Auxiliary(_Component):
    """An extra loss that can be added to any sampler: `--set aux.NAME=weight`."""

    requires: frozenset[Need] = frozenset({Need.LIVE})

    def loss(self, positives: Positives, view: View) -> Tensor:
        """A scalar; the view is live, gradients reach the model and the auxiliary's own parameters."""
        raise NotImplementedError

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        parameters = list(self.parameters())
        return [{"params": parameters, "lr": learning_rate}] if parameters else []
