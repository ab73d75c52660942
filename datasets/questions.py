"""What is doubtful about the labels of a graph: asked of every graph in files, whatever their form.

Nothing is repaired. `nsbench data audit` counts each suspicion, loading a folder warns of those that there are, and refuses
what cannot be meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from nsbench.datasets.labels import visible

if TYPE_CHECKING:
    from nsbench.datasets.reading import Graph

_WRAPPED = re.compile(r"""(["'<«“‘])(.*)(["'>»”’])( \.)?|(.*) \.""")


@dataclass(frozen=True)
class Finding:
    """One count. `of` is what it is a part of, where it is one; `remark` says what names it concerns.

    `refusal`: why no run can be meant with it; empty where one can.
    """

    key: str
    words: str
    count: int
    of: int | None = None
    remark: str = ""
    refusal: str = ""

    @property
    def share(self) -> float:
        """The count as a fraction of `of`."""
        return self.count / self.of if self.of else float("nan")


def _bare(label: str) -> str:
    """Without quotes or brackets around it, and without the full stop of N-Triples behind it."""
    while match := _WRAPPED.fullmatch(label):
        inner = match[2] if match[2] is not None else match[5]
        if not inner:
            break
        label = inner
    return label


FOLDS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "spaces": ("spaces or invisible characters", visible),
    "forms": ("Unicode forms", lambda label: label if label.isascii() else unicodedata.normalize("NFKC", label)),
    "quotes": ("quotes, brackets or full stops around them", _bare),
    "escapes": ("underscores or percent signs", lambda label: unquote(label).replace("_", " ")),
    "case": ("upper and lower case", str.casefold),
}
"""What may tell two labels of one thing apart, each asked of labels that those before it leave different."""


def folded(label: str) -> str:
    """The same for labels that may be meant for one."""
    for _, fold in FOLDS.values():
        label = fold(label)
    return label


def asked(graph: Graph) -> list[Finding]:
    """Every suspicion, counted, those with the count 0 too."""
    kinds = {"entity": graph.identifiers, "relation": graph.relations}
    found = [finding for kind, labels in kinds.items() for finding in _spellings(kind, labels)]
    if any(finding.count for finding in found):
        found += _other_spellings(graph)
    return [*found, *_first_lines(graph), *_columns(graph)]


def _spellings(kind: str, labels: Sequence[str]) -> Iterator[Finding]:
    forms = {label: label for label in labels}  # as written -> folded so far
    for key, (words, fold) in FOLDS.items():
        after, example = {}, ""
        met: dict[str, str] = {}  # folded -> the first label as written
        for label, form in forms.items():
            after[label] = fold(form)
            other = met.setdefault(after[label], label)
            if not example and forms[other] != form:
                show = ascii if key == "forms" else repr
                example = f"(as {show(other)} and {show(label)})"
        count = len(set(forms.values())) - len(set(after.values()))
        yield Finding(f"{kind}_{key}", f"{kind} labels that only {words} tell from others", count, len(labels), example)
        forms = after


def _other_spellings(graph: Graph) -> Iterator[Finding]:
    """Entities of a split that train has, but writes otherwise. Most of a split's cannot be meant to."""
    trained = _entities(graph, "train")
    spelt = {folded(graph.identifiers[i]): graph.identifiers[i] for i in trained}
    for split in ("valid", "test"):
        there = _entities(graph, split)
        others = [graph.identifiers[i] for i in sorted(there - trained) if folded(graph.identifiers[i]) in spelt]
        refusal = example = ""
        if others:
            example = f"(as {others[0]!a}, there {spelt[folded(others[0])]!a})"
        if 2 * len(others) > len(there):
            refusal = (
                f"{len(others)} of {len(there)} entities of {graph.named(split)} are in {graph.named('train')} in another "
                f"spelling only {example}; write each label in one way"
            )
        words = f"{split} entities that train spells otherwise only"
        yield Finding(f"{split}_spelt_otherwise", words, len(others), len(there), example, refusal)


def _first_lines(graph: Graph) -> Iterator[Finding]:
    """Lines that were read as a header, and first triples whose labels stand nowhere else, as those of a header do."""
    headers = [split for split, line in graph.first_lines.items() if graph.labelled and line == 2]
    remark = f"({', '.join(graph.named(split) for split in headers)})" if headers else ""
    yield Finding("headers", "first lines read as names of the columns", len(headers), remark=remark)
    uses, relation_uses = np.zeros(len(graph.entities), int), np.zeros(len(graph.relations), int)
    firsts: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for split, triples in graph.triples.items():
        np.add.at(uses, triples[1:, [0, 2]], 1)
        np.add.at(relation_uses, triples[1:, 1], 1)
        if len(triples) > 1 and graph.labelled and graph.first_lines[split] == 1:
            firsts[tuple(triples[0].tolist())].append(split)
    odd = {(h, r, t): splits for (h, r, t), splits in firsts.items() if not (uses[h] or relation_uses[r] or uses[t])}
    remark = refusal = ""
    for (h, r, t), splits in odd.items():
        said = f"'{graph.identifiers[h]}', '{graph.relations[r]}', '{graph.identifiers[t]}'"
        remark = f"({said} in {', '.join(graph.named(split) for split in splits)})"
        if len(splits) > 1:
            refusal = f"the first line of {' and '.join(map(graph.named, splits))} is a header, {said}; remove it"
    words = "first triples whose labels stand nowhere else"
    yield Finding("header_like", words, sum(map(len, odd.values())), remark=remark, refusal=refusal)


def _columns(graph: Graph) -> Iterator[Finding]:
    """Signs that the middle column does not hold the relations, or not in every file."""
    labels, names = np.array(graph.identifiers, dtype=object), set(graph.relations)
    train = graph.triples["train"]
    heads, tails = set(labels[np.unique(train[:, 0])]), set(labels[np.unique(train[:, 2])])
    used = {graph.relations[r] for r in np.unique(train[:, 1])}
    many = len(used) > min(len(heads), len(tails))
    refusal, fix = "", "write head, relation, tail"
    if many and not heads & tails and used & (heads | tails):
        refusal = f"{graph.named('train')}: its second column holds entities, not relations; {fix}"
    for split in ("valid", "test"):
        there = {graph.relations[r] for r in np.unique(graph.triples[split][:, 1])}
        strays = (there & (heads | tails)) - used
        if 2 * len(strays) > len(there):
            refusal = f"{graph.named(split)} has the columns in another order than {graph.named('train')}; {fix} in each"
    both = len(names & set(graph.identifiers))
    yield Finding("entities_as_relations", "labels of both an entity and a relation", both, len(names), refusal=refusal)
    yield Finding("few_ends", "more relations than heads or tails in train", int(many))


def _entities(graph: Graph, split: str) -> set[int]:
    return set(np.unique(graph.triples[split][:, [0, 2]]).tolist())
