"""A user's own graph: a folder in one of the two forms of nsbench.datasets.reading."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from nsbench.contracts import Dataset
from nsbench.datasets import places
from nsbench.datasets.features import gather
from nsbench.datasets.reading import Graph, read_graph
from nsbench.errors import Misuse


def load_folder(path: str | Path, split: str | None = None, features: str = "auto") -> Dataset:
    """The graph in folder `path`, split as its files say.

    Raises Misuse on a malformed file and on repeated triples in train or test; warns about triples that two splits
    share (`nsbench data audit` counts them).
    """
    if split == "clean":
        raise Misuse(f"{path} comes with its own split and nsbench makes no other; leave out --split clean")
    home = places.place(path)
    graph = read_graph(home.writable)
    for part in ("train", "test"):
        refuse_duplicates(graph, part)
    warn_overlaps(graph)
    found = gather(home, graph.entities, features)
    return Dataset(
        name=home.name,
        train=torch.from_numpy(graph.triples["train"]),
        valid=torch.from_numpy(graph.triples["valid"]),
        test=torch.from_numpy(graph.triples["test"]),
        entities=graph.entities,
        relations=graph.relations,
        features=found.features,
        present=found.present,
        identities=found.identities,
    )


def refuse_duplicates(graph: Graph, split: str) -> None:
    """A repeated test triple counts twice in every metric, a repeated training triple is drawn twice as often."""
    codes = graph.codes(split)
    _, first = np.unique(codes, return_index=True)
    if len(first) == len(codes):
        return
    repeated = np.ones(len(codes), dtype=bool)
    repeated[first] = False
    row = int(repeated.argmax())
    earlier = int((codes == codes[row]).argmax())
    raise Misuse(
        f"{graph.files[split]}, line {row + graph.first_line}, repeats the triple of line {earlier + graph.first_line} "
        f"({int(repeated.sum())} repeats in all); remove the repeats"
    )


def warn_overlaps(graph: Graph) -> None:
    """Warn, once per pair of splits, about evaluation triples that another split holds too."""
    for split, other in (("test", "train"), ("valid", "train"), ("valid", "test")):
        shared = int(np.isin(graph.codes(split), graph.codes(other)).sum())
        if shared:
            warnings.warn(
                f"{shared} of {len(graph.codes(split))} triples of {graph.files[split].name} are in "
                f"{graph.files[other].name} too; see 'nsbench data audit {graph.files[split].parent}'",
                stacklevel=3,
            )
