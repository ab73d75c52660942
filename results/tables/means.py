"""Means over seeds: rows are samplers in groups by scoring model, columns metrics in groups by dataset."""

from __future__ import annotations

from nsbench.errors import Misuse
from nsbench.results.tables import captions
from nsbench.results.tables.beside import Beside
from nsbench.results.tables.cells import Column, Row, Table
from nsbench.results.tables.contrasts import contrasts
from nsbench.results.tables.labels import cited, reads
from nsbench.results.tables.layouts import Asked
from nsbench.results.tables.metrics import METRICS, READS
from nsbench.results.tables.rows import counted, emphasised, row_of


def table(asked: Asked) -> Table:
    """Every cell of the grid; markers of a test stand at the MRR, and no column is empty everywhere but of quality."""
    grid, shown = asked.grid, asked.shown
    quality = METRICS["mrr"] in shown
    tested = contrasts(grid, asked.baseline, progress=asked.progress) if quality else {}
    if not quality:
        shown = [metric for metric in shown if any(metric.of(run) is not None for run in grid.runs)]
        if any(metric.part == "diagnostics" for metric in shown) and any(map(reads, grid.runs)):
            shown = [READS, *shown]
        if not shown:
            raise Misuse("none of these runs has diagnostics: they were made with --no-diagnostics, or by objectives alone")
    columns = tuple(Column(dataset, metric) for dataset in grid.datasets for metric in shown)
    beside = Beside(columns, asked.printed or ())
    rows: list[Row] = []
    for group in grid.groups:
        identities = grid.identities(group)
        whole = any(figure.fusion for figure in asked.printed or ())
        beneath = cited(identities, grid.called, ("sampler", "fusion") if whole else ("sampler",))
        own = emphasised([row_of(grid, group, identity, columns, tested) for identity in identities])
        for identity, row in zip(identities, own):
            rows.append(row)
            if identity in beneath:
                rows += beside.rows(row, grid.kge[group], dict(identity)["sampler"], fusion=dict(identity)["fusion"])
    notes = captions.notes(grid, asked.skipped, tested)
    notes += beside.notes(grid.runs) if asked.printed is not None else []
    said = [captions.testing(tested, asked.baseline)] if quality else []
    caption = captions.caption(grid, shown, rows, *said, beside.said(grid.runs))
    below = caption, tuple(notes), tuple(beside.footnotes)
    return Table(asked.title, columns, tuple(rows), *below, counted(grid, rows))
