"""What the parts of a benchmark promise each other. Samplers, models and datasets import this file and nsbench.registry.

Symbols used in shapes: B batch, K negatives per positive, N entities, R relations, D stored width of an entity vector,
S slots of an entity (slot 0 structural, one more per feature modality). Higher scores are more plausible. `side` is a
bool tensor: True where the head is replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nsbench.graph import TrainGraph
    from nsbench.scoring import Scoring
    from nsbench.view import View


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


@dataclass(frozen=True, eq=False)
class Dataset:
    """A knowledge graph with its split. Triples are int64 [n, 3] as (h, r, t), on the CPU."""

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    entities: list[str]
    relations: list[str]
    split: str = "released"
    extra_known: Tensor | None = None  # [n, 3] more facts that the filter removes (DB15K: original train and valid)
    features: Mapping[str, Tensor] = field(default_factory=dict)  # modality -> [N, F] or [N, tokens, F], float
    present: Mapping[str, Tensor] = field(default_factory=dict)  # modality -> bool [N], False: the entity has none
    feature_source: str = "none"  # official, names, planted or none
    world: Tensor | None = None  # [n, 3] every true fact, where that is known (planted)

    @property
    def num_entities(self) -> int:
        return len(self.entities)

    @property
    def num_relations(self) -> int:
        return len(self.relations)

    def untested(self) -> Dataset:
        """The same without its test triples, which nothing then ranks and no filter knows."""
        extra = self.extra_known
        if extra is not None:
            both, places = torch.cat([extra, self.test]).unique(dim=0, return_inverse=True)
            tested = torch.zeros(len(both), dtype=torch.bool)
            tested[places[len(extra) :]] = True
            extra = extra[~tested[places[: len(extra)]]]
        return replace(self, test=self.train[:0], extra_known=extra, world=None)

    @cached_property
    def known(self) -> Tensor:
        """[n, 3] facts that the filtered ranking removes from the candidates: all splits and `extra_known`."""
        parts = [self.train, self.valid, self.test]
        return torch.cat(parts if self.extra_known is None else [*parts, self.extra_known]).unique(dim=0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sizes and the triples that training, selection, testing and filtering use."""
        sizes = torch.tensor([self.num_entities, self.num_relations])
        return _digest({"sizes": sizes, "train": self.train, "valid": self.valid, "test": self.test, "known": self.known})

    @cached_property
    def feature_fingerprint(self) -> str:
        """The same over features and presence masks; apart, so that rows with and without features share a graph."""
        if not self.features:
            return ""
        arrays = {f"feature {m}": x for m, x in self.features.items()}
        return _digest(arrays | {f"present {m}": x for m, x in self.present.items()})


def _digest(arrays: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Positives:
    """A batch of training triples, on the training device."""

    hrt: Tensor  # int64 [B, 3]
    rows: Tensor  # int64 [B] positions in train
    key_head: Tensor  # int64 [B] the query (?, r, t) in TrainGraph's numbering
    key_tail: Tensor  # int64 [B] the query (h, r, ?)
    side: Tensor | None = None  # bool [B] when the protocol fixes the side

    def __len__(self) -> int:
        return len(self.hrt)

    @property
    def h(self) -> Tensor:
        return self.hrt[:, 0]

    @property
    def r(self) -> Tensor:
        return self.hrt[:, 1]

    @property
    def t(self) -> Tensor:
        return self.hrt[:, 2]

    def key(self, side: Tensor) -> Tensor:
        """The query that a replacement on `side` answers; shape of `side`."""
        return torch.where(side, _like(self.key_head, side), _like(self.key_tail, side))

    def anchor(self, side: Tensor) -> Tensor:
        """The entity that is kept; shape of `side`."""
        return torch.where(side, _like(self.t, side), _like(self.h, side))

    def answer(self, side: Tensor) -> Tensor:
        """The entity that is replaced; shape of `side`."""
        return torch.where(side, _like(self.h, side), _like(self.t, side))


def _like(column: Tensor, side: Tensor) -> Tensor:
    return column if side.dim() == 1 else column.unsqueeze(1)


@dataclass(eq=False)
class Negatives:
    """One block of negatives for a batch. Exactly one of `ids`, `view_ids`, `vectors` is set."""

    side: Tensor  # bool [B] or [B, K]
    ids: Tensor | None = None  # int64 [B, K]
    view_ids: Mapping[str, Tensor] | None = None  # view -> int64 [B, K]: another entity per view (MANS)
    vectors: Tensor | None = None  # [B, K, D] or [B, K, S, D], generated
    slot_mask: Tensor | None = None  # bool [B, S] with vectors [B, K, S, D]
    anchors: Tensor | None = None  # shape of `vectors`: replaces the kept end too
    delta: Tensor | None = None  # [B, K, D], value 0: added to the scored vectors, carries a straight-through gradient
    valid: Tensor | None = None  # bool [B, K]; None: all
    weight: Tensor | None = None  # [B, K], constant, >= 0; with reduce="weighted"
    margin_shift: Tensor | None = None  # [B, K], added to the logit
    log_q: Tensor | None = None  # [B, K] log-probability under the proposal; may carry the sampler's own graph
    joint: Literal["score", "fuse"] = "score"  # slots: mean of the slots' scores, or score of the fused vector
    reduce: Literal["loss", "weighted"] = "loss"  # the experiment's reduction, or sum of weight x term / K
    positive: Literal["once", "per_negative", "none"] = "once"  # per_negative: with each one's shift, never weighted
    coef: float = 1.0
    tape: Any = None  # private, handed back to `feedback`

    def check(self, batch: int) -> None:
        """Raise ValueError, in plain words, where the block breaks the contract. Reads shapes only, never values."""
        given = [name for name in ("ids", "view_ids", "vectors") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a block sets exactly one of ids, view_ids, vectors; this one sets {given or 'none'}")
        shape = self.shape
        if len(shape) != 2 or shape[0] != batch:
            raise ValueError(f"negatives must be [B, K] with B = {batch}, not {list(shape)}")
        if self.side.dtype != torch.bool or tuple(self.side.shape) not in {(batch,), shape}:
            raise ValueError(f"side must be bool [B] or [B, K], not {self.side.dtype} {list(self.side.shape)}")
        for name in ("valid", "weight", "margin_shift", "log_q"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must be [B, K] = {list(shape)}, not {list(value.shape)}")
        if self.valid is not None and self.valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, not {self.valid.dtype}")
        if (self.weight is not None) != (self.reduce == "weighted"):
            raise ValueError("weight and reduce='weighted' belong together")
        if self.weight is not None and self.weight.requires_grad:
            raise ValueError("weight must be constant; detach it")
        for ids in [self.ids] if self.ids is not None else list((self.view_ids or {}).values()):
            if ids.dtype != torch.int64:
                raise ValueError(f"ids must be int64, not {ids.dtype}")
        if self.vectors is None and (self.anchors is not None or self.slot_mask is not None):
            raise ValueError("anchors and slot_mask belong to vectors")
        if self.vectors is not None:
            if self.anchors is not None and self.anchors.shape != self.vectors.shape:
                raise ValueError(f"anchors must have the shape of vectors, {list(self.vectors.shape)}")
            if (self.slot_mask is not None) != (self.vectors.dim() == 4):
                raise ValueError("vectors [B, K, S, D] come with slot_mask [B, S], and only those")
        if self.delta is not None and self.ids is None:
            raise ValueError("delta belongs to ids")

    def check_range(self, entities: int) -> None:
        """ValueError where an id is none of the entities'. Reads values, which waits for the device."""
        for ids in [self.ids] if self.ids is not None else list((self.view_ids or {}).values()):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < entities:
                raise ValueError(f"ids reach from {int(ids.min())} to {int(ids.max())}, entities from 0 to {entities - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, K)."""
        if self.ids is not None:
            return tuple(self.ids.shape)
        if self.vectors is not None:
            return tuple(self.vectors.shape[:2])
        return tuple(next(iter((self.view_ids or {}).values())).shape)

    def replacements(self, positives: Positives) -> list[tuple[Tensor, Tensor]]:
        """The entities put in the answer's place, int64 [B, K], and where to count them, bool [B, K]: what a filter judges.

        A view that keeps the answer of a negative replaces nothing, unless all do: that is the positive itself. An entity in
        several views counts once. No entities for generated vectors.
        """
        if self.ids is not None:
            return [(self.ids, torch.ones_like(self.ids, dtype=torch.bool))]
        answer = positives.answer(self.side if self.side.dim() == 2 else self.side.unsqueeze(1))  # [B, K] or [B, 1]
        seen, found = [answer], []
        for ids in (self.view_ids or {}).values():
            found.append((ids, torch.stack([ids != other for other in seen]).all(0)))
            seen.append(ids)
        if found:
            found[0][1].logical_or_(~torch.stack([new for _, new in found]).any(0))
        return found


def blocks_of(drawn: Any, batch: int, negatives: int) -> list[Negatives]:
    """What `sample` returned, as a list. ValueError, in plain words, where it breaks the contract; reads shapes only."""
    blocks = [drawn] if isinstance(drawn, Negatives) else drawn
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, Negatives) for block in blocks):
        raise ValueError(f"sample must return a Negatives, or a list of at least one, not {_shown(drawn)}")
    for block in blocks:
        block.check(batch)
    if all(block.shape[1] != negatives for block in blocks):
        widths = " and ".join(str(block.shape[1]) for block in blocks)
        raise ValueError(
            f"no block holds the K = {negatives} negatives per positive that every sampler is granted, but {widths}"
        )
    return blocks


def _shown(drawn: Any) -> str:
    return "an empty list" if drawn == [] else "None" if drawn is None else f"a {type(drawn).__name__}"


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


class Sampler(nn.Module):
    """Draws negatives. A plugin writes `sample`; everything else has a default.

    Caches are buffers and learnables are parameters, so devices and checkpoints take care of themselves; optimisers and
    scalars of your own go through `get_extra_state` / `set_extra_state`. Random numbers come from `view.rng` alone.
    """

    Options: type = NoOptions
    variants: Mapping[str, Mapping[str, Any]] = {}  # variant -> option values; "recommended" is the defaults
    requires: frozenset[Need] = frozenset()
    coupled: bool = False  # True: feedback joins the model's loss, one backward, all optimisers step
    filtered: bool = True  # False: may return known training positives (paper variants say so)
    reads_features: bool = False  # True: uses features where there are any; Need.FEATURES refuses to do without
    version: int = 1  # raise it whenever behaviour changes; part of the run id

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.k = setting.negatives
        self.options = options

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

    def work(self, batch: int, setting: Setting) -> dict[str, float] | None:
        """Units of each kind of work (nsbench.costs.KINDS) in a step, a mean over its phases; None: not stated.

        They come on top of the model's own step on K negatives; below zero where the sampler spares the model some of it.
        Counted for a side per row.
        """
        return None

    def state_bytes(self, setting: Setting) -> int | None:
        """The formula of the sampler's memory: buffers, parameters, and 8 bytes per parameter and 4 per tensor of Adam's.

        Called after `pretrain`; None: not stated. `nsbench bench` shows it beside what is held.
        """
        return None


class Objective(nn.Module):
    """Replaces sampling: a loss of its own over the positives (NS-KGE, 1-vs-all). Chosen like a sampler."""

    Options: type = NoOptions
    variants: Mapping[str, Mapping[str, Any]] = {}
    requires: frozenset[Need] = frozenset()
    version: int = 1

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.options = options

    def loss(self, positives: Positives, scoring: Scoring, view: View) -> Tensor:
        """The step's loss, a scalar with gradients into the model."""
        raise NotImplementedError

    def work(self, batch: int, setting: Setting) -> dict[str, float] | None:
        """As Sampler.work: beyond a model's step on K negatives, whose B (K + 1) `trained` candidates it spares."""
        return None

    def state_bytes(self, setting: Setting) -> int | None:
        """As Sampler.state_bytes."""
        return None


class Auxiliary(nn.Module):
    """An extra loss that can be added to any sampler: `--set aux.NAME=weight`."""

    Options: type = NoOptions
    requires: frozenset[Need] = frozenset({Need.LIVE})
    version: int = 1

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.options = options

    def loss(self, positives: Positives, view: View) -> Tensor:
        """A scalar; the view is live, gradients reach the model and the auxiliary's own parameters."""
        raise NotImplementedError

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        parameters = list(self.parameters())
        return [{"params": parameters, "lr": learning_rate}] if parameters else []


class Similarity:
    """How a query vector is compared with a candidate: one formula in three forms that agree (nsbench.kge.similarity)."""

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor:
        """q and c [..., D], broadcast against each other -> [...]."""
        raise NotImplementedError

    def gathered(self, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        """q [B, D] against rows of table [N, D] named by ids [B, K] -> [B, K]; never builds [B, K, D] on a CPU."""
        raise NotImplementedError

    def all_pairs(self, q: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
        """q [Q, D] against every row of table [N, D] (times scale [Q, D]) -> [Q, N]; never builds [Q, N, D]."""
        raise NotImplementedError


class KGE(nn.Module):
    """A scoring model: score = similarity(query(kept end, relation, side), candidate)."""

    Options: type = NoOptions
    version: int = 1
    provides: frozenset[Need] = frozenset({Need.QUERY})
    similarity: Similarity

    def __init__(
        self, num_entities: int, num_relations: int, width: int, margin: float, options: Any, rng: torch.Generator
    ) -> None:
        """`width` is the model's dimension d; `rng` a CPU generator that all initial values come from."""
        super().__init__()
        self.width = width
        self.margin = margin
        self.options = options
        bound = (margin + 2.0) / width  # the RotatE code base's range, for every model (specs/mmrns.md 6.4)
        self.entity = nn.Parameter(uniform(num_entities, self.entity_width(width), bound, rng))
        self.relation = nn.Parameter(uniform(num_relations, self.relation_width(width), bound, rng))

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

    def encode(self, table: Tensor, graph: TrainGraph) -> Tensor:
        """The entity table [N, D] that is scored, computed once per step (GC-OTE's neighbour context)."""
        return table

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


class Fusion(nn.Module):
    """Turns entity ids into vectors. A factor of the experiment, independent of the sampler."""

    Options: type = NoOptions
    version: int = 1
    provides: frozenset[Need] = frozenset()

    def __init__(self, setting: Setting, options: Any) -> None:
        super().__init__()
        self.options = options

    def views(self, entity: Tensor) -> dict[str, Tensor]:
        """view -> table [N, D], computed once per step; more than one: the score sums over all pairs of views."""
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


DatasetLoader = Callable[..., Dataset]
"""`load(argument, split=..., features=...)`, registered in DATASETS; `planted:small` calls planted with 'small'."""


def missing_needs(requires: Iterable[Need], provided: Iterable[Need]) -> list[Need]:
    """Which needs nothing in the experiment meets."""
    return sorted(set(requires) - set(provided))
