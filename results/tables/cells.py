"""What a table is made of: columns, cells with their full record, rows.

A `Table` holds the finished text of each cell and everything about it unrounded; nsbench.results.writers lay it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nsbench.results.tables.metrics import Metric

Style = Literal["best", "second", ""]
STYLES: tuple[Style, ...] = ("best", "second")


@dataclass(frozen=True)
class Column:
    dataset: str  # empty where the rows are of one dataset each
    metric: Metric

    @property
    def header(self) -> str:
        return self.metric.header + {True: " ↑", False: " ↓", None: ""}[self.metric.higher]


@dataclass(frozen=True)
class Cell:
    """What is printed, and `record`: everything about it, unrounded, for csv."""

    value: str = "-"
    spread: str = ""
    style: Style = ""
    marks: tuple[str, ...] = ()  # symbols, and the numbers of footnotes
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    group: str
    label: str
    cells: tuple[Cell, ...]
    published: bool = False  # figures from a paper, which belong to the row above
    n: str = ""  # of how many runs its cells are; empty where they do not agree (nsbench.results.writers.words.at)


class Caption(NamedTuple):
    """What stands below a table, in short sentences."""

    what: str  # figures, data, seeds
    how: str  # ranks, protocol, test
    signs: str = ""  # those that occur in the table, and what they say

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # rows of one group follow each other
    caption: Caption
    notes: tuple[str, ...]
    footnotes: tuple[str, ...] = ()  # the n-th is what a mark "n" refers to
    counted: bool = False  # do rows say of how many runs they are, because not all are of as many?

    @property
    def said(self) -> dict[str, list[tuple[str, Style]]]:
        """The caption: the parts that there are, by their headings, in pieces of (text, style). Emphasis is a sign too."""
        parts: dict[str, list[tuple[str, Style]]] = {"What": [(self.caption.what, "")], "How": [(self.caption.how, "")]}
        parts["Signs"] = [(self.caption.signs, "")]
        if any(cell.style for row in self.rows for cell in row.cells):
            parts["Signs"] += [(" " if self.caption.signs else "", ""), ("Best", "best"), (" and ", "")]
            parts["Signs"] += [("second best", "second"), (" mean of a model's rows, which claims no difference.", "")]
        return {name: pieces for name, pieces in parts.items() if any(text for text, _ in pieces)}
