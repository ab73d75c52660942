"""Knowledge graphs as text files, read and checked.

Two forms. OpenKE: `entity2id.txt`, `relation2id.txt` (`identifier id`) and `train2id.txt`, `valid2id.txt`,
`test2id.txt`, whose first line is a count and whose columns are **head, tail, relation**. Labels, in a file for each split
(nsbench.datasets.labels). Any of the files may be compressed (.gz). In memory triples are always (h, r, t).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from nsbench.datasets import labels, text
from nsbench.errors import Misuse

SPLITS = ("train", "valid", "test")
_NUMBER = re.compile(r"-?[0-9]{1,18}")  # fits int64


@dataclass(frozen=True, eq=False)
class Graph:
    """What the files of a folder say."""

    identifiers: list[str]  # of entities, as in entity2id.txt
    entities: list[str]  # readable names; the identifiers where there are none
    relations: list[str]
    triples: dict[str, np.ndarray]  # split -> int64 [n, 3] as (h, r, t), in the order of the file
    files: dict[str, Path]  # split -> where its triples come from; {}: from the package
    first_lines: Mapping[str, int]  # split -> the line of its first triple, counted from 1; 0 where lines mean nothing (RDF)
    labelled: bool = False  # the triples stand there as labels, not as ids

    @property
    def origin(self) -> str:
        """Where it was read, in words for people."""
        return f"from {self.files['train'].parent}" if self.files else "embedded"

    def named(self, split: str) -> str:
        """The split's file, in words for people."""
        return self.files[split].name if self.files else split

    def codes(self, split: str) -> np.ndarray:
        """int64 [n]: one number per triple, equal for equal triples, in the order of (h, r, t)."""
        h, r, t = self.triples[split].T
        return (h * len(self.relations) + r) * len(self.entities) + t


def read_graph(folder: Path) -> Graph:
    """The graph in `folder`, in either form. Raises Misuse naming file and line of whatever is wrong."""
    files = labels.found(folder)
    if _there(folder / "train2id.txt") or ("train" not in files and _there(folder / "entity2id.txt")):
        return _read_openke(folder)
    if len(files) == len(SPLITS):
        return _read_labels(files)
    held = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    saw = f"{', '.join(held[:8])}{f' and {len(held) - 8} more' if len(held) > 8 else ''}" if held else "nothing"
    lacking = f"no {' and no '.join(split for split in SPLITS if split not in files)}" if files else "no graph"
    raise Misuse(
        f"{folder} holds {lacking}, only {saw}; put train.tsv, valid.tsv and test.tsv there, of head, relation, tail "
        "(or .txt, .csv, .nt, .ttl, each also as .gz), or entity2id.txt, relation2id.txt, train2id.txt, valid2id.txt and "
        "test2id.txt"
    )


def _there(file: Path) -> bool:
    return file.is_file() or file.with_name(f"{file.name}.gz").is_file()


def _read_openke(folder: Path) -> Graph:
    identifiers = read_identifiers(folder / "entity2id.txt")
    relation_identifiers = read_identifiers(folder / "relation2id.txt")
    files = {split: folder / f"{split}2id.txt" for split in SPLITS}
    return Graph(
        identifiers=identifiers,
        entities=_names(folder / "entity_names.txt", identifiers),
        relations=_names(folder / "relation_names.txt", relation_identifiers),
        triples={s: _triples(file, len(identifiers), len(relation_identifiers)) for s, file in files.items()},
        files=files,
        first_lines=dict.fromkeys(SPLITS, 2),
    )


def _read_labels(files: Mapping[str, Path]) -> Graph:
    found = labels.read(files)
    entities = sorted({label for part in found.values() for h, _, t in part.rows for label in (h, t)})
    relations = sorted({r for part in found.values() for _, r, _ in part.rows})
    entity_id = {label: i for i, label in enumerate(entities)}
    relation_id = {label: i for i, label in enumerate(relations)}
    triples = {
        split: np.array([(entity_id[h], relation_id[r], entity_id[t]) for h, r, t in part.rows], dtype=np.int64)
        for split, part in found.items()
    }
    first_lines = {split: part.first_line for split, part in found.items()}
    return Graph(entities, entities, relations, triples, dict(files), first_lines, labelled=True)


def _counted_lines(file: Path) -> list[str]:
    """The lines below the count line, which must be as many as it says."""
    first, *lines = text.read(file).rstrip().split("\n")
    if not _NUMBER.fullmatch(first.strip()):
        raise Misuse(f"{file}, line 1, must be the number of lines that follow, not '{first.strip()[:60]}'; add it")
    count = int(first)
    if len(lines) < count:
        raise Misuse(f"{file} is truncated: line 1 announces {count} lines and {len(lines)} follow; get the whole file")
    if len(lines) > count:
        raise Misuse(f"{file}, line 1, announces {count} lines but {len(lines)} follow; correct the number")
    return lines


def read_identifiers(file: Path) -> list[str]:
    """Identifiers in the order of their ids, from lines `identifier id`."""
    lines = _counted_lines(file)
    if not lines:
        raise Misuse(f"{file} is empty; list at least one identifier")
    found: dict[int, str] = {}
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        parts = line.rsplit(None, 1)
        if len(parts) != 2:
            raise Misuse(f"{file}, line {number}, must be 'identifier id', not '{line[:60]}'; correct the line")
        identifier, text = parts
        if not _NUMBER.fullmatch(text):
            raise Misuse(f"{file}, line {number}: the id '{text[:60]}' is not a whole number; write 'identifier id'")
        i = int(text)
        if not 0 <= i < len(lines):
            raise Misuse(f"{file}, line {number}: id {i} is out of range; the {len(lines)} ids must run from 0")
        if i in found:
            raise Misuse(f"{file}, line {number}: id {i} is given twice; number the lines from 0 without repeats")
        found[i] = identifier.strip()
        if (earlier := lines_of.setdefault(found[i], number)) != number:
            raise Misuse(
                f"{file}, line {number}, gives '{found[i]}' an id, as line {earlier} does; list each identifier once"
            )
    return [found[i] for i in range(len(lines))]


def _names(file: Path, identifiers: list[str]) -> list[str]:
    """Line i is the name of id i; without the file the identifiers are the names."""
    if not _there(file):
        return identifiers
    names = text.read(file).removesuffix("\n").split("\n")
    if len(names) != len(identifiers):
        raise Misuse(f"{file} has {len(names)} lines for {len(identifiers)} ids; write a name a line or remove the file")
    return names


def _triples(file: Path, entities: int, relations: int) -> np.ndarray:
    """int64 [n, 3] as (h, r, t) from lines `head tail relation`."""
    rows = [line.split() for line in _counted_lines(file)]
    if not rows:
        raise Misuse(f"{file} holds no triple; every split needs at least one")
    for number, row in enumerate(rows, start=2):
        if len(row) != 3:
            raise Misuse(f"{file}, line {number}, has {len(row)} columns; write head, tail, relation")
    words = list(chain.from_iterable(rows))
    if not all(map(_NUMBER.fullmatch, words)):
        number, word = next((i, x) for i, row in enumerate(rows, 2) for x in row if not _NUMBER.fullmatch(x))
        raise Misuse(f"{file}, line {number}: '{word[:60]}' is not an id; write whole numbers head, tail, relation")
    htr = np.array(list(map(int, words)), dtype=np.int64).reshape(-1, 3)
    limit = np.array([entities, entities, relations])
    bad = ((htr < 0) | (htr >= limit)).any(1)
    if bad.any():
        number = int(bad.argmax())
        line = f"{file}, line {number + 2}"
        swapped = (htr >= 0).all() and (htr[:, 1] < relations).all() and (htr[:, [0, 2]] < entities).all()
        if swapped:
            raise Misuse(
                f"{line}: the columns look swapped, every line fits head, relation, tail; write head, tail, relation"
            )
        column = int(((htr[number] < 0) | (htr[number] >= limit)).argmax())
        kind, table = ("relation", "relation2id.txt") if column == 2 else ("entity", "entity2id.txt")
        raise Misuse(
            f"{line}: {kind} id {htr[number, column]} is out of range; {table} has ids 0 to {limit[column] - 1} "
            "and the columns are head, tail, relation"
        )
    return htr[:, [0, 2, 1]].copy()
