"""A small graph with most of what goes wrong in real ones, and components that are known for the time of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from nsbench.contracts import Dataset
from nsbench.registry import Registry


def toy(features: bool = False, saturated: bool = False) -> Dataset:
    """40 entities, 5 relations, 129 training triples, and most of what goes wrong in real graphs.

    Relations: 0 n-n with the self loop (5, 0, 5); 1 one-to-many, each of its heads with 4 tails; 2 many-to-one, 29
    heads of the hub 39; 3 one-to-one; 4 never in train. Entity 20 is never in train. `saturated`: (3, 0, ?) and
    (?, 0, 3) are answered by every entity. `features`: pooled "image" and token-level "text", each with gaps.
    """
    seen = [e for e in range(40) if e != 20]
    knows = {(h, 0, t) for h in seen for t in ((7 * h + 3) % 40, (11 * h + 5) % 40) if t != 20} | {(5, 0, 5)}
    parent_of = {(h, 1, t) for h, first in ((0, 10), (1, 14), (2, 21)) for t in range(first, first + 4)}
    born_in = {(h, 2, 39) for h in range(30) if h != 20} | {(h, 2, 38) for h in range(30, 35)}
    twin_of = {(h, 3, h + 5) for h in range(24, 30)}
    if saturated:
        knows |= {(3, 0, e) for e in range(40)} | {(e, 0, 3) for e in range(40)}
    train = knows | parent_of | born_in | twin_of
    held_out = [(h, 0, (h + 1) % 40) for h in range(24)] + [(20, 0, 1), (1, 2, 38), (2, 4, 3), (4, 4, 20)]
    held_out = [triple for triple in held_out if triple not in train]
    rng = torch.Generator().manual_seed(1)
    modalities = {"image": torch.randn(40, 6, generator=rng), "text": torch.randn(40, 3, 5, generator=rng)}
    present = {"image": torch.ones(40, dtype=torch.bool), "text": torch.ones(40, dtype=torch.bool)}
    present["image"][[7, 20]] = False
    present["text"][[0, 7, 11]] = False
    return Dataset(
        name="toy",
        train=torch.tensor(sorted(train)),
        valid=torch.tensor(held_out[::2]),
        test=torch.tensor(held_out[1::2]),
        entities=[f"entity {e}" for e in range(40)],
        relations=["knows", "parent of", "born in", "twin of", "unheard of"],
        features=modalities if features else {},
        present=present if features else {},
    )


@contextlib.contextmanager
def registered(registry: Registry, name: str, component: Any) -> Iterator[None]:
    """Make a component known under `name`, for the time of a test."""
    registry.register(name)(component)
    try:
        yield
    finally:
        del registry._found[name]  # nothing but a test ever takes a component back
