"""What several forms write alike: a cell's text, the caption, the notes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nsbench.results.tables.cells import Cell, Row, Table


def caption(
    table: Table, emphasis: Mapping[str, str], head: str = "{}: {}", escape: Callable[[str], str] = lambda text: text
) -> list[str]:
    """A paragraph for each of its parts; `head` is the form of one with its heading."""
    texts = {name: (emphasis[style].format(escape(text)) for text, style in said) for name, said in table.said.items()}
    return [head.format(name, "".join(pieces)) for name, pieces in texts.items()]


def at(table: Table, places: Sequence[int]) -> list[Row]:
    """The rows as the columns at these places show them; of a part of the columns, of the groups that have any there.

    Where rows count their runs, the row does so by `n` if its cells here agree, else each of its means does.
    """
    groups = {row.group for row in table.rows if any(row.cells[i].value != "-" for i in places)}
    rows = [row for row in table.rows if row.group in groups or len(places) == len(table.columns)]
    return [_counted(row, places) for row in rows] if table.counted else rows


def _counted(row: Row, places: Sequence[int]) -> Row:
    ns = {n for i in places if (n := row.cells[i].record.get("n"))}
    if len(ns) < 2:
        return replace(row, n="".join(map(str, ns)))
    spreads = (f"{cell.spread} (n={cell.record['n']})" if "mean" in cell.record else cell.spread for cell in row.cells)
    return replace(row, cells=tuple(replace(cell, spread=text.strip()) for cell, text in zip(row.cells, spreads)))


def names(rows: Sequence[Row]) -> list[str]:
    """The headings of the columns before the figures."""
    return ["model", "sampler", *(["n"] if any(row.n for row in rows) else [])]


def wordy(rows: Sequence[Row], i: int) -> bool:
    """Does the i-th column hold words and no figures, so that its cells may be broken?"""
    said = "".join(row.cells[i].value for row in rows)
    return bool(re.search("[a-z]", said)) and not re.search("[0-9]", said)


def marks(cell: Cell) -> str:
    return "".join(f"[{mark}]" if mark.isdigit() else mark for mark in cell.marks)


def shown(cell: Cell, emphasis: Mapping[str, str]) -> str:
    return " ".join(filter(None, [emphasis[cell.style].format(cell.value) + marks(cell), cell.spread]))


def below(table: Table) -> list[str]:
    return [*table.notes, *(f"[{i}] {note}" for i, note in enumerate(table.footnotes, 1))]
