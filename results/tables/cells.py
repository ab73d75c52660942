"""What a table is made of: columns, cells with their full record, rows.

A `Table` holds the finished text of each cell and everything about it unrounded; nsbench.results.writers lay it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # rows of one group follow each other
    caption: str
    notes: tuple[str, ...]
    footnotes: tuple[str, ...] = ()  # the n-th is what a mark "n" refers to

    @property
    def legend(self) -> tuple[tuple[str, Style], ...]:
        """What the emphasis means, as (text, style); empty if the table has none."""
        if not any(cell.style for row in self.rows for cell in row.cells):
            return ()
        rest = " of a model's rows go by unrounded means and claim no significance."
        return (" ", ""), ("Best", "best"), (" and ", ""), ("second best", "second"), (rest, "")
