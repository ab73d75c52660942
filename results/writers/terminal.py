"""A table for the terminal, styled and fitted, or plain and unbroken for a file or a pipe."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

from nsbench.results.tables.cells import Cell, Table
from nsbench.results.writers.words import at, below, caption, marks, names, shown, wordy

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

RICH = {"best": "bold", "second": "underline", "": ""}
PLAIN = {"best": "*{}*", "second": "_{}_", "": "{}"}
TEXT = 120  # characters in a line below a table that is not on a terminal
GAP = 2  # characters between two columns
NAMES = 0.4  # of a line, that names may take where not all figures fit beside them
INDENT = "  "
ENDS = r"(?<= )|(?<=[=:/_])(?=\w)|(?<=[,+-])(?=[^\W\d])"  # where a text may be broken: nowhere within a number


def show(table: Table) -> None:
    """Print the table: styled and fitted on a terminal, plain and unbroken into a file or a pipe."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(to_rich(table, console.width))
    else:
        print(plain(table), end="")


def plain(table: Table) -> str:
    """For a file or a pipe: rows unbroken, emphasis as in *best* and _second_."""
    from rich.text import Text

    grid = _grid(table, range(len(table.columns)), text=lambda cell: Text(shown(cell, PLAIN)))
    lines = [table.title, "", *(line.plain for line in _lines(grid)), ""]
    for note in (*caption(table, PLAIN), *below(table)):
        lines += textwrap.wrap(note, TEXT, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def to_rich(table: Table, width: int) -> Group:
    """For rich's console, in lines of at most `width` characters: as few grids below each other as that takes.

    A dataset gets a grid of its own where one for all would be too wide. Where that is too wide, a model's name stands
    in a line of its own, names and words are broken, and columns that do not fit come below. No figure is broken.
    """
    from rich.console import Group
    from rich.text import Text

    whole = range(len(table.columns))
    apart = [list(some) for _, some in groupby(whole, lambda i: table.columns[i].dataset)]
    for pieces in ([whole], apart):
        grids = [_grid(table, places) for places in pieces]
        if all(_width(grid) <= width for grid in grids):
            break
    else:
        grids = [grid for places in apart for grid in _narrow(table, places, width)]
    blocks = [Text("\n", no_wrap=True, overflow="ignore").join([*_lines(grid), Text()]) for grid in grids]
    words = [Text.assemble((f"{name}: ", "bold"), *((t, RICH[s]) for t, s in said)) for name, said in table.said.items()]
    return Group(Text(table.title, "bold"), Text(), *blocks, *words, *map(Text, below(table)))


@dataclass
class _Column:
    """Of a grid: the text of its head and cells; its width is that of the longest, until it is given another."""

    head: Sequence[str]  # lines
    cells: list[Text]
    right: bool = True  # aligned
    broken: bool = False  # may cells be broken?
    width: int = field(init=False)

    def __post_init__(self) -> None:
        from rich.cells import cell_len

        self.width = self.natural = max([*map(cell_len, self.head), *(cell.cell_len for cell in self.cells)])
        words = [word for line in self.head for word in line.split()]
        words += [w.strip() for cell in self.cells for w in (re.split(ENDS, cell.plain) if self.broken else [cell.plain])]
        self.least = max(map(cell_len, words))


@dataclass
class _Grid:
    columns: list[_Column]  # those of names first
    groups: list[str]  # of each row
    lines_of_groups: bool


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    return Text.assemble((cell.value, RICH[cell.style]), marks(cell), f" {cell.spread}" if cell.spread else "")


def _grid(table: Table, places: Sequence[int], *, beside: bool = True, text: Callable[[Cell], Text] = _styled) -> _Grid:
    """The columns at these places; `beside`: the models' names are a column too, not lines above their rows."""
    from rich.text import Text

    rows = at(table, places)
    groups = [row.group for row in rows]
    changed = [i == 0 or group != groups[i - 1] for i, group in enumerate(groups)]
    labels = [("" if beside else INDENT) + (INDENT if row.published else "") + row.label for row in rows]
    texts = [[group if new else "" for group, new in zip(groups, changed)], labels, [row.n for row in rows]]
    over = any(table.columns[i].dataset for i in places)
    before = [
        _Column(["", name] if over else [name], list(map(Text, cells)), name == "n", name == "sampler")
        for name, cells in zip(names(rows), texts)
    ]
    figures = []
    for i in places:
        head = [table.columns[i].dataset, table.columns[i].header]
        figures.append(_Column(head if over else head[1:], [text(row.cells[i]) for row in rows], broken=wordy(rows, i)))
    return _Grid([*before[not beside :], *figures], groups, not beside)


def _width(grid: _Grid) -> int:
    return sum(column.width + GAP for column in grid.columns) - GAP


def _narrow(table: Table, places: Sequence[int], width: int) -> list[_Grid]:
    """Grids of at most this width, with the columns at these places in as few as fit, of about equal size."""
    whole = _grid(table, places, beside=False).columns
    count = len(whole) - len(places)
    least = {i: column.least for i, column in zip(places, whole[count:])}
    taken = sum(GAP + column.width for column in whole[1:count])
    wanted = min(whole[0].natural, max(int(NAMES * width), whole[0].least + 2 * len(INDENT)))
    name = min(wanted, width - taken - GAP - max(least.values()))
    room = width - name - taken

    def fits(piece: Sequence[int]) -> bool:
        return sum(GAP + least[i] for i in piece) <= room

    pieces: list[list[int]] = [[]]
    for i in places:
        pieces += [] if fits([*pieces[-1], i]) or not pieces[-1] else [[]]
        pieces[-1].append(i)
    size = -(-len(places) // len(pieces))
    even = [list(places[i : i + size]) for i in range(0, len(places), size)]
    grids = [_grid(table, piece, beside=False) for piece in (even if all(map(fits, even)) else pieces)]
    for grid in grids:
        grid.columns[0].width = name
        for column in grid.columns[count:]:
            column.width = column.least
        for column in grid.columns[count:]:
            column.width += min(column.natural - column.least, width - _width(grid))
    return grids


def _lines(grid: _Grid) -> Iterator[Text]:
    """Head, rule, and rows in their groups."""
    from rich.text import Text

    columns = grid.columns
    heads = [[piece for line in column.head for piece in _broken(Text(line), column.width)] for column in columns]
    height = max(map(len, heads))
    yield from _beside(columns, [[Text()] * (height - len(head)) + head for head in heads])
    yield Text("─" * _width(grid))
    for i, group in enumerate(grid.groups):
        if i == 0 or group != grid.groups[i - 1]:
            yield from [Text()] if i else []
            yield from _broken(Text(group), _width(grid)) if grid.lines_of_groups else []
        yield from _beside(columns, [_broken(column.cells[i], column.width) for column in columns])


def _beside(columns: Sequence[_Column], cells: Sequence[Sequence[Text]]) -> Iterator[Text]:
    """Lines of the cells of one row, each of which may be of several."""
    from rich.text import Text

    for line in zip_longest(*cells, fillvalue=Text()):
        padded = []
        for column, text in zip(columns, line):
            blank = " " * (column.width - text.cell_len)
            padded.append(Text.assemble(blank, text) if column.right else Text.assemble(text, blank))
        joined = Text(" " * GAP).join(padded)
        joined.rstrip()
        yield joined


def _broken(text: Text, width: int) -> list[Text]:
    """Lines of at most this width, if it can be broken so: between words, else behind a sign; what goes on is indented."""
    if text.cell_len <= width:
        return [text]
    indent = len(text.plain) - len(text.plain.lstrip())
    indent += len(INDENT) if indent else 0
    plain = text.plain.rstrip()
    cuts = [found.start() for found in re.finditer(ENDS, plain) if found.start() > indent]
    begin, ends, room = 0, list[int](), width
    while len(plain) - begin > max(room, 0):
        later = [cut for cut in cuts if cut > begin]
        fitting = [cut for cut in later if len(plain[begin:cut].rstrip()) <= room]
        words = [cut for cut in fitting if plain[cut - 1] == " "]
        begin = (words or fitting or [*later[:1], len(plain)][:1])[-1]
        ends.append(begin)
        room = width - indent
    lines = text.divide(ends)
    for line in lines:
        line.rstrip()
    rest = [line for line in lines[1:] if line.plain]
    for line in rest:
        line.pad_left(indent)
    return [lines[0], *rest]
