"""What is wrong, or only worth knowing, about a dataset's files: everything is counted, nothing is repaired."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsbench.contracts import TrainGraph
from nsbench.datasets import places
from nsbench.datasets.features import at_hand, gather
from nsbench.datasets.graphs import graph_of
from nsbench.datasets.questions import Finding, asked
from nsbench.datasets.reading import SPLITS, Graph


def audit(dataset: str | Path) -> list[Finding]:
    """Count the properties of a public dataset's released files, or of a user's folder.

    Malformed files raise Misuse as in loading; repeated and shared triples are what is counted here, not refused.
    """
    home = places.place(dataset)
    graph = graph_of(home)
    found = gather(home, graph.entities, ",".join(at_hand(home)) or "none")
    return [
        *_sizes(graph),
        *asked(graph),
        *_overlaps(graph),
        *_unseen(graph),
        *_shapes(graph),
        *_categories(graph),
        *_features(found.features, found.present),
    ]


def printable(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """(what, how many) per finding, for a two-column table."""
    rows = []
    for finding in findings:
        value = f"{finding.count:,}"
        if finding.of is not None:
            value += f" of {finding.of:,} ({finding.share:.1%})" if finding.of else " of 0"
        rows.append((finding.words, f"{value} {finding.remark}".strip()))
    return rows


def _sizes(graph: Graph) -> Iterable[Finding]:
    yield Finding("entities", "entities", len(graph.entities))
    yield Finding("relations", "relations", len(graph.relations))
    for split in SPLITS:
        codes = graph.codes(split)
        yield Finding(split, f"{split} triples", len(codes))
        repeats = len(codes) - len(np.unique(codes))
        yield Finding(f"{split}_duplicates", f"repeated {split} triples", repeats, len(codes))


def _overlaps(graph: Graph) -> Iterable[Finding]:
    train, valid, test = (np.unique(graph.codes(split)) for split in SPLITS)
    in_train, in_test = np.isin(valid, train), np.isin(valid, test)
    yield Finding("valid_distinct", "distinct valid triples", len(valid), len(graph.codes("valid")))
    yield Finding("valid_in_train", "distinct valid triples that are in train", int(in_train.sum()), len(valid))
    yield Finding("valid_in_test", "distinct valid triples that are in test", int(in_test.sum()), len(valid))
    neither = int((~in_train & ~in_test).sum())
    yield Finding("valid_in_neither", "distinct valid triples in neither", neither, len(valid))
    both = int(np.isin(test, train).sum())
    yield Finding("test_in_train", "distinct test triples that are in train", both, len(test))


def _unseen(graph: Graph) -> Iterable[Finding]:
    train, valid, test = (graph.triples[split] for split in SPLITS)
    seen = np.zeros(len(graph.entities), dtype=bool)
    seen[train[:, [0, 2]]] = True
    trained = np.zeros(len(graph.relations), dtype=bool)
    trained[train[:, 1]] = True
    head, tail = ~seen[test[:, 0]], ~seen[test[:, 2]]
    yield Finding("unseen_entities", "entities never in train", int((~seen).sum()), len(seen))
    yield Finding("unseen_relations", "relations never in train", int((~trained).sum()), len(trained))
    held = int((~seen[valid[:, [0, 2]]].all(1)).sum())
    yield Finding("valid_unseen", "valid triples with an entity never in train", held, len(valid))
    yield Finding("test_unseen", "test triples with an entity never in train", int((head | tail).sum()), len(test))
    yield Finding("tail_answer_unseen", "tail queries whose answer is never in train", int(tail.sum()), len(test))
    yield Finding("head_answer_unseen", "head queries whose answer is never in train", int(head.sum()), len(test))
    untrained = int((~trained[test[:, 1]]).sum())
    yield Finding("test_relation_unseen", "test triples with a relation never in train", untrained, len(test))


def _shapes(graph: Graph) -> Iterable[Finding]:
    train, test = graph.triples["train"], graph.triples["test"]
    loops = int((train[:, 0] == train[:, 2]).sum())
    yield Finding("self_loops", "training triples from an entity to itself", loops, len(train))
    n = len(graph.entities)
    inverse = np.isin(test[:, 2] * n + test[:, 0], train[:, 0] * n + train[:, 2])
    yield Finding("inverse_pairs", "test triples whose inverse pair is in train", int(inverse.sum()), len(test))
    yield _twins(graph)
    heads, (r, t) = _biggest(graph, (1, 2))
    tail_query = f"({graph.relations[r]}, {graph.entities[t]})"
    yield Finding("most_heads", "most training heads of one (relation, tail)", heads, remark=tail_query)
    tails, (h, r) = _biggest(graph, (0, 1))
    head_query = f"({graph.entities[h]}, {graph.relations[r]})"
    yield Finding("most_tails", "most training tails of one (head, relation)", tails, remark=head_query)


def _twins(graph: Graph, shown: int = 3) -> Finding:
    """Test triples whose head and tail train joins by another relation, and the pairs of relations that make them."""
    joined: dict[tuple[int, int], set[int]] = defaultdict(set)
    for h, r, t in graph.triples["train"].tolist():
        joined[h, t].add(r)
    made, twins = Counter[tuple[int, ...]](), 0
    for h, r, t in graph.triples["test"].tolist():
        others = joined.get((h, t), set()) - {r}
        twins += bool(others)
        made.update(tuple(sorted((r, other))) for other in others)
    most = [f"{graph.relations[a]} / {graph.relations[b]} {n:,}" for (a, b), n in made.most_common(shown)]
    more = f", {len(made) - shown} more pairs" if len(made) > shown else ""
    words = "test triples whose pair of entities is in train under another relation (twins)"
    remark = f"({', '.join(most)}{more})" if most else ""
    return Finding("twins", words, twins, len(graph.triples["test"]), remark)


def _biggest(graph: Graph, columns: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many distinct training triples share the commonest pair of values in two columns, and that pair."""
    distinct = _distinct(graph)
    width = max(len(graph.entities), len(graph.relations))
    pairs, counts = np.unique(distinct[:, columns[0]] * width + distinct[:, columns[1]], return_counts=True)
    return int(counts.max()), divmod(int(pairs[counts.argmax()]), width)


def _distinct(graph: Graph) -> np.ndarray:
    """int64 [n, 3]: the training triples without repeats."""
    _, first = np.unique(graph.codes("train"), return_index=True)
    return graph.triples["train"][first]


def _categories(graph: Graph) -> Iterable[Finding]:
    """Relations and test triples by cardinality, from averages over the distinct training triples."""
    train = graph.triples["train"]
    category = np.array(TrainGraph(torch.from_numpy(train), len(graph.entities), len(graph.relations)).categories())
    trained = np.bincount(train[:, 1], minlength=len(graph.relations)) > 0
    tested = graph.triples["test"][:, 1]
    for key in ("1-1", "1-n", "n-1", "n-n"):
        members = trained & (category == key)
        yield Finding(f"relations_{key}", f"{key} relations", int(members.sum()), int(trained.sum()))
        yield Finding(f"test_{key}", f"test triples of {key} relations", int(members[tested].sum()), len(tested))


def _features(features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Iterable[Finding]:
    if not features:
        yield Finding("features", "feature modalities at hand", 0)
    for modality, values in features.items():
        have = int(present[modality].sum())
        shape = " x ".join(map(str, values.shape[1:]))
        yield Finding(f"features_{modality}", f"entities with {modality} features", have, len(values), f"{shape} wide")
