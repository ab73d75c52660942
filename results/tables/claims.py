"""What may be claimed, one line for each contrast with a baseline: how large, how sure, and in which words."""

from __future__ import annotations

from dataclasses import replace

from nsbench.errors import Misuse
from nsbench.results.store import Run
from nsbench.results.tables import captions
from nsbench.results.tables.cells import Cell, Column, Row, Table
from nsbench.results.tables.contrasts import Contrast, baseline_row, contrasts, plain_difference
from nsbench.results.tables.fields import COLUMNS as SHOWN
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.layouts import Asked
from nsbench.results.tables.metrics import DIFFERENCE, METRICS
from nsbench.results.tables.rows import about_column, about_row, about_runs, absent, counted

COLUMNS = tuple(Column("", shown.metric) for shown in SHOWN.values())
UNTESTED = "not testable"


def table(asked: Asked) -> Table:
    """Every cell of the grid that has a baseline, tested or not, with the verdict that its test allows."""
    grid, baseline = asked.grid, asked.baseline
    tested = contrasts(grid, baseline, bootstrap=True, progress=asked.progress)
    rows = []
    for group in grid.groups:
        for dataset in grid.datasets:
            for identity in grid.identities(group):
                key = (group, identity, dataset)
                if key not in grid.cells:
                    rows += [_failed(grid, key)] if key in grid.failed else []
                    continue
                against = baseline_row(grid, key, baseline)
                if against is not None and against != identity:
                    rows.append(_row(grid, key, grid.cells[group, against, dataset], grid.labels[against], tested.get(key)))
    if not rows:
        raise Misuse(f"no row has the baseline {baseline} beside it, so there is nothing to claim; name one with --baseline")
    caption = captions.caption(grid, [METRICS["mrr"]], rows, captions.claimed(tested, baseline), means=False)
    notes = tuple(captions.notes(grid, asked.skipped, tested))
    return Table(asked.title, COLUMNS, tuple(rows), caption, notes, counted=counted(grid, rows))


def _row(grid: Grid, key: Key, theirs: list[Run], baseline: str, contrast: Contrast | None) -> Row:
    group, identity, dataset = key
    runs = grid.cells[key]
    record = about_row(grid, group, identity) | {"dataset": dataset, "split": runs[0]["split"], "n": len(runs)}
    record |= {"baseline": baseline, "status": "ok", "converged": all(run["converged"] for run in [*runs, *theirs])}
    record |= about_runs(runs)
    if contrast is None:
        record |= {"difference": plain_difference(runs, theirs), "verdict": UNTESTED}
        said = {"difference": Cell(DIFFERENCE.text(record["difference"], sign=True))}
        said |= {name: Cell(UNTESTED) for name in SHOWN if name.endswith("verdict")}
    else:
        record |= contrast.record
        said = {name: shown.cell(contrast) for name, shown in SHOWN.items()}
    if not record["converged"]:
        said["verdict"] = replace(said["verdict"], spread="at this budget")
    cells = [replace(said.get(name, Cell()), record=about_column(column) | record) for name, column in zip(SHOWN, COLUMNS)]
    return Row(f"{group}, {dataset}", f"{grid.labels[identity]} against {baseline}", tuple(cells))


def _failed(grid: Grid, key: Key) -> Row:
    """For runs that all came to no result."""
    group, identity, dataset = key
    cell = absent(grid, key)
    record = {**about_row(grid, group, identity), "verdict": UNTESTED, **cell.record}
    cells = (
        Cell(cell.value if name == "verdict" else "-", record={**about_column(column), **record, "dataset": dataset})
        for name, column in zip(SHOWN, COLUMNS)
    )
    return Row(f"{group}, {dataset}", grid.labels[identity], tuple(cells))
