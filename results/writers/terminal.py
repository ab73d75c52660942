"""A table, made by `comparison`, as text: for the terminal, Markdown, LaTeX (booktabs), csv and HTML.

Writers lay out and escape; what a table says is decided in nsbench.results.tables.comparison.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from nsbench.errors import Misuse
from nsbench.results.tables.cells import Cell, Column, Table
from nsbench.results.tables.fields import FIELDS
from nsbench.results.writers.html import page
from nsbench.results.writers.latex import latex

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

RICH = {"best": "bold", "second": "underline", "": ""}
PLAIN = {"best": "*{}*", "second": "_{}_", "": "{}"}
TEXT = 120  # characters in a line below a table that is not on a terminal
MARKDOWN = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}


def write(table: Table, form: str) -> str:
    """The table as one string; `form` is a key of FORMS. The terminal's form comes plain, as wide as it needs to be."""
    if form not in FORMS:
        raise Misuse(f"unknown format '{form}'; there are {', '.join(FORMS)}")
    return FORMS[form](table)


def show(table: Table) -> None:
    """Print the table: styled and fitted on a terminal, plain and unbroken into a file or a pipe."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(to_rich(table, console.width))
    else:
        print(write(table, "rich"), end="")


def _caption(table: Table, emphasis: dict[str, str]) -> str:
    return table.caption + "".join(emphasis[style].format(text) for text, style in table.legend)


def _marks(cell: Cell) -> str:
    return "".join(f"[{mark}]" if mark.isdigit() else mark for mark in cell.marks)


def _text(cell: Cell, emphasis: dict[str, str]) -> str:
    return " ".join(filter(None, [emphasis[cell.style].format(cell.value) + _marks(cell), cell.spread]))


def _below(table: Table) -> list[str]:
    return [*table.notes, *(f"[{i}] {note}" for i, note in enumerate(table.footnotes, 1))]


# Terminal


def to_rich(table: Table, width: int) -> Group:
    """For rich's console: one grid, or one per dataset where it would be wider than `width` characters."""
    from rich.console import Console, Group
    from rich.text import Text

    grids = [_grid(table, table.columns)]
    if Console(width=10_000).measure(grids[0]).maximum > width:
        grids = [_grid(table, tuple(columns)) for _, columns in groupby(table.columns, lambda c: c.dataset)]
    caption = Text.assemble(table.caption, *((text, RICH[style]) for text, style in table.legend))
    return Group(Text(table.title, "bold"), *grids, caption, *(Text(note) for note in _below(table)))


def _grid(table: Table, columns: tuple[Column, ...]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(cell: Cell) -> Text:
        return Text.assemble((cell.value, RICH[cell.style]), _marks(cell), f" {cell.spread}" if cell.spread else "")

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


def _plain(table: Table) -> str:
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
        lines.append(["" if row.group == group else row.group, label, *(_text(cell, PLAIN) for cell in row.cells)])
        group = row.group
    widths = [max(map(cell_len, column)) for column in zip(*lines)]
    text = [table.title, ""]
    for number, line in enumerate(lines):
        gaps = [" " * (width - cell_len(cell)) for width, cell in zip(widths, line)]
        padded = (cell + gap if i < 2 else gap + cell for i, (cell, gap) in enumerate(zip(line, gaps)))
        text.append("  ".join(padded).rstrip())
        text += [under[number] * (sum(widths) + 2 * (len(widths) - 1))] if number in under else []
    text.append("")
    for note in (_caption(table, PLAIN), *_below(table)):
        text += textwrap.wrap(note, TEXT, break_long_words=False, break_on_hyphens=False)
    return "\n".join(text) + "\n"


# Markdown


def _markdown(table: Table) -> str:
    from tabulate import tabulate

    header = ["model", "sampler", *(f"{column.dataset} {column.header}".strip() for column in table.columns)]
    body = []
    group = None
    for row in table.rows:
        label = f"↳ {row.label}" if row.published else row.label
        body.append(["" if row.group == group else row.group, label, *(_text(cell, MARKDOWN) for cell in row.cells)])
        group = row.group
    escaped = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in [header, *body]]
    align = ["left", "left", *["right"] * len(table.columns)]
    grid = tabulate(escaped[1:], escaped[0], tablefmt="github", disable_numparse=True, colalign=align)
    notes = "".join(f"- {note}\n" for note in _below(table))
    return f"**{table.title}**\n\n{grid}\n\n{_caption(table, MARKDOWN)}\n" + (f"\n{notes}" if notes else "")


# csv


def _csv(table: Table) -> str:
    """Long and unrounded: one line per cell, figures as stored (fractions, seconds, bytes), empty where none is."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in FIELDS], lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in table.rows:
        for cell in row.cells:
            shown = _text(replace(cell, style=""), PLAIN)
            record = {**cell.record, "shown": shown, "best": cell.style == "best", "second": cell.style == "second"}
            writer.writerow({k: repr(float(v)) if isinstance(v, float) else v for k, v in record.items()})
    return out.getvalue()


FORMS: dict[str, Callable[[Table], str]] = {"rich": _plain, "md": _markdown, "latex": latex, "csv": _csv, "html": page}
