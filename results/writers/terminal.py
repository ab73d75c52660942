"""A table for the terminal, styled and fitted, or plain and unbroken for a file or a pipe."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from nsbench.results.tables.cells import Cell, Column, Table
from nsbench.results.writers.words import below, caption, marks, shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

RICH = {"best": "bold", "second": "underline", "": ""}
PLAIN = {"best": "*{}*", "second": "_{}_", "": "{}"}
TEXT = 120  # characters in a line below a table that is not on a terminal


def show(table: Table) -> None:
    """Print the table: styled and fitted on a terminal, plain and unbroken into a file or a pipe."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(to_rich(table, console.width))
    else:
        print(plain(table), end="")


def to_rich(table: Table, width: int) -> Group:
    """For rich's console: one grid, or one per dataset where it would be wider than `width` characters."""
    from rich.console import Console, Group
    from rich.text import Text

    grids = [_grid(table, table.columns)]
    if Console(width=10_000).measure(grids[0]).maximum > width:
        grids = [_grid(table, tuple(columns)) for _, columns in groupby(table.columns, lambda c: c.dataset)]
    words = Text.assemble(table.caption, *((text, RICH[style]) for text, style in table.legend))
    return Group(Text(table.title, "bold"), *grids, words, *(Text(note) for note in below(table)))


def _grid(table: Table, columns: tuple[Column, ...]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(cell: Cell) -> Text:
        return Text.assemble((cell.value, RICH[cell.style]), marks(cell), f" {cell.spread}" if cell.spread else "")

    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column("model", overflow="fold")
    grid.add_column("sampler", overflow="fold")
    for column in columns:
        grid.add_column(Text(f"{column.dataset}\n{column.header}".strip()), justify="right", overflow="fold")
    chosen = [i for i, column in enumerate(table.columns) if column in columns]
    group = None
    for row in table.rows:
        if group not in (None, row.group):
            grid.add_section()
        label = f"  {row.label}" if row.published else row.label
        cells = [text(row.cells[i]) for i in chosen]
        grid.add_row(Text("" if row.group == group else row.group), Text(label), *cells)
        group = row.group
    return grid


def plain(table: Table) -> str:
    """For a file or a pipe: rows unbroken, emphasis as in *best* and _second_."""
    from rich.cells import cell_len

    datasets = ["", "", *(column.dataset for column in table.columns)]
    lines = [datasets] if any(datasets) else []
    lines.append(["model", "sampler", *(column.header for column in table.columns)])
    under = {len(lines) - 1: "─"}  # the number of a line, and of what the rule below it is made
    group = None
    for row in table.rows:
        if group not in (None, row.group):
            under[len(lines) - 1] = ""
        label = f"  {row.label}" if row.published else row.label
        lines.append(["" if row.group == group else row.group, label, *(shown(cell, PLAIN) for cell in row.cells)])
        group = row.group
    widths = [max(map(cell_len, column)) for column in zip(*lines)]
    text = [table.title, ""]
    for number, line in enumerate(lines):
        gaps = [" " * (width - cell_len(cell)) for width, cell in zip(widths, line)]
        padded = (cell + gap if i < 2 else gap + cell for i, (cell, gap) in enumerate(zip(line, gaps)))
        text.append("  ".join(padded).rstrip())
        text += [under[number] * (sum(widths) + 2 * (len(widths) - 1))] if number in under else []
    text.append("")
    for note in (caption(table, PLAIN), *below(table)):
        text += textwrap.wrap(note, TEXT, break_long_words=False, break_on_hyphens=False)
    return "\n".join(text) + "\n"
