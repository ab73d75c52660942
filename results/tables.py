"""A table, made by `comparison`, as text: for the terminal, Markdown, LaTeX (booktabs), csv and HTML.

Writers lay out and escape; what a table says is decided in nsbench.results.comparison.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from nsbench.errors import Misuse
from nsbench.results.cells import Cell, Column, Table
from nsbench.results.comparison import comparison as comparison
from nsbench.results.html import page

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

RECORD = (
    "model", "row", "kge", "sampler", "variant", "fusion", "features", "options", "dataset", "split",
    "metric", "unit", "better", "status", "shown", "best", "second", "n", "seeds", "values", "mean", "sd", "low",
    "high", "converged", "baseline", "difference", "difference_low", "difference_high", "standard_error", "df",
    "p", "p_holm", "family", "inflation", "bootstrap_low", "bootstrap_high", "cliffs_delta", "p_rope", "verdict",
    "seen_difference", "seen_p_holm", "seen_verdict", "source", "published", "ours_minus_published", "prediction_low",
    "prediction_high", "outside", "note",
)  # fmt: skip
RICH = {"best": "bold", "second": "underline", "": ""}
PLAIN = {"best": "*{}*", "second": "_{}_", "": "{}"}
MARKDOWN = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
WIDE = 6  # columns: more, and LaTeX sets them small and close
LATEX = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}", "": "{}"}


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


def to_rich(table: Table, width: int | None = None, styled: bool = True) -> Group:
    """For rich's console: one grid, or one per dataset where it would be wider than `width` characters.

    Without `styled`, emphasis is written with * and _, for text that is not shown on a terminal.
    """
    from rich.console import Console, Group
    from rich.text import Text

    whole = _grid(table, table.columns, styled)
    if width is not None and Console(width=10_000).measure(whole).maximum > width:
        grids = [_grid(table, tuple(columns), styled) for _, columns in groupby(table.columns, lambda c: c.dataset)]
    else:
        grids = [whole]
    if styled:
        caption = Text.assemble(table.caption, *((text, RICH[style]) for text, style in table.legend))
    else:
        caption = Text(_caption(table, PLAIN))
    return Group(Text(table.title, "bold"), *grids, caption, *(Text(note) for note in _below(table)))


def _grid(table: Table, columns: tuple[Column, ...], styled: bool):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

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
        cells = [_rich_text(row.cells[i], styled) for i in chosen]
        grid.add_row(Text("" if row.group == group else row.group), Text(label), *cells)
        group = row.group
    return grid


def _rich_text(cell: Cell, styled: bool) -> Text:
    from rich.text import Text

    if not styled:
        return Text(_text(cell, PLAIN))
    return Text.assemble((cell.value, RICH[cell.style]), _marks(cell), f" {cell.spread}" if cell.spread else "")


def _plain(table: Table) -> str:
    from rich.console import Console

    grid = _grid(table, table.columns, styled=False)
    width = Console(width=10_000).measure(grid).maximum
    out = io.StringIO()
    Console(file=out, width=max(width, 80), force_terminal=False, color_system=None).print(to_rich(table, styled=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


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


# LaTeX

_SPECIAL = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "†": "$\\dagger$",
    "‡": "$\\ddagger$", "≈": "$\\approx$", "Δ": "$\\Delta$", "δ": "$\\delta$", "–": "--", "−": "$-$",
    "▲": "$\\bigtriangleup$", "▼": "$\\bigtriangledown$", "↳": "$\\hookrightarrow$",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}  # fmt: skip
_ESCAPES = str.maketrans(_SPECIAL)  # one pass over the characters: a chain of replacements would escape its own output


def escape_latex(text: str) -> str:
    return text.translate(_ESCAPES)


def _latex_cell(cell: Cell) -> str:
    marks = "".join(mark if mark.isdigit() else _SPECIAL[mark].strip("$") for mark in cell.marks)
    value, spread = (re.sub(r"-(?=\d)", "$-$", escape_latex(text)) for text in (cell.value, cell.spread))  # no hyphens
    value = LATEX[cell.style].format(value) + (f"$^{{{marks}}}$" if marks else "")
    return " ".join(filter(None, [value, spread]))


def _latex(table: Table) -> str:
    """A table* that needs the package booktabs only; numbers are right-aligned with equal decimals."""
    spans, rules, first = [], [], 3
    sizes = [(dataset, len(list(columns))) for dataset, columns in groupby(table.columns, lambda c: c.dataset)]
    for dataset, size in sizes:
        spans.append(f"\\multicolumn{{{size}}}{{c}}{{{escape_latex(dataset)}}}")
        rules += [f"\\cmidrule(lr){{{first}-{first + size - 1}}}"] if dataset else []
        first += size
    caption = escape_latex(f"{table.title}. {table.caption}")
    caption += "".join(LATEX[style].format(text) for text, style in table.legend)
    lines = [
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{caption}}}",
        *(["\\scriptsize", "\\setlength{\\tabcolsep}{3pt}"] if len(table.columns) > WIDE else []),
        f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        "\\toprule",
        *([f" & & {' & '.join(spans)} \\\\", "".join(rules)] if rules else []),
        f"Model & Sampler & {' & '.join(escape_latex(column.header) for column in table.columns)} \\\\",
    ]
    group = None
    for row in table.rows:
        if row.group != group:
            lines.append("\\midrule")
        label = escape_latex(f"↳ {row.label}" if row.published else row.label)
        name = "" if row.group == group else escape_latex(row.group)
        lines.append(f"{name} & {label} & {' & '.join(map(_latex_cell, row.cells))} \\\\")
        group = row.group
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [escape_latex(note) for note in table.notes]
    notes += [f"$^{{{i}}}$ {escape_latex(note)}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"\\par\\footnotesize {note}" for note in notes]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


# csv


def _csv(table: Table) -> str:
    """Long and unrounded: one line per cell, figures as stored (fractions, seconds, bytes), empty where none is."""
    out = io.StringIO()
    writer = csv.DictWriter(out, RECORD, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    for row in table.rows:
        for cell in row.cells:
            shown = _text(replace(cell, style=""), PLAIN)
            record = {**cell.record, "shown": shown, "best": cell.style == "best", "second": cell.style == "second"}
            writer.writerow({k: repr(float(v)) if isinstance(v, float) else v for k, v in record.items()})
    return out.getvalue()


FORMS: dict[str, Callable[[Table], str]] = {"rich": _plain, "md": _markdown, "latex": _latex, "csv": _csv, "html": page}
