"""A table's rows: the figures of one sampler with one scoring model, their spread, marks, and what is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsbench.results import statistics
from nsbench.results.cells import STYLES, Cell, Column, Metric, Row, Style
from nsbench.results.contrasts import Contrast
from nsbench.results.grid import Grid, Identity, Key, Run, listed


def row_of(
    grid: Grid,
    group: str,
    identity: Identity,
    columns: Sequence[Column],
    tested: Mapping[Key, Contrast],
) -> Row:
    """The row of one model and sampler; `tested` gives the markers of its MRR."""
    about = about_row(grid, group, identity)
    say_n = len(grid.seed_lists) > 1
    cells = []
    for column in columns:
        key = (group, identity, column.dataset)
        contrast = tested.get(key) if column.metric.name == "mrr" else None
        cell = cell_of(grid.cells.get(key, []), column.metric, contrast, say_n)
        if key in grid.unfinished and key not in grid.cells:
            cell = Cell("unfinished", record={"status": "unfinished", "n": 0})
        cells.append(replace(cell, record={**about, **about_column(column), **cell.record}))
    return Row(group, grid.labels[identity], tuple(cells))


def about_row(grid: Grid, group: str, identity: Identity) -> dict[str, Any]:
    factors = dict(identity)
    about = {"model": group, "row": grid.labels[identity], "kge": grid.kge[group]}
    about |= {name: factors[name] for name in ("sampler", "variant", "fusion", "features")}
    about["options"] = " ".join(f"{name}={value}" for name, value in identity if "." in name)
    return about


def about_column(column: Column) -> dict[str, Any]:
    metric = column.metric
    direction = {True: "higher", False: "lower", None: "neither"}[metric.higher]
    return {"dataset": column.dataset, "metric": metric.name, "unit": metric.unit, "better": direction}


def figure(run: Run, metric: Metric) -> float | None:
    """What the run says of the metric; None where that was not measured."""
    moment, dot, name = metric.name.partition(".")
    value = run["result"].get("diagnostics", {}).get(moment, {}).get(name) if dot else run[metric.name]
    return None if value is None else float(value)


def cell_of(runs: Sequence[Run], metric: Metric, contrast: Contrast | None, say_n: bool) -> Cell:
    measured = [(run["seed"], value) for run in runs if (value := figure(run, metric)) is not None]
    if not measured:
        return Cell(record={"status": "missing", "n": 0})
    seeds, values = zip(*measured)
    mean = math.fsum(values) / len(values)
    record: dict[str, Any] = {"status": "ok", "n": len(values), "seeds": listed(seeds, " ")}
    record |= {"split": runs[0]["split"], "values": listed(map(repr, values), " "), "mean": mean}
    record["converged"] = all(run["converged"] for run in runs)
    spread = ""
    if len(values) >= statistics.SPREAD_SEEDS:
        low, high = statistics.t_interval(values)
        record |= {"sd": statistics.sd(values), "low": low, "high": high}
        spread = f"± {metric.text(record['sd'])}"
    if say_n or len(values) < len(runs):
        spread = f"{spread} (n={len(values)})".strip()
    record |= contrast.record if contrast else {}
    judged = metric.higher is not None and not record["converged"]
    marks = (contrast.mark if contrast else ()) + (("†",) if judged else ())
    return Cell(metric.text(mean), spread, "", marks, record)


def emphasised(rows: Sequence[Row]) -> list[Row]:
    """Rows of one group with best and second of each column, from unrounded means; equal in print is equal in style."""
    styles: list[list[Style]] = [["" for _ in row.cells] for row in rows]
    for c in range(len(rows[0].cells)):
        there = [r for r, row in enumerate(rows) if "mean" in row.cells[c].record]
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
