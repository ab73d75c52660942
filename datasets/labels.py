"""Triples as labels, read from a file for each split.

train, valid (or dev, val) and test as .tsv or .txt, with tabs between head, relation and tail; as .csv; as .nt or .ttl
(nsbench.datasets.rdf); each of them also compressed (.gz). A label is what stands there, to the last blank; what is
doubtful about it nsbench.datasets.questions asks.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from nsbench.datasets import rdf, text
from nsbench.errors import Misuse

_SPLIT = {"train": "train", "valid": "valid", "dev": "valid", "val": "valid", "test": "test"}
_FILE = re.compile(r"(train|valid|dev|val|test)(\.tsv|\.txt|\.csv|\.nt|\.ttl)(\.gz)?", re.IGNORECASE)
_N_TRIPLE = re.compile(r"\s*(<[^>]*>|_:\S+)\s+<[^>]*>\s+(<[^>]*>|_:\S+|\".*\"\S*)\s*\.\s*")
_COLUMNS = ("head h subject subj s source", "relation rel r predicate pred p property", "tail t object obj o target")
_COLUMN = {word: column for column, words in enumerate(_COLUMNS) for word in words.split()}

Row = list[str]  # head, relation, tail


@dataclass(frozen=True)
class Labelled:
    """A split's triples, and the line of its file that the first of them stands in; 0 where lines mean nothing (RDF)."""

    rows: list[Row]
    first_line: int


def found(folder: Path) -> dict[str, Path]:
    """split -> its file, of those that are there. Misuse where two files could be meant."""
    files: dict[str, Path] = {}
    for file in sorted(file for file in folder.iterdir() if _FILE.fullmatch(file.name) and file.is_file()):
        split = _SPLIT[file.name.partition(".")[0].lower()]
        if split in files:
            raise Misuse(f"{folder} holds {files[split].name} and {file.name}; keep the one that is meant as {split}")
        files[split] = file
    return {split: files[split] for split in ("train", "valid", "test") if split in files}


def read(files: Mapping[str, Path]) -> dict[str, Labelled]:
    """The triples of each split; a first line that names the columns says in which order they are, and is no triple."""
    raw = {split: _rows(file) for split, file in files.items()}
    uses = Counter(chain.from_iterable(chain.from_iterable(raw.values())))
    first = Counter(chain.from_iterable(rows[0] for rows in raw.values()))
    found = {}
    for split, rows in raw.items():
        columns = [_COLUMN.get(label.strip(" \"'").casefold(), -1) for label in rows[0]]
        if sorted(columns) == [0, 1, 2] and all(uses[label] == first[label] for label in rows[0]):
            order = [columns.index(i) for i in range(3)]
            found[split] = Labelled([[row[i] for i in order] for row in rows[1:]], 2)
        else:
            found[split] = Labelled(rows, 0 if _end(files[split]) in rdf.FORMS else 1)
        if not found[split].rows:
            raise _empty(files[split])
    return found


def _rows(file: Path) -> list[Row]:
    end = _end(file)
    if end in rdf.FORMS:
        rows = rdf.rows(file, rdf.FORMS[end])
    else:
        lines = text.read(file).rstrip("\n").split("\n")
        if _N_TRIPLE.fullmatch(lines[0]):
            raise Misuse(f"{file} holds N-Triples, each with a full stop; call it {file.name.lower().replace(end, '.nt')}")
        rows = _comma_separated(file, lines) if end == ".csv" else [line.split("\t") for line in lines]
        between = "commas" if end == ".csv" else "tabs"
        if rows == [[""]] or rows == [[]]:
            raise _empty(file)
        for number, row in enumerate(rows, start=1):
            if len(row) != 3:
                said = f"{file}, line {number}, has {len(row)} columns"
                raise Misuse(f"{said}; write head, relation, tail with {between} between")
            if not all(visible(label) for label in row):
                raise Misuse(f"{file}, line {number}, has an empty label; give every head, relation and tail a label")
    if not rows:
        raise _empty(file)
    return rows


def _end(file: Path) -> str:
    """.tsv, of train.tsv.gz too."""
    return file.suffixes[0].lower()


def _comma_separated(file: Path, lines: Sequence[str]) -> list[Row]:
    """By commas, or by the semicolons or tabs that spreadsheets write for them; a label may stand in quotes."""
    mark = next((mark for mark in ",;\t" if len(_first(lines, mark)) == 3), ",")
    reader, rows = csv.reader(lines, delimiter=mark, strict=True), []
    try:
        for row in reader:
            rows.append(row)
            if reader.line_num != len(rows) or any("\r" in label for label in row):
                raise Misuse(f"{file}, line {len(rows)}, has a label that goes on in the next line; write each in one line")
    except csv.Error as error:
        raise Misuse(f"{file}, line {reader.line_num}, is no line of a .csv ({error}); correct its quotes") from None
    return rows


def _first(lines: Sequence[str], mark: str) -> Row:
    try:
        return next(csv.reader(lines[:1], delimiter=mark, strict=True))
    except csv.Error:
        return []


def _empty(file: Path) -> Misuse:
    return Misuse(f"{file} holds no triple; every split needs at least one")


def visible(label: str) -> str:
    """The label without control and zero-width characters, and with one plain blank wherever it is spaced."""
    if not label.isprintable():
        label = "".join(c for c in label if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join(label.split())
