"""A table as HTML: a fragment for a page of several, or a page of its own. No network, no library.

Cells carry their unrounded record as a tooltip and as the value that columns sort by; rows of published figures stay
with the row above them, and every model's rows among themselves.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Any

from nsbench.results.cells import Cell, Column, Table

TAGS = {"best": "<strong>{}</strong>", "second": "<u>{}</u>", "": "{}"}
TOOLTIP = {  # of a record: how it is called
    "n": "seeds", "values": "values", "mean": "mean", "sd": "sd over seeds", "difference": "difference", "p": "p",
    "p_holm": "p (Holm)", "baseline": "against", "published": "published", "ours_minus_published": "ours - published",
    "source": "source", "note": "note",
}  # fmt: skip

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a; }
figure.table { margin: 0 0 2rem; }
figure.table > div { overflow-x: auto; }
figure.table h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
figure.table table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
figure.table th, figure.table td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
figure.table tbody th { text-align: left; font-weight: normal; }
figure.table tbody th[scope=rowgroup] { font-weight: bold; padding-top: .6rem; }
figure.table thead { border-top: 2px solid; border-bottom: 1px solid; }
figure.table tbody { border-bottom: 1px solid #999; }
figure.table .span { text-align: center; border-bottom: 1px solid #999; }
figure.table .published { color: #555; font-style: italic; }
figure.table button { all: unset; cursor: pointer; }
figure.table button:focus-visible { outline: 2px solid; }
figure.table figcaption, figure.table .notes { font-size: .85rem; max-width: 60rem; }
@media print { body { max-width: none; } figure.table > div { overflow: visible; } }
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
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{fragment(table)}"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def fragment(table: Table) -> str:
    """A <figure>; the page around it holds STYLE, and SCRIPT for columns that sort."""
    spans = [(dataset, len(list(columns))) for dataset, columns in groupby(table.columns, lambda column: column.dataset)]
    first = "".join(f'<th class="span" scope="colgroup" colspan="{size}">{escape(name)}</th>' for name, size in spans)
    names = "".join(f'<th scope="col"><button>{escape(column.header)}</button></th>' for column in table.columns)
    rows = [f'<tr><th scope="col" rowspan="2"><button>sampler</button></th>{first}</tr>', f"<tr>{names}</tr>"]
    lines = ['<figure class="table">', f"<h2>{escape(table.title)}</h2>", "<div><table>", "<thead>", *rows, "</thead>"]
    for group, members in groupby(table.rows, lambda row: row.group):
        lines += ["<tbody>", f'<tr><th scope="rowgroup" colspan="{len(table.columns) + 1}">{escape(group)}</th></tr>']
        for row in members:
            cells = "".join(_cell(cell, column) for cell, column in zip(row.cells, table.columns))
            kind = ' class="published"' if row.published else ""
            lines.append(f'<tr{kind}><th scope="row">{escape(row.label)}</th>{cells}</tr>')
        lines.append("</tbody>")
    emphasis = "".join(TAGS[style].format(escape(text)) for text, style in table.legend)
    lines += ["</table></div>", f"<figcaption>{escape(table.caption)}{emphasis}</figcaption>"]
    notes = [f"<li>{escape(note)}</li>" for note in table.notes]
    notes += [f"<li>[{i}] {escape(note)}</li>" for i, note in enumerate(table.footnotes, 1)]
    lines += ['<ul class="notes">', *notes, "</ul>"] if notes else []
    return "\n".join([*lines, "</figure>"]) + "\n"


def _cell(cell: Cell, column: Column) -> str:
    marks = "".join(f"<sup>{escape(mark)}</sup>" for mark in cell.marks)
    spread = f" {escape(cell.spread)}" if cell.spread else ""
    value = _sorted_by(cell, column)
    known = {name: cell.record[key] for key, name in TOOLTIP.items() if cell.record.get(key) not in (None, "")}
    about = "; ".join(f"{name} {_plain(value)}" for name, value in known.items())
    attributes = f' title="{escape(about)}"' if about else ""
    attributes += f' data-value="{value!r}"' if value is not None else ""
    return f"<td{attributes}>{TAGS[cell.style].format(escape(cell.value))}{marks}{spread}</td>"


def _sorted_by(cell: Cell, column: Column) -> float | None:
    for name in ("mean", column.metric.name, "published"):
        if isinstance(cell.record.get(name), float):
            return cell.record[name]
    return None


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
