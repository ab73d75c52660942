"""A table as LaTeX: booktabs is the only package that it needs, and every piece fits a page of two columns.

Numbers are right-aligned with equal decimals. What is too wide is broken by dataset, then its names, words and headers
into lines, then between columns; what is too high, between rows. The pieces go into as few floats as hold them, all of
one number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from nsbench.results.tables.cells import Cell, Column, Row, Table
from nsbench.results.writers.html import there

# A page: 469 x 550 points, the text of an article of two columns in 10 points; less, and LaTeX warns of an overfull box.
LINE = 469.0  # points, as all widths
GAP = 6.0  # between two columns
NORMAL, NORMAL_GAP = 1.27, 12.0  # in \normalsize, the first times the width in \scriptsize
ROWS = 59  # lines of \scriptsize, with room for the caption
FEW_ROWS = 22  # in \normalsize
HEAD = 4  # lines that a table's rules and datasets are as high as

# Where columns do not fit as they are, what is longer than this is broken.
LABEL = 110.0  # a row's name; more where there is room
GROUP = 64.0
WORDS = 56.0  # of a cell that has no figure
HEADER = 44.0  # or as wide as the figures below it
INDENT = 8.0  # a \quad before the lines that go on with a name

BOLD = 1.17  # times as wide
RAISED = 0.95
WIDTHS = {  # of Computer Modern in \scriptsize, rounded up; few faces are wider
    character: width
    for width, characters in (
        (2.4, "!',.:;[]`il|"),
        (2.75, " -fjI"),
        (3.2, "()rst"),
        (3.7, "cez†‡"),
        (4.0, '"$*/0123456789?ago{}–δ'),
        (4.2, "Jkqvxy↑↓"),
        (4.4, "Sbdhnpu"),
        (5.6, "BEFLPZ^~"),
        (6.6, "#%mΔ"),
        (7.2, "M▲▼"),
        (9.0, "W↳"),
    )
    for character in characters
}
WIDEST = 6.3  # of all other characters

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

Lines = list[tuple[str, float]]  # of a cell: each as LaTeX, and its width


def escape_latex(text: str) -> str:
    return text.translate(ESCAPES)


@dataclass(frozen=True)
class Strip:
    """A column as it is set: its side, its head and its cell in each row."""

    side: str
    head: Lines
    cells: list[Lines]

    @property
    def width(self) -> float:
        return max(width for cell in (self.head, *self.cells) for _, width in cell)


def latex(table: Table) -> str:
    """The floats; the table's small print is the last piece, in a float of its own where it would be too much."""
    every = range(len(table.columns))
    strips = [*_names(table.rows), *(_figures(table.rows, i, table.columns[i]) for i in every)]
    normal = sum(NORMAL * strip.width + NORMAL_GAP for strip in strips)
    parts = [list(every)]
    if _together(strips) > LINE:
        parts = [list(members) for _, members in groupby(every, lambda i: table.columns[i].dataset)]
    pieces = [piece for part in parts for piece in _pieces(there(table, part), part, table.columns)]
    pieces.append(_small_print(table))
    floats: list[list[str]] = [[]]
    room = ROWS
    for height, piece in pieces:
        if height > room and floats[-1]:
            floats.append([])
            room = ROWS
        room -= height
        floats[-1].append(piece)
    small = len(table.rows) > FEW_ROWS or normal > LINE
    return "\n".join(_float(table, i, inside, small) for i, inside in enumerate(floats))


def _pieces(rows: Sequence[Row], at: Sequence[int], columns: Sequence[Column]) -> list[tuple[int, str]]:
    """How high and what, of each piece with these rows and the columns at these places."""
    broken, names, figures = [list(range(len(at)))], _names(rows), [_figures(rows, i, columns[i]) for i in at]
    if _together([*names, *figures]) > LINE:
        ways = [_beside(rows, [_figures(rows, i, columns[i], words) for i in at]) for words in (LINE, WORDS)]
        broken, names, figures = min(ways, key=lambda way: (len(way[0]), sum(_heights([*way[1], *way[2]]))))
    found = []
    for piece in broken:
        strips, datasets = [*names, *(figures[i] for i in piece)], [columns[at[i]].dataset for i in piece]
        head, heights = HEAD + max(len(strip.head) for strip in strips), _heights(strips)
        for low, high in _down(rows, heights, ROWS - head):
            found.append((head + sum(heights[low:high]), _tabular(rows, strips, datasets, low, high)))
    return found


def _beside(rows: Sequence[Row], figures: list[Strip]) -> tuple[list[list[int]], tuple[Strip, Strip], list[Strip]]:
    """Places of the figures in each piece, and names that are broken so as to fit beside them in every one."""
    group, label = _names(rows, GROUP)
    room = LINE - _together([group]) - GAP
    broken = _across(figures, room - min(label.width, LABEL))
    widest = max(_together([figures[i] for i in piece]) for piece in broken)
    return broken, _names(rows, GROUP, room - widest), figures


def _heights(strips: Sequence[Strip]) -> list[int]:
    """Lines of each row."""
    return [max(map(len, cells)) for cells in zip(*(strip.cells for strip in strips))]


def _names(rows: Sequence[Row], group: float = LINE, label: float = LINE) -> tuple[Strip, Strip]:
    """Of the rows' groups and of the rows, within these widths."""
    groups = [_broken(row.group, group, INDENT) for row in rows]
    labels = [_broken(_label(row), label, INDENT) for row in rows]
    return Strip("l", _broken("Model"), groups), Strip("l", _broken("Sampler"), labels)


def _figures(rows: Sequence[Row], i: int, column: Column, words: float = LINE) -> Strip:
    """The i-th column; with a width for words, they and the head are broken."""
    cells = [_cell(row.cells[i], words) for row in rows]
    body = max(width for cell in cells for _, width in cell)
    said = "".join(row.cells[i].value for row in rows)
    side = "l" if re.search("[a-z]", said) and not re.search("[0-9]", said) else "r"
    return Strip(side, _broken(column.header, max(body, HEADER) if words < LINE else LINE), cells)


def _together(strips: Sequence[Strip]) -> float:
    return sum(strip.width + GAP for strip in strips)


def _width(text: str) -> float:
    return sum(WIDTHS.get(character, WIDEST) for character in text)


def _broken(text: str, room: float = LINE, indent: float = 0.0) -> Lines:
    """Between words, inside them only if they are too long by themselves."""
    lines = [""]
    for word in re.findall(r"[^ ]+(?: [↑↓])? *", text):  # an arrow stays with the word that it says something of
        whole = _width(word.rstrip()) + indent <= room
        for part in [word] if whole else re.findall(r"[^=,:+/_-]*[=,:+/_-]? *", word):
            if lines[-1] and _width(lines[-1] + part.rstrip()) + indent * (len(lines) > 1) > room:
                lines.append("")
            lines[-1] += part
    first, *rest = (line.rstrip() for line in lines)
    quad = "\\quad " if indent else ""
    return [(escape_latex(first), _width(first)), *((quad + escape_latex(line), indent + _width(line)) for line in rest)]


def _across(strips: Sequence[Strip], room: float) -> list[list[int]]:
    """Places of the strips of each piece, in as few pieces of equal size as fit the room."""
    places = list(range(len(strips)))
    for pieces in range(1, len(strips) + 1):
        size = -(-len(strips) // pieces)
        broken = [places[i : i + size] for i in range(0, len(places), size)]
        if all(_together([strips[i] for i in piece]) <= room for piece in broken):
            break
    return broken


def _down(rows: Sequence[Row], heights: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Of each piece, its first row and that after its last; published figures stay with the row above them."""
    found, low = [], 0
    for i, row in enumerate(rows):
        end = next((n for n in range(i + 1, len(rows)) if not rows[n].published), len(rows))
        if i > low and sum(heights[low:end]) > room and not row.published:
            found.append((low, i))
            low = i
    return [*found, (low, len(rows))]


def _tabular(rows: Sequence[Row], strips: Sequence[Strip], datasets: Sequence[str], low: int, high: int) -> str:
    """The rows from `low` to before `high`."""
    spans, rules, first = [], [], 3
    for dataset, same in groupby(datasets):
        size = len(list(same))
        spans.append(f"\\multicolumn{{{size}}}{{c}}{{{escape_latex(dataset)}}}")
        rules += [f"\\cmidrule(lr){{{first}-{first + size - 1}}}"] if dataset else []
        first += size
    lines = [
        f"\\begin{{tabular}}{{{''.join(strip.side for strip in strips)}}}",
        "\\toprule",
        *([f" & & {' & '.join(spans)} \\\\", "".join(rules)] if rules else []),
        *reversed(_set([strip.head[::-1] for strip in strips])),  # heads stand on the rule
    ]
    for _, members in groupby(range(low, high), lambda r: rows[r].group):
        lines.append("\\midrule")
        for n, r in enumerate(members):
            lines += _set([[] if n else strips[0].cells[r], *(strip.cells[r] for strip in strips[1:])])
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _set(cells: Sequence[Lines]) -> list[str]:
    """Cells of several lines as so many rows of the tabular."""
    return [f"{' & '.join(text for text, _ in line)} \\\\" for line in zip_longest(*cells, fillvalue=("", 0.0))]


def _label(row: Row) -> str:
    return f"↳ {row.label.removeprefix('published: ')}" if row.published else row.label


def _cell(cell: Cell, words: float) -> Lines:
    """One line; where there is no figure, lines within this width."""
    value, spread = (re.sub(r"-(?=\d)", "−", text) for text in (cell.value, cell.spread))  # no hyphens
    figure = re.search("[0-9]", value) or words == LINE
    *above, (text, width) = _broken(value, LINE if figure else words)
    text, width = STYLES[cell.style].format(text), width * (BOLD if cell.style == "best" else 1)
    if cell.marks:
        marks = (mark if mark.isdigit() else SPECIAL[mark].strip("$") for mark in cell.marks)
        text, width = f"{text}$^{{{''.join(marks)}}}$", width + RAISED * _width("".join(cell.marks))
    if spread and figure:
        text, width = f"{text} {escape_latex(spread)}", width + _width(f" {spread}")
    return [*above, (text, width), *(_broken(spread, words) if spread and not figure else [])]


def _small_print(table: Table) -> tuple[int, str]:
    """How many lines, and what stands below the table."""
    said = [escape_latex(table.caption) + "".join(STYLES[style].format(text) for text, style in table.legend)]
    said += [escape_latex(note) for note in table.notes]
    said += [f"$^{{{n}}}$ {escape_latex(note)}" for n, note in enumerate(table.footnotes, 1)]
    text = "\n\\par\n".join(said)
    lines = sum(1 + int(_width(each) / LINE) for each in said)
    return lines, f"\\begin{{minipage}}{{\\textwidth}}\n\\scriptsize\n{text}\n\\end{{minipage}}"


def _float(table: Table, i: int, inside: Sequence[str], small: bool) -> str:
    """The i-th float of the table; continued ones keep its number."""
    lines = ["\\begin{table*}", "\\centering", *(["\\addtocounter{table}{-1}"] if i else [])]
    lines += [f"\\caption{{{escape_latex(table.title)}{', continued' if i else ''}.}}", "\\smallskip"]
    lines += ["\\scriptsize", "\\setlength{\\tabcolsep}{3pt}"] if small else []
    return "\n".join([*lines, "\n\\par\\medskip\n".join(inside), "\\end{table*}"]) + "\n"
