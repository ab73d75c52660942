"""A table as LaTeX; booktabs is the only package that it needs.

A tabular holds the columns of one dataset, at most COLUMNS of them: what has more gets several. A model's name stands in
a line of its own above its rows, and a row's name is broken by LaTeX. What is higher than ROWS lines goes on in a float of
the same number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from nsbench.results.tables.cells import Cell, Column, Row, Table
from nsbench.results.writers.words import at, caption, names, wordy

COLUMNS = 4
ROWS = 54  # lines of \scriptsize that a page holds, with room for the caption
NAMES = "p{0.2\\textwidth}"  # the column of rows' names
CHARACTERS = 23  # of a name in a line of that column
WORDS = "p{0.13\\textwidth}"  # a column that has no figures

STYLES = {"best": "\\textbf{{{}}}", "second": "\\underline{{{}}}", "": "{}"}
SPECIAL = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": "$\\pm$",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "†": "$\\dagger$",
    "‡": "$\\ddagger$",
    "§": "\\S{}",
    "≈": "$\\approx$",
    "Δ": "$\\Delta$",
    "δ": "$\\delta$",
    "–": "--",
    "−": "$-$",
    "▲": "$\\bigtriangleup$",
    "▼": "$\\bigtriangledown$",
    "↳": "$\\hookrightarrow$",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}
ESCAPES = str.maketrans(SPECIAL)  # one pass over the characters: a chain of replacements would escape its own output


def escape_latex(text: str) -> str:
    return text.translate(ESCAPES)


def latex(table: Table) -> str:
    """The floats; the table's small print is the last piece, in a float of its own where it would be too much."""
    floats: list[list[str]] = [[]]
    room = ROWS
    for height, piece in _pieces(table):
        if height > room and floats[-1]:
            floats.append([])
            room = ROWS
        room -= height
        floats[-1].append(piece)
    return "\n".join(_float(table.title, i, inside) for i, inside in enumerate(floats))


def _pieces(table: Table) -> Iterator[tuple[int, str]]:
    """Tabulars and the small print, each with its height in lines."""
    for _, members in groupby(range(len(table.columns)), lambda i: table.columns[i].dataset):
        places = list(members)
        count = -(-len(places) // COLUMNS)
        size = -(-len(places) // count)  # pieces of about equal width
        for some in (places[i : i + size] for i in range(0, len(places), size)):
            for rows in _pages(whole := at(table, some)):
                yield _height(rows), _tabular(rows, some, table.columns, names(whole)[2:])
    said = caption(table, STYLES, "\\emph{{{}}}: {}", escape_latex)
    said += [escape_latex(note) for note in table.notes]
    said += [f"$^{{{n}}}$ {escape_latex(note)}" for n, note in enumerate(table.footnotes, 1)]
    text = "\n\\par\n".join(said)
    yield sum(1 + len(each) // 110 for each in said), f"\\begin{{minipage}}{{\\textwidth}}\n{text}\n\\end{{minipage}}"


def _height(rows: Sequence[Row]) -> int:
    return 4 + sum(1 + len(row.label) // CHARACTERS for row in rows) + len({row.group for row in rows})


def _pages(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """As many rows as a page holds; published figures stay with the row above them."""
    page: list[Row] = []
    for i, row in enumerate(rows):
        if row.published:
            page.append(row)
            continue
        end = next((n for n in range(i + 1, len(rows)) if not rows[n].published), len(rows))
        if page and _height([*page, *rows[i:end]]) > ROWS:
            yield page
            page = []
        page.append(row)
    yield page


def _tabular(rows: Sequence[Row], places: Sequence[int], columns: Sequence[Column], n: Sequence[str]) -> str:
    """The rows in these columns, all of one dataset; `n` heads that of the numbers of runs, if there is any."""
    sides = ["r" for _ in n] + [WORDS if wordy(rows, i) else "r" for i in places]
    dataset = escape_latex(columns[places[0]].dataset)
    first = 2 + len(n)
    span = f"\\multicolumn{{{len(places)}}}{{c}}{{{dataset}}} \\\\\n\\cmidrule(lr){{{first}-{len(places) + first - 1}}}"
    heads = ["Sampler", *n, *(escape_latex(columns[i].header) for i in places)]
    lines = [
        f"\\begin{{tabular}}{{{NAMES}{''.join(sides)}}}",
        "\\toprule",
        *([f"{' & ' * (first - 1)}{span}"] if dataset else []),
        _line(heads),
    ]
    for group, members in groupby(rows, lambda row: row.group):
        lines += ["\\midrule", f"\\multicolumn{{{len(heads)}}}{{l}}{{\\emph{{{escape_latex(group)}}}}} \\\\"]
        for row in members:
            counted = [row.n] if n else []
            lines.append(_line(["\\raggedright " + _label(row), *counted, *(_cell(row.cells[i]) for i in places)]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _label(row: Row) -> str:
    return escape_latex(f"↳ {row.label.removeprefix('published: ')}" if row.published else row.label)


def _cell(cell: Cell) -> str:
    value, spread = (escape_latex(re.sub(r"-(?=\d)", "−", text)) for text in (cell.value, cell.spread))  # no hyphens
    marks = "".join(mark if mark.isdigit() else SPECIAL[mark].strip("$") for mark in cell.marks)
    return f"{STYLES[cell.style].format(value)}{f'$^{{{marks}}}$' if marks else ''} {spread}".rstrip()


def _float(title: str, i: int, inside: Sequence[str]) -> str:
    """The i-th float of the table; continued ones keep its number."""
    again = "\\addtocounter{table}{-1}\n" if i else ""
    caption = f"\\caption{{{escape_latex(title)}{', continued' if i else ''}.}}"
    begin = (
        f"\\begin{{table*}}\n\\centering\n{again}{caption}\n\\smallskip\n\\scriptsize\n\\setlength{{\\tabcolsep}}{{3pt}}\n"
    )
    return begin + "\n\\par\\medskip\n".join(inside) + "\n\\end{table*}\n"
