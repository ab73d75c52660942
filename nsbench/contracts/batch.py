"""A batch of training triples, and blocks of negatives for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor


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
class Generated:
    """Vectors that take the place of entities, and how they are scored."""

    vectors: Tensor  # [B, K, D] or [B, K, S, D]
    slot_mask: Tensor | None = None  # bool [B, S] with vectors [B, K, S, D]
    anchors: Tensor | None = None  # shape of `vectors`: replaces the kept end too
    joint: Literal["score", "fuse"] = "score"  # slots: mean of the slots' scores, or score of the fused vector
    truth: Tensor | None = None  # [B, D] or [B, S, D]: the replaced entity in the same form, for diagnostics alone

    def check(self) -> None:
        """As Negatives.check."""
        if self.anchors is not None and self.anchors.shape != self.vectors.shape:
            raise ValueError(f"anchors must have the shape of vectors, {list(self.vectors.shape)}")
        if (self.slot_mask is not None) != (self.vectors.dim() == 4):
            raise ValueError("vectors [B, K, S, D] come with slot_mask [B, S], and only those")
        if self.truth is not None and self.truth.shape != self.vectors.shape[:1] + self.vectors.shape[2:]:
            raise ValueError("truth must have the shape of vectors without K: [B, D] or [B, S, D]")


@dataclass(eq=False)
class Negatives:
    """One block of negatives for a batch. Exactly one of `ids`, `view_ids`, `generated` is set."""

    side: Tensor  # bool [B] or [B, K]
    ids: Tensor | None = None  # int64 [B, K]
    view_ids: Mapping[str, Tensor] | None = None  # view -> int64 [B, K]: another entity per view (MANS)
    generated: Generated | None = None  # vectors instead of entities (DHNS)
    delta: Tensor | None = None  # [B, K, D], value 0: added to the scored vectors, carries a straight-through gradient
    valid: Tensor | None = None  # bool [B, K]; None: all
    weight: Tensor | None = None  # [B, K], constant, >= 0; with reduce="weighted"
    margin_shift: Tensor | None = None  # [B, K], added to the logit
    log_q: Tensor | None = None  # [B, K] log-probability under the proposal; may carry the sampler's own graph
    reduce: Literal["loss", "weighted"] = "loss"  # the experiment's reduction, or sum of weight x term / K
    positive: Literal["once", "per_negative", "none"] = "once"  # per_negative: with each one's shift, never weighted
    coef: float = 1.0
    tape: Any = None  # private, handed back to `feedback`

    def __new__(cls, *_: Any, **given: Any) -> Negatives:
        for field in fields(Generated):  # they stood here once
            if field.name in given:
                raise TypeError(f"Negatives has no {field.name}; write generated=Generated({field.name}=...)")
        return super().__new__(cls)

    def check(self, batch: int) -> None:
        """Raise ValueError, in plain words, where the block breaks the contract. Reads shapes only, never values."""
        given = [name for name in ("ids", "view_ids", "generated") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a block sets exactly one of ids, view_ids, generated; this one sets {given or 'none'}")
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
        for ids in self.all_ids:
            if ids.dtype != torch.int64:
                raise ValueError(f"ids must be int64, not {ids.dtype}")
        if self.generated is not None:
            self.generated.check()
        if self.delta is not None and self.ids is None:
            raise ValueError("delta belongs to ids")

    def check_range(self, entities: int) -> None:
        """ValueError where an id is none of the entities'. Reads values, which waits for the device."""
        for ids in self.all_ids:
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < entities:
                raise ValueError(f"ids reach from {int(ids.min())} to {int(ids.max())}, entities from 0 to {entities - 1}")

    @property
    def all_ids(self) -> list[Tensor]:
        """The entities of the block, int64 [B, K] once for each view; none where vectors are generated."""
        return [self.ids] if self.ids is not None else list((self.view_ids or {}).values())

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, K)."""
        if self.ids is not None:
            return tuple(self.ids.shape)
        if self.generated is not None:
            return tuple(self.generated.vectors.shape[:2])
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
