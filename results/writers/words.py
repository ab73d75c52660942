"""What Markdown, csv and the terminal write alike: a cell's text, the caption, the notes."""

from __future__ import annotations

from collections.abc import Mapping

from nsbench.results.tables.cells import Cell, Table


def caption(table: Table, emphasis: Mapping[str, str]) -> str:
    return table.caption + "".join(emphasis[style].format(text) for text, style in table.legend)


def marks(cell: Cell) -> str:
    return "".join(f"[{mark}]" if mark.isdigit() else mark for mark in cell.marks)


def shown(cell: Cell, emphasis: Mapping[str, str]) -> str:
    return " ".join(filter(None, [emphasis[cell.style].format(cell.value) + marks(cell), cell.spread]))


def below(table: Table) -> list[str]:
    return [*table.notes, *(f"[{i}] {note}" for i, note in enumerate(table.footnotes, 1))]
