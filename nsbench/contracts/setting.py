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
    VIEWS = "views"  # a fusion with more than one view of an entity (MANS)
    ONE_VIEW = "one_view"  # a fusion with one vector per entity, which generated vectors can take the place of
    SLOTS = "slots"  # a fusion with a slot per modality (MAT)
    FEATURES = "features"  # at least one feature modality
    SIDE = "side"  # the sampler's point is to choose the side: refused where the protocol fixes it
    GRAM = "gram"  # a model whose squared scores sum in closed form (NS-KGE)
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

    @property
    def slots(self) -> int:
        """S: the structural slot and one per modality."""
        return 1 + len(self.features)


def missing_needs(requires: Iterable[Need], provided: Iterable[Need]) -> list[Need]:
    """Which needs nothing in the experiment meets."""
    return sorted(set(requires) - set(provided))
