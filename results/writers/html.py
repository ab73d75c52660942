"""A table as HTML: a fragment for a page of several, or a page of its own. No network, no library.

Cells carry their unrounded record as a tooltip and as the value that columns sort by; rows of published figures stay
with the row above them, and every model's rows among themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from nsbench.results.tables.cells import Cell, Column, Row, Table
from nsbench.results.tables.fields import COLUMNS, FIELDS
from nsbench.results.writers.words import at, caption, names

Link = Callable[[Cell], str]

WIDE = 6  # columns: more, and datasets come below each other
TAGS = {"best": "<strong>{}</strong>", "second": "<u>{}</u>", "": "{}"}
SORTED_BY = {column.metric.name: name for name, column in COLUMNS.items()}  # an interval by its lower end

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --faint: #595959; --line: #999; --touch: #eef3fa; }
@media (prefers-color-scheme: dark) {
  :root { --page: #1a1a1a; --ink: #e6e6e6; --faint: #a8a8a8; --line: #777; --touch: #2b3442; }
}
@media print { :root { --page: #fff; --ink: #000; --faint: #444; --line: #999; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem;
       color: var(--ink); background: var(--page); }
figure.table { margin: 0 0 2rem; }
figure.table > div { overflow-x: auto; margin-bottom: .5rem; }
figure.table sup { line-height: 0; }
figure.table table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
figure.table th, figure.table td { padding: .2rem .5rem; text-align: right; white-space: nowrap;
                                   vertical-align: baseline; }
figure.table thead tr:first-child th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
figure.table tbody th { text-align: left; font-weight: normal; }
figure.table tbody th[scope=rowgroup] { font-weight: bold; padding-top: .6rem; }
figure.table tbody th[scope=row] { position: sticky; left: 0; background: var(--page); }
figure.table tbody th.name { white-space: normal; overflow-wrap: anywhere; min-width: 10rem; padding-left: 1.5rem;
                             text-indent: -1rem; }
figure.table th span { display: inline-block; text-indent: 0; }
figure.table td.words { white-space: normal; min-width: 6.5rem; }
figure.table thead th { white-space: normal; vertical-align: bottom; }
figure.table thead { border-top: 2px solid; border-bottom: 1px solid; }
figure.table tbody { border-bottom: 1px solid var(--line); }
figure.table .span { text-align: center; border-bottom: 1px solid var(--line); }
figure.table .published { color: var(--faint); font-style: italic; }
figure.table tbody .published th { padding-left: 2.6rem; }
figure.table td a { color: inherit; text-decoration: none; }
figure.table td a:hover { background: var(--touch); }
figure.table td:has(a:focus-visible)::after { content: attr(title); position: fixed; inset: auto 0 0 0; padding: .4rem 1rem;
                                              background: var(--touch); text-align: left; white-space: normal; }
figure.table button { all: unset; cursor: pointer; }
figure.table button:hover { text-decoration: underline; }
figure.table button:focus-visible { outline: 2px solid; }
figure.table [aria-sort] button { text-decoration: underline; }
figure.table figcaption, figure.table .notes { font-size: .85rem; max-width: 60rem; overflow-wrap: break-word; }
figure.table .notes { padding-left: 1.2rem; }
figure.table figcaption p { margin: .3rem 0; }
@media (max-width: 40rem) {
  figure.table th, figure.table td { padding: .2rem .35rem; }
  figure.table tbody th.name { min-width: 9rem; max-width: 9rem; font-size: .8rem; line-height: 1.25;
                               padding-left: .95rem; text-indent: -.6rem; }
  figure.table th span { display: inline; }
  figure.table .span { text-align: left; }
}
@media print {
  body { max-width: none; }
  figure.table > div { overflow: visible; }
  figure.table table { font-size: .7rem; }
  figure.table th, figure.table td { padding: .1rem .3rem; white-space: normal; }
  figure.table tbody th.name { min-width: 8rem; }
  figure.table td.words { min-width: 0; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("figure.table table"))
  table.querySelectorAll("button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.closest("th"), up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const blocks = [];  // a row with the published rows below it
      for (const row of [...body.rows].slice(1))
        row.classList.contains("published") && blocks.length ? blocks.at(-1).push(row) : blocks.push([row]);
      const key = block => block[0].cells[column].dataset.value ?? block[0].cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
        if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1;  // what has no figure comes last
        return (up ? 1 : -1) * (isNaN(p) ? x.localeCompare(y) : p - q);
      };
      blocks.sort(compare).flat().forEach(row => body.append(row));
    }
  }));
"""


def page(table: Table) -> str:
    """The table as one file that opens from disk and prints."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(table.title)}</h1>\n{fragment(table)}"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


class Shown(Table):
    """A table that notebooks show as HTML."""

    def _repr_html_(self) -> str:
        return f"<h4>{escape(self.title)}</h4>\n{fragment(self)}"


def fragment(table: Table, link: Link = lambda cell: "") -> str:
    """A <figure> without its title; the page around it holds STYLE, and SCRIPT for columns that sort.

    `link` gives the address of what stands behind a cell, empty for none. A wide table becomes one for each dataset.
    """
    places = [list(range(len(table.columns)))]
    if len(table.columns) > WIDE:
        places = [list(some) for _, some in groupby(places[0], lambda i: table.columns[i].dataset)]
    tables = [_grid(at(table, some), some, table.columns, link) for some in places]
    lines = ['<figure class="table">', *tables]
    lines += ["<figcaption>", *caption(table, TAGS, "<p><b>{}</b> {}</p>", escape), "</figcaption>"]
    notes = [f"<li>{escape(note)}</li>" for note in table.notes]
    notes += [f"<li>[{i}] {escape(note)}</li>" for i, note in enumerate(table.footnotes, 1)]
    lines += ['<ul class="notes">', *notes, "</ul>"] if notes else []
    return "\n".join([*lines, "</figure>"]) + "\n"


def _grid(rows: Sequence[Row], places: Sequence[int], columns: Sequence[Column], link: Link) -> str:
    """The <table> of the columns at these places, in a box of its own to scroll in."""
    before = names(rows)[1:]
    spans = [(dataset, len(list(members))) for dataset, members in groupby(columns[i].dataset for i in places)]
    datasets = "".join(f'<th class="span" scope="colgroup" colspan="{size}">{escape(name)}</th>' for name, size in spans)
    heads = "".join(f'<th scope="col"><button>{escape(columns[i].header)}</button></th>' for i in places)
    rowspan = ' rowspan="2"' if any(name for name, _ in spans) else ""
    first = "".join(f'<th scope="col"{rowspan}><button>{name}</button></th>' for name in before)
    head = f"<tr>{first}{datasets}</tr>\n<tr>{heads}</tr>" if rowspan else f"<tr>{first}{heads}</tr>"
    lines = [f"<div><table>\n<thead>\n{head}\n</thead>"]
    for group, members in groupby(rows, lambda row: row.group):
        lines += ["<tbody>", f'<tr><th scope="rowgroup" colspan="{len(places) + len(before)}">{escape(group)}</th></tr>']
        for row in members:
            cells = "".join(_cell(row.cells[i], columns[i], link(row.cells[i])) for i in places)
            cells = f"<td>{row.n}</td>" * (len(before) - 1) + cells
            kind = ' class="published"' if row.published else ""
            lines.append(f'<tr{kind}><th scope="row" class="name">{_label(row.label)}</th>{cells}</tr>')
        lines.append("</tbody>")
    return "\n".join([*lines, "</table></div>"])


def _label(text: str) -> str:
    """Broken between words; inside them behind a sign, only where a word is too long for a line of its own."""
    words = ("<wbr/>".join(map(escape, re.split(r"(?<=[=:,+/_])(?=\w)", word))) for word in text.split(" "))
    return " ".join(f"<span>{word}</span>" if "<wbr/>" in word else word for word in words)


def _cell(cell: Cell, column: Column, address: str) -> str:
    marks = "".join(f"<sup>{escape(mark)}</sup>" for mark in cell.marks)
    spread = f" {escape(cell.spread)}" if cell.spread else ""
    value = _sorted_by(cell, column)
    known = [(field.tooltip, cell.record.get(field.name)) for field in FIELDS if field.tooltip]
    about = "; ".join(f"{name} {_plain(value)}" for name, value in known if value not in (None, ""))
    attributes = ' class="words"' if re.search("[a-z]", cell.value) and not re.search("[0-9]", cell.value) else ""
    attributes += f' title="{escape(about)}"' if about else ""
    attributes += f' data-value="{value!r}"' if value is not None else ""
    text = TAGS[cell.style].format(escape(cell.value))
    text = f'<a href="{escape(address)}">{text}</a>' if address else text
    return f"<td{attributes}>{text}{marks}{spread}</td>"


def _sorted_by(cell: Cell, column: Column) -> float | None:
    name = column.metric.name
    for key in ("mean", SORTED_BY.get(name, name), "published"):
        if isinstance(cell.record.get(key), float):
            return cell.record[key]
    return None


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
