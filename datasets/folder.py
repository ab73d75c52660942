"""A user's own graph: a folder in one of the two forms of nsbench.datasets.reading."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from nsbench.contracts import Dataset
from nsbench.datasets import places
from nsbench.datasets.features import gather
from nsbench.datasets.questions import Finding, asked
from nsbench.datasets.reading import Graph, read_graph
from nsbench.errors import Misuse


def load_folder(path: str | Path, split: str | None = None, features: str = "auto") -> Dataset:
    """The graph in folder `path`, split as its files say.

    Raises Misuse on a malformed file, on labels that cannot be meant and on repeated triples in train or test; warns in a
    line of doubtful labels, of triples that two splits share, and of splits that train hardly knows (`nsbench data audit`
    counts them).
    """
    if split == "clean":
        raise Misuse(f"{path} comes with its own split and nsbench makes no other; leave out --split clean")
    home = places.place(path)
    graph = read_graph(home.writable)
    doubts = asked(graph)
    if refused := next((doubt.refusal for doubt in doubts if doubt.refusal), ""):
        raise Misuse(f"{home.writable}: {refused}")
    for part in ("train", "test"):
        refuse_duplicates(graph, part)
    warn(graph, doubts)
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
    start = graph.first_lines[split]
    earlier = int((codes == codes[row]).argmax())
    raise Misuse(
        f"{graph.files[split]}, line {row + start}, repeats the triple of line {earlier + start} "
        f"({int(repeated.sum())} repeats in all); remove the repeats"
    )


def warn(graph: Graph, doubts: Iterable[Finding]) -> None:
    """Warn, in one line, of all that may not be meant."""
    said = [" ".join(f"{doubt.count} {doubt.words} {doubt.remark}".split()) for doubt in doubts if doubt.count]
    trained = np.zeros(len(graph.entities), dtype=bool)
    trained[graph.triples["train"][:, [0, 2]]] = True
    for split, other in (("test", "train"), ("valid", "train"), ("valid", "test")):
        count, name = len(graph.triples[split]), graph.named(split)
        if shared := int(np.isin(graph.codes(split), graph.codes(other)).sum()):
            said.append(f"{shared} of {count} triples of {name} are in {graph.named(other)} too")
        unseen = int((~trained[graph.triples[split][:, [0, 2]]].all(1)).sum())
        if other == "train" and 2 * unseen > count:
            said.append(f"{unseen} of {count} triples of {name} have an entity that {graph.named('train')} lacks")
    if said:
        folder = graph.files["train"].parent
        warnings.warn(f"{folder}: {'; '.join(said)}; see 'nsbench data audit {shlex.quote(str(folder))}'", stacklevel=3)
