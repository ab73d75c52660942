"""A table in Markdown (GitHub's)."""

from __future__ import annotations

from nsbench.results.tables.cells import Table
from nsbench.results.writers.words import below, caption, shown

EMPHASIS = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}


def markdown(table: Table) -> str:
    from tabulate import tabulate

    header = ["model", "sampler", *(f"{column.dataset} {column.header}".strip() for column in table.columns)]
    body = []
    group = None
    for row in table.rows:
        label = f"↳ {row.label}" if row.published else row.label
        body.append(["" if row.group == group else row.group, label, *(shown(cell, EMPHASIS) for cell in row.cells)])
        group = row.group
    escaped = [[word.replace("|", "\\|").replace("\n", " ") for word in line] for line in [header, *body]]
    align = ["left", "left", *["right"] * len(table.columns)]
    grid = tabulate(escaped[1:], escaped[0], tablefmt="github", disable_numparse=True, colalign=align)
    notes = "".join(f"- {note}\n" for note in below(table))
    return f"**{table.title}**\n\n{grid}\n\n{caption(table, EMPHASIS)}\n" + (f"\n{notes}" if notes else "")
