"""Scoring models, their similarities, and fusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.setting import Need, NoOptions, Setting


class Similarity:
    """How a query vector is compared with a candidate: one formula in three forms that agree (nsbench.kge.similarity)."""

    kind: str | None = None  # of nsbench.kernels.KINDS, where a native kernel exists
    form: str | None = None  # of nsbench.kernels.native.FORMS, of those that have a native kernel and no kind
    size: int = 1  # numbers in a block, of distances of blocks
    margin: float | None = None  # gamma, of those that are gamma minus a distance

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        """q and c [..., D], broadcast against each other -> [...]."""
        raise NotImplementedError

    def gathered(self, q: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None = None) -> Tensor:
        """q [B, D] against rows of table [N, D] (times scale [B, D]) named by ids [B, K] -> [B, K].

        Never builds [B, K, D] on a CPU.
        """
        raise NotImplementedError

    def all_pairs(self, q: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
        """q [Q, D] against every row of table [N, D] (times scale [Q, D]) -> [Q, N]; never builds [Q, N, D]."""
        raise NotImplementedError


class KGE(nn.Module):
    """A scoring model: score = similarity(query(kept end, relation, side), candidate)."""

    Options: type = NoOptions
    version: int = 1
    provides: frozenset[Need] = frozenset({Need.QUERY})
    translates: bool = False  # the query of a replaced tail is e + r, that of a replaced head e - r
    roles: bool = False  # an entity is encoded once as head and once as tail; `encode` returns [2N, W], the heads first
    similarity: Similarity

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        """`width` is the model's dimension d; `rng` a CPU generator that all initial values come from."""
        super().__init__()
        self.width = width
        self.margin = margin
        self.options = options
        bound = (margin + 2.0) / width  # the RotatE code base's range, for every model (docs/notes/mmrns.md 6.4)
        self.entity = nn.Parameter(uniform(num_entities, self.entity_width(width), bound, rng))
        self.relation = nn.Parameter(uniform(num_relations, self.relation_width(width), bound, rng))

    @classmethod
    def check(cls, options: Any, width: int) -> None:
        """Misuse for options that do not go with each other or with the width; asked while a configuration is read."""

    @classmethod
    def provided(cls, options: Any) -> frozenset[Need]:
        """What a model with these options provides."""
        return cls.provides | {Need.ALONE}

    @staticmethod
    def entity_width(width: int) -> int:
        """D, stored numbers per entity."""
        return width

    @staticmethod
    def relation_width(width: int) -> int:
        return width

    def query(self, e: Tensor, r: Tensor, side: Tensor) -> Tensor:
        """The vector that a candidate is compared with: e [..., D] kept entity, r [..., Dr] relation, side [...]."""
        raise NotImplementedError

    def scale(self, r: Tensor, side: Tensor) -> Tensor | None:
        """A relation-dependent factor [..., D] on candidates (PairRE), or None: candidates are compared as they are."""
        return None

    def prepared(self, relation: Tensor) -> Tensor:
        """The relation table [R, Dr] as `query` and `scale` take it, computed once per step (GC-OTE's orthogonal maps)."""
        return relation

    def scored(self, x: Tensor) -> Tensor:
        """Entity vectors [..., D] as the similarity takes them, [..., W]; of generated ones too (PairRE's unit length)."""
        return x

    def encode(self, table: Tensor, relation: Tensor, graph: TrainGraph, absent: Tensor | None) -> Tensor:
        """The entity table that is scored, [N, W] ([2N, W] with `roles`), computed once per step.

        relation [R, Dr] is prepared; absent int64 [B]: training rows whose facts must not be seen, for they are predicted.
        """
        return self.scored(table)

    def sum_of_squares(self, entity: Tensor, relation: Tensor) -> Tensor:
        """Sum of the squared scores of all (h, r, t), of models that provide Need.GRAM; entity [N, D], relation [R, Dr]."""
        raise NotImplementedError

    def export(self) -> dict[str, Tensor]:
        """`entity` and `relation` as `--save-model` writes them."""
        return {"entity": self.entity.detach(), "relation": self.relation.detach()}

    @torch.no_grad()
    def restore(self, exported: Mapping[str, Tensor]) -> None:
        """The inverse of `export`, up to rounding."""
        self.entity.copy_(exported["entity"])
        self.relation.copy_(exported["relation"])


def uniform(rows: int, columns: int, bound: float, rng: torch.Generator) -> Tensor:
    """[rows, columns] uniform in [-bound, bound)."""
    return (torch.rand(rows, columns, generator=rng) * 2 - 1) * bound


class Pair(NamedTuple):
    """A term of the score: the kept end in one view, the candidate in one."""

    kept: str
    candidate: str
    weight: float | Tensor = 1.0  # a tensor [R]: by relation
    plain: bool = False  # the dot product of two constant views [N, F], without a relation; generated vectors have 0


class Fusion(nn.Module):
    """Turns entity ids into vectors. A factor of the experiment, independent of the sampler."""

    Options: type = NoOptions
    version: int = 1
    provides: frozenset[Need] = frozenset()
    captured: bool = True  # False: no CUDA graphs, for Python keeps what changes from step to step

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.options = options
        self.slot_count = setting.slots  # S

    @classmethod
    def needs(cls, options: Any) -> frozenset[Need]:
        """What a fusion with these options requires of the experiment."""
        return frozenset()

    @classmethod
    def provided(cls, options: Any) -> frozenset[Need]:
        """What a fusion with these options provides; here for one view, or two where it says VIEWS, in all their pairs."""
        provided = cls.provides | {Need.SQUARE} | ({Need.PARTS} if Need.SLOTS in cls.provides else set())
        return provided | (set() if Need.VIEWS in cls.provides else {Need.ONE_VIEW})

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """What the model's Adam takes of it, and at which rates; the protocol's `learning_rate` is that of the tables."""
        parameters = list(self.parameters())
        return [{"params": parameters, "lr": learning_rate}] if parameters else []

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """view -> table [N, D], computed once per step."""
        raise NotImplementedError

    def pairs(self, views: Sequence[str]) -> list[Pair]:
        """The terms that the score sums, of the views that `views` made; all pairs of them."""
        return [Pair(kept, candidate) for kept in views for candidate in views]

    def some(self, entity: Tensor, ids: Tensor) -> Tensor:
        """Rows [n, D] of the one table that `views` gives, for ids [n]; of fusions that need not make the others for it."""
        raise NotImplementedError

    def slots(self, entity: Tensor, ids: Tensor) -> Tensor:
        """[..., S, D] for ids [...]."""
        raise NotImplementedError

    def slot_mask(self, ids: Tensor) -> Tensor:
        """bool [..., S]; False where the entity lacks the modality. Slot 0 is always there."""
        raise NotImplementedError

    def fuse(self, slots: Tensor, mask: Tensor) -> Tensor:
        """[..., S, D] and bool [..., S] -> [..., D]."""
        raise NotImplementedError
