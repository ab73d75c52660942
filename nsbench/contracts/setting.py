"""What a component needs of the experiment, and what it is told before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from nsbench.contracts.graph import TrainGraph


class Need(StrEnum):
    """What a component requires of the rest; checked while the configuration is parsed."""

    QUERY = "query"  # the model's query vector (DHNS's condition)
    VIEWS = "views"  # a fusion with two views, structure and a modality, scored in all four pairs alike (MANS)
    ONE_VIEW = "one_view"  # a fusion with one vector per entity, which generated vectors can take the place of
    SQUARE = "square"  # a fusion scored in all pairs of its views alike: a bilinear score is that of their sum
    SLOTS = "slots"  # a fusion that fuses a slot per modality (MAT)
    PARTS = "parts"  # a fusion whose entities have slots, fused or not (alignment)
    CODE = "code"  # a fusion that encodes features, so that they can be decoded (reconstruction)
    FEATURES = "features"  # at least one feature modality
    SIDE = "side"  # the sampler's point is to choose the side: refused where the protocol fixes it
    GRAM = "gram"  # a model whose squared scores sum in closed form (NS-KGE)
    ALONE = "alone"  # a model that scores an entity by its own vector, whatever its neighbours (MAT's fakes have none)
    LIVE = "live"  # gradients through the view into the model (MMRNS without detach)


@dataclass(frozen=True)
class NoOptions:
    """For components without options."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What is known before the first step; handed to the constructors of samplers, fusions and auxiliaries."""

    graph: TrainGraph
    negatives: int  # K
    margin: float
    entity_width: int  # D
    relation_width: int
    features: Mapping[str, Tensor]  # on the device
    present: Mapping[str, Tensor]
    slots: int = 0  # S, `Fusion.slot_count`; 0 while the fusion is made: the structural slot and one per modality

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", self.slots or 1 + len(self.features))


def missing_needs(requires: Iterable[Need], provided: Iterable[Need]) -> list[Need]:
    """Which needs nothing in the experiment meets."""
    return sorted(set(requires) - set(provided))
