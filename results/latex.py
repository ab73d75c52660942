"""A table as LaTeX: booktabs is the only package that it needs, and every piece fits a page of two columns.

Numbers are right-aligned with equal decimals. What is too wide is broken by dataset, then between columns; what is too
high, between rows. The pieces go into as few floats as hold them, all of one number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from nsbench.results.cells import Cell, Column, Row, Table
from nsbench.results.html import there

# A page: 469 x 550 points, the text of an article of two columns in 10 points; less, and LaTeX warns of an overfull box.
LINE = 130  # characters of \scriptsize, at 3.6 points each
GAP = 1.6  # characters between two columns
NORMAL = 0.62  # of that number fit in \normalsize
ROWS = 60  # of \scriptsize, with room for the caption
FEW_ROWS = 22  # in \normalsize
HEAD = 5  # rows that a table's head and rules are as high as

STYLES = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}", "": "{}"}
SPECIAL = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "†": "$\\dagger$",
    "‡": "$\\ddagger$", "≈": "$\\approx$", "Δ": "$\\Delta$", "δ": "$\\delta$", "–": "--", "−": "$-$",
    "▲": "$\\bigtriangleup$", "▼": "$\\bigtriangledown$", "↳": "$\\hookrightarrow$",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}  # fmt: skip
ESCAPES = str.maketrans(SPECIAL)  # one pass over the characters: a chain of replacements would escape its own output


def escape_latex(text: str) -> str:
    return text.translate(ESCAPES)


def latex(table: Table) -> str:
    """The floats; the table's small print is the last piece, in a float of its own where it would be too much."""
    small = len(table.rows) > FEW_ROWS or not _fits(table, range(len(table.columns)), NORMAL * LINE)
    broken = [(rows, at) for at in _across(table) for rows in _down(there(table, at))]
    pieces = [(len(rows) + HEAD, _tabular(rows, at, table.columns)) for rows, at in broken]
    pieces.append(_small_print(table))
    floats: list[list[str]] = [[]]
    room = ROWS
    for height, piece in pieces:
        if height > room and floats[-1]:
            floats.append([])
            room = ROWS
        room -= height
        floats[-1].append(piece)
    return "\n".join(_float(table, i, inside, small) for i, inside in enumerate(floats))


def _fits(table: Table, at: Sequence[int], line: float) -> bool:
    """Do the columns at these places, with the names of rows, take no more than `line` characters?"""
    names = max(_width(row.group) for row in table.rows) + max(_width(_label(row)) for row in table.rows)
    columns = (max(_width(table.columns[i].header), *(_cell_width(row.cells[i]) for row in table.rows)) for i in at)
    return names + sum(columns) + GAP * (len(at) + 1) <= line


def _width(text: str) -> float:
    """In characters, of which signs are wide ones."""
    return len(text) + 0.5 * sum(not (character.isalnum() or character in " .,:()[]|'") for character in text)


def _cell_width(cell: Cell) -> float:
    return _width(f"{cell.value} {cell.spread}".strip()) + 0.7 * len(cell.marks)  # which are superscripts


def _across(table: Table) -> list[list[int]]:
    """Places of the columns of each piece: all of them, or those of one dataset, in as few pieces of equal size as fit."""
    places = list(range(len(table.columns)))
    if _fits(table, places, LINE):
        return [places]
    found: list[list[int]] = []
    for _, members in groupby(places, lambda i: table.columns[i].dataset):
        of_dataset = list(members)
        for pieces in range(1, len(of_dataset) + 1):
            size = -(-len(of_dataset) // pieces)
            broken = [of_dataset[i : i + size] for i in range(0, len(of_dataset), size)]
            if size == 1 or all(_fits(table, at, LINE) for at in broken):
                found += broken
                break
    return found


def _down(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each piece; published figures stay with the row above them."""
    found: list[list[Row]] = [[]]
    for i, row in enumerate(rows):
        together = 1 + next((n for n, other in enumerate(rows[i + 1 :]) if not other.published), len(rows) - i - 1)
        if found[-1] and len(found[-1]) + together > ROWS - HEAD:
            found.append([])
        found[-1].append(row)
    return found


def _tabular(rows: Sequence[Row], at: Sequence[int], columns: Sequence[Column]) -> str:
    spans, rules, first = [], [], 3
    for dataset, same in groupby(columns[i].dataset for i in at):
        size = len(list(same))
        spans.append(f"\\multicolumn{{{size}}}{{c}}{{{escape_latex(dataset)}}}")
        rules += [f"\\cmidrule(lr){{{first}-{first + size - 1}}}"] if dataset else []
        first += size
    lines = [
        f"\\begin{{tabular}}{{ll{'r' * len(at)}}}",
        "\\toprule",
        *([f" & & {' & '.join(spans)} \\\\", "".join(rules)] if rules else []),
        f"Model & Sampler & {' & '.join(escape_latex(columns[i].header) for i in at)} \\\\",
    ]
    for group, members in groupby(rows, lambda row: row.group):
        lines.append("\\midrule")
        name = escape_latex(group)
        for row in members:
            lines.append(f"{name} & {escape_latex(_label(row))} & {' & '.join(_cell(row.cells[i]) for i in at)} \\\\")
            name = ""
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _label(row: Row) -> str:
    return f"↳ {row.label.removeprefix('published: ')}" if row.published else row.label


def _cell(cell: Cell) -> str:
    marks = "".join(mark if mark.isdigit() else SPECIAL[mark].strip("$") for mark in cell.marks)
    value, spread = (re.sub(r"-(?=\d)", "$-$", escape_latex(text)) for text in (cell.value, cell.spread))  # no hyphens
    value = STYLES[cell.style].format(value) + (f"$^{{{marks}}}$" if marks else "")
    return " ".join(filter(None, [value, spread]))


def _small_print(table: Table) -> tuple[int, str]:
    """How many lines, and what stands below the table."""
    said = [escape_latex(table.caption) + "".join(STYLES[style].format(text) for text, style in table.legend)]
    said += [escape_latex(note) for note in table.notes]
    said += [f"$^{{{n}}}$ {escape_latex(note)}" for n, note in enumerate(table.footnotes, 1)]
    text = "\n\\par\n".join(said)
    lines = sum(1 + len(each) // LINE for each in said)
    return lines, f"\\begin{{minipage}}{{\\textwidth}}\n\\scriptsize\n{text}\n\\end{{minipage}}"


def _float(table: Table, i: int, inside: Sequence[str], small: bool) -> str:
    """The i-th float of the table; continued ones keep its number."""
    lines = ["\\begin{table*}", "\\centering", *(["\\addtocounter{table}{-1}"] if i else [])]
    lines += [f"\\caption{{{escape_latex(table.title)}{', continued' if i else ''}.}}", "\\smallskip"]
    lines += ["\\scriptsize", "\\setlength{\\tabcolsep}{3pt}"] if small else []
    return "\n".join([*lines, "\n\\par\\medskip\n".join(inside), "\\end{table*}"]) + "\n"
