"""The three public datasets: mkg_y, mkg_w (Xu et al. 2022, MMRNS) and db15k (Liu et al. 2019, MMKG).

The released splits of MKG-Y and MKG-W are clean: `split="clean"` and `"released"` are the same, recorded as `released`.
DB15K's released validation file is not a validation set: most of its rows are training or test triples. Its default
split, `clean`, holds out rows of train instead. Test is untouched, and both splits filter the same facts: the original
train, the released valid and test.
"""

from __future__ import annotations

import numpy as np
import torch

from nsbench.contracts import Dataset
from nsbench.datasets import places
from nsbench.datasets.features import gather
from nsbench.datasets.graphs import graph_of
from nsbench.datasets.reading import Graph
from nsbench.errors import Misuse
from nsbench.registry import DATASETS

HOLD_OUT_SHARE = 0.025
HOLD_OUT_SEED = 15


def load_public(name: str, argument: str | None, split: str | None, features: str) -> Dataset:
    """A public dataset by name; fetched when it is neither on this machine nor in the package."""
    if argument is not None:
        raise Misuse(f"{name} takes no argument; write --dataset {name}")
    if split not in (None, "clean", "released"):
        raise Misuse(f"unknown split '{split}'; {name} has clean and released")
    home = places.place(name)
    graph = graph_of(home)
    found = gather(home, graph.entities, features)
    train, valid, test = (torch.from_numpy(graph.triples[part]) for part in ("train", "valid", "test"))
    repaired = name == "db15k" and split != "released"
    extra_known = None
    if repaired:
        held_out = torch.from_numpy(hold_out(graph))
        extra_known = torch.cat([train, valid])
        train, valid = train[~held_out], train[held_out]
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        entities=graph.entities,
        relations=graph.relations,
        split="clean" if repaired else "released",
        origin=graph.origin,
        extra_known=extra_known,
        features=found.features,
        present=found.present,
        identities=found.identities,
    )


def hold_out(graph: Graph, share: float = HOLD_OUT_SHARE, seed: int = HOLD_OUT_SEED) -> np.ndarray:
    """bool [n]: the training rows that become validation, `share` of them.

    Rows are taken in a random order, skipping those whose loss would leave an entity or a relation without a training
    triple. Raises Misuse where too few rows can be spared.
    """
    train = graph.triples["train"]
    wanted = round(share * len(train))
    ends = np.bincount(train[:, [0, 2]].ravel(), minlength=len(graph.entities))  # [N] ends of training triples
    uses = np.bincount(train[:, 1], minlength=len(graph.relations))  # [R]
    held_out = np.zeros(len(train), dtype=bool)
    # RandomState, not default_rng: numpy promises that its stream never changes, so neither does the split
    for row in np.random.RandomState(seed).permutation(len(train)):
        if wanted == 0:
            return held_out
        h, r, t = train[row]
        ends[h] -= 1
        ends[t] -= 1
        if ends[h] > 0 and ends[t] > 0 and uses[r] > 1:
            uses[r] -= 1
            held_out[row] = True
            wanted -= 1
        else:
            ends[h] += 1
            ends[t] += 1
    if wanted:
        raise Misuse(f"cannot hold out {share:.1%} of {len(train)} triples, {wanted} rows too few; use --split released")
    return held_out


def _register(name: str) -> None:
    @DATASETS.register(name)
    def load(argument: str | None = None, *, split: str | None = None, features: str = "auto") -> Dataset:
        return load_public(name, argument, split, features)


for _name in places.FOLDERS:
    _register(_name)
