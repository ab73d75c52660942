"""What each part of a method is worth: the full method, then the rows without one part, then without several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsbench.errors import Misuse
from nsbench.results.store import Run
from nsbench.results.tables import captions
from nsbench.results.tables.beside import Beside
from nsbench.results.tables.cells import Cell, Column, Row, Table
from nsbench.results.tables.contrasts import BASELINE, Contrast, contrasts, plain_difference
from nsbench.results.tables.fields import interval_text
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import Identity, implied
from nsbench.results.tables.layouts import Asked
from nsbench.results.tables.metrics import DIFFERENCE, Metric
from nsbench.results.tables.rows import about_column, about_row, about_runs, absent, counted, emphasised, row_of

FIRST_RUN = "nsbench run --sampler dhns --kge rotate --dataset mkg_y --fusion adamf"


def sampler_of(runs: Sequence[Run], full: str) -> str:
    """The sampler that `full`, a row's label, names, or the only one of the runs. Misuse if it has none."""
    sampler, there = full.partition(" (")[0], sorted({run["sampler"] for run in runs})
    if sampler in there:
        return sampler
    if full == BASELINE and len(there) == 1:
        return there[0]
    raise Misuse(f"no run of '{sampler}' to ablate; name the full method with --baseline, of one of {', '.join(there)}")


def own_part(identity: Identity) -> Identity:
    """What a row says of its sampler: variant and options, in which the rows of an ablation differ."""
    return tuple((name, value) for name, value in identity if name == "variant" or name.startswith("sampler."))


def with_differences(shown: Sequence[Metric]) -> list[Metric]:
    """The metrics, and after MRR its difference from the full method."""
    return [each for metric in shown for each in ([metric, DIFFERENCE] if metric.name == "mrr" else [metric])]


def table(asked: Asked) -> Table:
    """Beside each MRR stands its difference from that of the row `baseline`, the full method, with interval and marker."""
    grid = asked.grid
    full = _full(grid, asked.baseline)
    if all(own_part(identity) == own_part(full) for identity in grid.labels):
        raise Misuse(f"there is only the full method, {grid.labels[full]}; run it without a part as well, by --set")
    tested = contrasts(grid, grid.labels[full], full, progress=asked.progress)
    columns = tuple(Column(dataset, metric) for dataset in grid.datasets for metric in with_differences(asked.shown))
    beside = Beside(columns, asked.printed or ())
    rows: list[Row] = []
    for group in grid.groups:
        parts = {identity: _without(grid, identity, full) for identity in grid.identities(group)}
        order = sorted(parts, key=lambda identity: (len(parts[identity]), parts[identity]))
        own = []
        for identity in order:
            row = row_of(grid, group, identity, [column for column in columns if column.metric != DIFFERENCE], {})
            cells = list(row.cells)
            for at, column in enumerate(columns):
                if column.metric == DIFFERENCE:
                    cells.insert(at, _difference(grid, (group, identity, column.dataset), full, tested, column))
            name = " and ".join(parts[identity])
            less = f" ({grid.called[identity]})" if identity in grid.called else ""
            name = f"{name}{less}" if name else f"{grid.labels[full]}: full"
            own.append(replace(row, label=name, cells=tuple(cells)))
        for identity, row in zip(order, emphasised(own)):
            lacks = " and ".join(parts[identity])
            rows += [row, *beside.rows(row, grid.kge[group], dict(identity)["sampler"], lacks)]
    said = captions.ablated(tested, grid.labels[full]), beside.said(grid.runs)
    caption = captions.caption(grid, asked.shown, rows, *said)
    notes = captions.notes(grid, asked.skipped, tested)
    notes += beside.notes(grid.runs) if asked.printed is not None else []
    below = caption, tuple(notes), tuple(beside.footnotes)
    return Table(asked.title, columns, tuple(rows), *below, counted(grid, rows))


def _full(grid: Grid, baseline: str) -> Identity:
    """The row that the others are parts of.

    It is the one of that label; else, of the recommended variant, the one with the fewest options, and of several such the
    one with the most rows beside it that differ from it by variant or options of the sampler alone.
    """

    def rank(row: Identity) -> tuple[int, int]:
        rest = set(row) - set(own_part(row))
        return sum("." in name for name, _ in row), -sum(rest == set(other) - set(own_part(other)) for other in grid.labels)

    labelled = [identity for identity, label in grid.labels.items() if label == baseline]
    recommended = [identity for identity in grid.labels if ("variant", "recommended") in identity]
    found = labelled or [row for row in recommended if rank(row) == min(map(rank, recommended))]
    if len(found) != 1:
        raise Misuse(f"which row is the full method? name one with --baseline: {', '.join(sorted(grid.labels.values()))}")
    return found[0]


def _without(grid: Grid, identity: Identity, full: Identity) -> list[str]:
    """In words, what a row lacks or has otherwise than the full method; empty for that itself.

    Of another variant, options that all its rows share are its own doing, and stand in a note (captions).
    """
    row, whole = dict(identity), dict(full)
    if row["variant"] != whole["variant"]:
        whole |= {name: row[name] for name in implied(row, map(dict, grid.labels))}
    parts = []
    for name in sorted({*row, *whole}):
        if row.get(name) == whole.get(name):
            continue
        owner, _, rest = name.partition(".")
        inner = rest.partition(".")[0]
        if owner == "aux" and "." in rest and (f"aux.{inner}" in row) != (f"aux.{inner}" in whole):
            continue  # options of a loss that is gone, or come, as a whole
        short = rest or name
        if row.get(name) == "false" or (owner == "aux" and name not in row):
            parts.append(f"without {short}")
        elif name in ("fusion", "features") and row[name] == "none":
            parts.append(f"without {name}")
        elif name not in row:
            parts.append(f"default {short}")
        else:
            parts.append(row[name] if name == "variant" else f"{short}={row[name]}")
    return parts


def _difference(grid: Grid, key: Key, full: Identity, tested: Mapping[Key, Contrast], column: Column) -> Cell:
    """MRR minus that of the full method, with interval and marker where it was tested."""
    group, identity, dataset = key
    record: dict[str, Any] = {**about_row(grid, group, identity), **about_column(column), "baseline": grid.labels[full]}
    runs, whole = grid.cells.get(key, []), grid.cells.get((group, full, dataset), [])
    record |= about_runs(runs)
    if identity == full:
        return Cell(record=record | {"status": "baseline"})
    if not runs or not whole:
        cell = absent(grid, key if not runs else (group, full, dataset))
        return replace(cell, record={**record, **cell.record, "n": len(runs)})
    contrast = tested.get(key)
    record |= {"status": "ok", "n": len(runs)}
    if contrast is None:
        difference = plain_difference(runs, whole)
        record |= {"difference": difference, "verdict": "not testable"}
        return Cell(DIFFERENCE.text(difference, sign=True), record=record)
    value = DIFFERENCE.text(contrast.test.difference, sign=True)
    return Cell(value, interval_text(contrast.test.interval), "", contrast.mark, record | contrast.record)
