"""A table in Markdown (GitHub's)."""

from __future__ import annotations

from nsbench.results.tables.cells import Table
from nsbench.results.writers.words import at, below, caption, names, shown

EMPHASIS = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}


def markdown(table: Table) -> str:
    from tabulate import tabulate

    rows = at(table, range(len(table.columns)))
    header = [*names(rows), *(f"{column.dataset} {column.header}".strip() for column in table.columns)]
    body = []
    group = None
    for row in rows:
        label = f"↳ {row.label}" if row.published else row.label
        before = ["" if row.group == group else row.group, label, row.n][: len(header) - len(table.columns)]
        body.append([*before, *(shown(cell, EMPHASIS) for cell in row.cells)])
        group = row.group
    escaped = [[word.replace("|", "\\|").replace("\n", " ") for word in line] for line in [header, *body]]
    align = ["left", "left", *["right"] * (len(header) - 2)]
    grid = tabulate(escaped[1:], escaped[0], tablefmt="github", disable_numparse=True, colalign=align)
    notes = "".join(f"- {note}\n" for note in below(table))
    words = "\n\n".join(caption(table, EMPHASIS))
    return f"**{table.title}**\n\n{grid}\n\n{words}\n" + (f"\n{notes}" if notes else "")
