"""A table's rows: the figures of one sampler with one scoring model, their spread, marks, and what is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsbench.results.stats import statistics
from nsbench.results.store import Run
from nsbench.results.tables.cells import STYLES, Cell, Column, Row, Style
from nsbench.results.tables.contrasts import Contrast
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import Identity, listed, reads
from nsbench.results.tables.metrics import READS, Metric


def row_of(
    grid: Grid,
    group: str,
    identity: Identity,
    columns: Sequence[Column],
    tested: Mapping[Key, Contrast],
) -> Row:
    """The row of one model and sampler; `tested` gives the markers of its MRR."""
    about = about_row(grid, group, identity)
    cells = []
    for column in columns:
        key = (group, identity, column.dataset)
        contrast = tested.get(key) if column.metric.name == "mrr" else None
        if column.metric == READS:
            cell = reading(grid.cells.get(key, []))
        elif key in grid.cells:
            cell = cell_of(grid.cells[key], column.metric, contrast, grid.failed.get(key, {}))
        else:
            cell = absent(grid, key)
        cells.append(replace(cell, record={**about, **about_column(column), **cell.record}))
    return Row(group, grid.labels[identity], tuple(cells))


def about_row(grid: Grid, group: str, identity: Identity) -> dict[str, Any]:
    factors = dict(identity)
    about = {"model": group, "row": grid.labels[identity], "kge": grid.kge[group]}
    about |= {name: factors[name] for name in ("sampler", "variant", "fusion", "features")}
    about["options"] = " ".join(f"{name}={value}" for name, value in identity if "." in name)
    return about | ({"own_loss": True} if "own_loss" in factors else {})


def about_column(column: Column) -> dict[str, Any]:
    metric = column.metric
    return {"dataset": column.dataset, "metric": metric.name, "unit": metric.unit, "better": metric.better}


def about_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs of a cell say of their negatives: what these come from, and in which seeds the generator is dead."""
    found = {"reads": listed(dict.fromkeys(filter(None, map(reads, runs))), " or ")}
    found["dead"] = listed((f"seed {run['seed']}: {listed(run.dead, '; ')}" for run in runs if run.dead), "; ")
    return {name: text for name, text in found.items() if text}


def reading(runs: Sequence[Run]) -> Cell:
    """The cell of the column READS."""
    about = about_runs(runs)
    if "reads" not in about:
        return Cell(record={"status": "missing", "n": 0})
    seeds = listed((run["seed"] for run in runs), " ")
    return Cell(about["reads"], record={"status": "ok", "n": len(runs), "seeds": seeds, "split": runs[0]["split"], **about})


def absent(grid: Grid, key: Key) -> Cell:
    """The cell that stands where there is no run: whether any was begun, and what became of it."""
    reasons = grid.failed.get(key, {})
    if key in grid.unfinished:
        word = "unfinished"
    elif reasons:
        word = "diverged" if all("not finite" in reason for reason in reasons.values()) else "failed"
    else:
        return Cell(record={"status": "missing", "n": 0})
    return Cell(word, record={"status": word, "n": 0} | _failures(reasons))


def _failures(reasons: Mapping[int, str]) -> dict[str, Any]:
    return {"failed": len(reasons), "reason": listed(dict.fromkeys(reasons.values()), "; ")} if reasons else {}


def cell_of(runs: Sequence[Run], metric: Metric, contrast: Contrast | None, failed: Mapping[int, str]) -> Cell:
    """The mean over the runs with its spread; `failed` are seeds of the cell that have none, with the reasons."""
    measured = [(run["seed"], value) for run in runs if (value := metric.of(run)) is not None]
    if not measured:
        return Cell(record={"status": "missing", "n": 0})
    seeds, values = zip(*measured)
    mean = math.fsum(values) / len(values)
    record: dict[str, Any] = {"status": "partial" if failed else "ok", "n": len(values), "seeds": listed(seeds, " ")}
    record |= _failures(failed)
    record |= {"split": runs[0]["split"], "values": listed(map(repr, values), " "), "mean": mean}
    record["converged"] = all(run["converged"] for run in runs)
    record |= about_runs(runs)
    spread = ""
    if len(values) >= statistics.SPREAD_SEEDS:
        low, high = statistics.t_interval(values)
        record |= {"sd": statistics.sd(values), "low": low, "high": high}
        spread = f"± {metric.text(record['sd'])}"
    record |= contrast.record if contrast else {}
    judged = metric.part == "test" and not record["converged"]
    marks = (contrast.mark if contrast else ()) + (("†",) if judged else ())
    return Cell(metric.text(mean), spread, "", marks, record)


def counted(grid: Grid, rows: Sequence[Row]) -> bool:
    """Must rows say of how many runs they are, because the caption cannot for all?"""
    ns = {cell.record["n"] for row in rows for cell in row.cells if cell.record.get("n")}
    return bool(grid.failed) or len(grid.seed_lists) > 1 or not ns <= {*map(len, grid.seed_lists)}


def emphasised(rows: Sequence[Row]) -> list[Row]:
    """Rows of one group with best and second of each column, from unrounded means; equal in print is equal in style.

    Left out: means over fewer runs than another cell of the column or than were begun, and rows with a loss of their own.
    """
    styles: list[list[Style]] = [["" for _ in row.cells] for row in rows]
    for c in range(len(rows[0].cells)):
        records = [row.cells[c].record for row in rows]
        there = [r for r, record in enumerate(records) if record["status"] == "ok" and "own_loss" not in record]
        most = max((records[r]["n"] for r in there), default=0)
        there = [r for r in there if records[r]["n"] == most]
        if len(there) < 2 or rows[there[0]].cells[c].record["better"] == "neither":
            continue
        sign = 1 if rows[there[0]].cells[c].record["better"] == "lower" else -1
        there.sort(key=lambda r: sign * rows[r].cells[c].record["mean"])
        printed = list(dict.fromkeys(rows[r].cells[c].value for r in there))
        for r in there:
            rank = printed.index(rows[r].cells[c].value)
            styles[r][c] = STYLES[rank] if rank < 2 else ""
    return [
        replace(row, cells=tuple(replace(cell, style=style) for cell, style in zip(row.cells, chosen)))
        for row, chosen in zip(rows, styles)
    ]
