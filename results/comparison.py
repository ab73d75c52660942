"""From runs to a table: what may stand in one table, how its rows are named, which cells earn a marker.

Rows are samplers (with whatever else differs), in groups by scoring model; columns are metrics, in groups by dataset.
A `Table` holds the finished text of each cell and its full record; nsbench.results.tables lays it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nsbench.errors import Misuse
from nsbench.results import papers, statistics, store
from nsbench.results.contrasts import ALPHA, BASELINE, Contrast, contrasts
from nsbench.results.grid import Grid, Identity, Key, Run, differs, flat, listed, preset, refuse_mixtures

if TYPE_CHECKING:
    import pandas as pd

FIRST_RUN = "nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y"

Style = Literal["best", "second", ""]
STYLES: tuple[Style, ...] = ("best", "second")


@dataclass(frozen=True)
class Metric:
    """A column of the store's frame and how tables print it."""

    name: str
    header: str
    higher: bool | None  # is better; None: neither is
    scale: float
    decimals: int
    unit: str  # of the stored value, which csv files keep

    def text(self, value: float, sign: bool = False) -> str:
        """Rounded half up in decimal: 2.675 at two decimals is 2.68, which binary rounding gets wrong."""
        scaled = Decimal(repr(float(value))) * Decimal(repr(self.scale))
        return f"{scaled.quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP):{'+' if sign else ''}f}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mrr", "MRR", True, 100, 2, "fraction"),
        Metric("mr", "MR", False, 1, 0, "rank"),
        Metric("hits@1", "H@1", True, 100, 2, "fraction"),
        Metric("hits@3", "H@3", True, 100, 2, "fraction"),
        Metric("hits@10", "H@10", True, 100, 2, "fraction"),
        Metric("amri", "AMRI", True, 100, 2, "fraction"),
        Metric("seconds", "total s", False, 1, 1, "seconds"),
        Metric("train_seconds", "training s", False, 1, 1, "seconds"),
        Metric("sampler_seconds", "sampler s", False, 1, 1, "seconds"),
        Metric("evaluation_seconds", "evaluation s", False, 1, 1, "seconds"),
        Metric("peak_memory", "peak MiB", False, 2**-20, 0, "bytes"),
        Metric("end.false_negatives_train", "FN train", None, 100, 2, "fraction"),
        Metric("end.false_negatives_known", "FN known", None, 100, 2, "fraction"),
        Metric("end.false_negatives_world", "FN world", None, 100, 2, "fraction"),
        Metric("start.hardness", "hardness: start", None, 100, 1, "fraction"),
        Metric("middle.hardness", "middle", None, 100, 1, "fraction"),
        Metric("end.hardness", "end", None, 100, 1, "fraction"),
        Metric("end.hardness_now", "end, own model", None, 100, 1, "fraction"),
        Metric("end.active", "active", None, 100, 1, "fraction"),
        Metric("end.type_valid", "type-valid", None, 100, 1, "fraction"),
        Metric("end.unseen", "unseen", None, 100, 1, "fraction"),
        Metric("end.entropy", "entropy", None, 100, 1, "fraction"),
        Metric("end.coverage", "coverage", None, 100, 1, "fraction"),
        Metric("end.generated_false_negatives_known", "generated: FN known", None, 100, 2, "fraction"),
        Metric("end.generated_false_negatives_world", "generated: FN world", None, 100, 2, "fraction"),
        Metric("end.generated_hardness_now", "generated: hardness", None, 100, 1, "fraction"),
        Metric("end.generated_active", "generated: active", None, 100, 1, "fraction"),
    )
}
DIAGNOSTICS = tuple(name for name in METRICS if "." in name)  # moment.figure of nsbench.diagnostics
LAYOUTS = {
    "dhns4": ("mrr", "hits@1", "hits@3", "hits@10"),
    "mmrns2": ("mrr", "mr", "hits@1", "hits@3", "hits@10"),
    "cost": store.COST,
    "diagnostics": DIAGNOSTICS,
}


@dataclass(frozen=True)
class Column:
    dataset: str
    metric: Metric


@dataclass(frozen=True)
class Cell:
    """What is printed, and `record`: everything about it, unrounded, for csv."""

    value: str = "-"
    spread: str = ""
    style: Style = ""
    marks: tuple[str, ...] = ()  # symbols, and the numbers of footnotes
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    group: str
    label: str
    cells: tuple[Cell, ...]
    published: bool = False  # figures from a paper, which belong to the row above


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # rows of one group follow each other
    caption: str
    notes: tuple[str, ...]
    footnotes: tuple[str, ...] = ()  # the n-th is what a mark "n" refers to

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.group for row in self.rows))


def comparison(
    runs: pd.DataFrame | str | Path | None = None,
    *,
    layout: str = "dhns4",
    metrics: Sequence[str] | None = None,
    baseline: str = BASELINE,
    published: bool = False,
    where: Mapping[str, Any] | None = None,
) -> Table:
    """A table of runs: a frame from nsbench.results.load, or the store to load.

    `baseline` is the sampler, or a row's label, that the others are tested against. `where` are filters as in
    nsbench.results.store.select. Misuse, naming a filter, if the runs cannot stand in one table.
    """
    if layout not in LAYOUTS:
        raise Misuse(f"unknown layout '{layout}'; there are {', '.join(LAYOUTS)}")
    unknown = [name for name in metrics or () if name not in METRICS]
    if unknown:
        raise Misuse(f"unknown metric '{unknown[0]}'; there are {', '.join(METRICS)}")
    frame = store.load(runs) if runs is None or isinstance(runs, str | Path) else runs
    if frame.empty:
        skipped = len(frame.attrs.get("skipped", ()))
        beside = f" (unfinished or damaged folders: {skipped})" if skipped else ""
        raise Misuse(f"no complete run in {frame.attrs.get('folder', 'the store')}{beside}; start with `{FIRST_RUN}`")
    records: list[Run] = store.select(frame, where or {}).to_dict("records")
    if not records:
        raise Misuse(f"no run passes the filters {dict(where or {})}; ask for at least one value of each")
    shown = [METRICS[name] for name in metrics or LAYOUTS[layout]]
    refuse_mixtures(records, timed=any(metric.name in store.COST for metric in shown))

    grid = Grid(records)
    tested = contrasts(grid, baseline) if METRICS["mrr"] in shown else {}
    if layout == "diagnostics":
        shown = [m for m in shown if any(figure(run, m) is not None for run in records)]
        if not shown:
            raise Misuse("none of these runs has diagnostics: they were made with --no-diagnostics, or by objectives alone")
    columns = tuple(Column(dataset, metric) for dataset in grid.datasets for metric in shown)
    footnotes: list[str] = []
    figures: list[papers.Figure] = []
    rows: list[Row] = []
    for group in grid.groups:
        own = [(identity, _row(grid, group, identity, columns, tested)) for identity in grid.identities(group)]
        for (identity, _), row in zip(own, _emphasised([row for _, row in own])):
            rows.append(row)
            if published:
                printed = _published(grid.kge[group], dict(identity)["sampler"], columns)
                rows += [_published_row(source, row, cited, columns, footnotes) for source, cited in printed.items()]
                figures += [figure for cited in printed.values() for figure in cited.values()]
    notes = _notes(grid, frame.attrs.get("skipped", {}), judged=any(metric.higher is not None for metric in shown))
    if published:
        notes += _published_notes(grid, figures)
    titles = {store.COST: "Cost of a run", DIAGNOSTICS: "What the samplers draw"}
    title = next((t for names, t in titles.items() if all(m.name in names for m in shown)), "Filtered link prediction")
    caption = _caption(grid, shown, tested, baseline)
    return Table(title, columns, tuple(rows), caption, tuple(notes), tuple(footnotes))


def _row(
    grid: Grid,
    group: str,
    identity: Identity,
    columns: Sequence[Column],
    tested: Mapping[Key, Contrast],
) -> Row:
    factors = dict(identity)
    about = {"model": group, "row": grid.labels[identity], "kge": grid.kge[group]}
    about |= {name: factors[name] for name in ("sampler", "variant", "fusion", "features")}
    about["options"] = " ".join(f"{name}={value}" for name, value in identity if "." in name)
    say_n = len(grid.seed_lists) > 1
    cells = []
    for column in columns:
        key = (group, identity, column.dataset)
        contrast = tested.get(key) if column.metric.name == "mrr" else None
        cell = _cell(grid.cells.get(key, []), column.metric, contrast, say_n)
        cells.append(replace(cell, record={**about, **_where(column), **cell.record}))
    return Row(group, grid.labels[identity], tuple(cells))


def _where(column: Column) -> dict[str, Any]:
    metric = column.metric
    direction = {True: "higher", False: "lower", None: "neither"}[metric.higher]
    return {"dataset": column.dataset, "metric": metric.name, "unit": metric.unit, "better": direction}


def figure(run: Run, metric: Metric) -> float | None:
    """What the run says of the metric; None where that was not measured."""
    moment, dot, name = metric.name.partition(".")
    value = run["result"].get("diagnostics", {}).get(moment, {}).get(name) if dot else run[metric.name]
    return None if value is None else float(value)


def _cell(runs: Sequence[Run], metric: Metric, contrast: Contrast | None, say_n: bool) -> Cell:
    if not runs:
        return Cell(record={"status": "missing", "n": 0})
    values = [value for run in runs if (value := figure(run, metric)) is not None]
    if not values:
        return Cell(record={"status": "missing", "n": 0})
    mean = float(np.mean(values))
    record: dict[str, Any] = {"status": "ok", "n": len(values), "seeds": listed((run["seed"] for run in runs), " ")}
    record |= {"split": runs[0]["split"], "values": listed(map(repr, values), " "), "mean": mean}
    record["converged"] = all(run["converged"] for run in runs)
    spread = ""
    if len(values) >= statistics.SPREAD_SEEDS:
        low, high = statistics.t_interval(values)
        record |= {"sd": statistics.sd(values), "low": low, "high": high}
        spread = f"± {metric.text(record['sd'])}"
    if say_n:
        spread = f"{spread} (n={len(values)})".strip()
    if contrast:
        test = contrast.test
        record |= {"baseline": contrast.baseline, "difference": test.difference, "p": test.p, "p_holm": contrast.p_holm}
        record |= {"standard_error": test.standard_error, "df": test.df, "family": contrast.family}
        record |= {"difference_low": test.interval[0], "difference_high": test.interval[1]}
    judged = metric.higher is not None and not record["converged"]
    marks = (contrast.mark if contrast else ()) + (("†",) if judged else ())
    return Cell(metric.text(mean), spread, "", marks, record)


def _emphasised(rows: Sequence[Row]) -> list[Row]:
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


# Published figures


def _published(kge: str, sampler: str, columns: Sequence[Column]) -> dict[str, dict[Column, papers.Figure]]:
    """source -> column -> the printed figure, for the sources that print any of these columns for this sampler."""
    found: dict[str, dict[Column, papers.Figure]] = {}
    of_column = {(column.dataset, column.metric.name): column for column in columns}
    for figure in papers.figures():
        column = of_column.get((figure.dataset, figure.metric))
        if column and (figure.sampler, figure.kge) == (sampler, kge):
            found.setdefault(figure.source, {})[column] = figure
    return found


def _published_row(
    source: str, ours: Row, cited: Mapping[Column, papers.Figure], columns: Sequence[Column], footnotes: list[str]
) -> Row:
    """The figures of one source under our row; new notes are added to `footnotes`."""
    cells = []
    for column, own in zip(columns, ours.cells):
        kept = ("model", "row", "kge", "sampler", "variant", "fusion", "features", "options")
        record = {name: own.record[name] for name in kept} | _where(column) | {"status": "published", "source": source}
        figure = cited.get(column)
        if figure is None:
            cells.append(Cell(record=record | {"status": "missing"}))
            continue
        record |= {"published": figure.value, "note": figure.note}
        spread = ""
        if "mean" in own.record:
            record["ours_minus_published"] = own.record["mean"] - figure.value
            spread = f"({column.metric.text(record['ours_minus_published'], sign=True)})"
        if figure.note and figure.note not in footnotes:
            footnotes.append(figure.note)
        marks = (str(footnotes.index(figure.note) + 1),) if figure.note else ()
        cells.append(Cell(figure.printed, spread, "", marks, record))
    return Row(ours.group, f"published: {source}", tuple(cells), published=True)


def _published_notes(grid: Grid, figures: Sequence[papers.Figure]) -> list[str]:
    if not figures:
        return ["No published figure fits a row of this table."]
    notes = ["Published rows: the figure as printed, and in brackets ours minus it.", *papers.caveats(figures)]
    splits = {run["dataset"]: run["split"] for run in grid.runs}
    for dataset in sorted({figure.dataset for figure in figures}):
        if splits[dataset] != "released":
            notes.append(f"{dataset}: ours is the {splits[dataset]} split, the papers trained on the released one.")
    return notes


# Words


def _caption(grid: Grid, shown: Sequence[Metric], tested: Mapping[Key, Contrast], baseline: str) -> str:
    """What a reader needs to judge the table, generated from what was done."""
    quality = any(metric.name in store.METRICS for metric in shown)
    sentences = []
    if quality:
        sentences.append(
            "Every test triple with either end hidden, ranked against all entities but the other known facts of all "
            "splits; ties count as the realistic rank, the mean of the optimistic and the pessimistic one"
        )
    if any(metric.name in DIAGNOSTICS for metric in shown):
        sentences.append(
            "Of the negatives of 2,048 training triples: FN, share that are facts of train, of any split, of the complete "
            "world; hardness, share of candidates that score lower under the finished uniform run of seed 0 (before, "
            "halfway and after training) and under the own model; active, share with a gradient; type-valid, share seen in "
            "that place of the relation; unseen, share never seen in train; entropy of the drawn entities over log N; "
            "coverage, share of N drawn; `generated`: vectors, each judged as the entity nearest to it"
        )
    scaled = [metric.header for metric in shown if metric.scale == 100]
    sentences += [f"{', '.join(scaled)} x100"] if scaled else []
    data = []
    for dataset in grid.datasets:
        run = next(run for run in grid.runs if run["dataset"] == dataset)
        data.append(f"{dataset} ({run['split']} split, {run['fingerprint'][:8]})")
    sentences.append(f"Data: {', '.join(data)}")
    config = grid.runs[0]["config"]
    changed = ", ".join(f"{name}={value}" for name, value in flat(config.get("changed", {})).items())
    protocol = f"Protocol {config['protocol']['name']}, version {config['protocol']['version']}"
    sentences.append(protocol + (f", changed: {changed}" if changed else ""))
    chosen = {"best": "The model is chosen by validation MRR", "last": "The last model is tested, validated or not"}
    sentences.append(chosen[config["protocol"].get("selection", "best")])
    sentences += [f"All rows: {_shared(grid)}"] if _shared(grid) else []
    sentences.append(_seeds(grid))
    if METRICS["mrr"] in shown:
        sentences.append(_test(tested, baseline))
    hardware = sorted({f"{run['device']}, {run['threads']} threads, {run['kernels']} kernels" for run in grid.runs})
    sentences.append(f"Ran on {' and '.join(hardware)}")
    return ". ".join(sentences) + "."


def _shared(grid: Grid) -> str:
    """Fusion, features and auxiliary losses that all rows have in common, unless there are none."""
    rows = [dict(identity) for identity in grid.labels]
    names = [name for name in rows[0] if name not in ("sampler", "variant", "own_loss") and not name.startswith("sampler.")]
    return ", ".join(f"{n}={rows[0][n]}" for n in names if rows[0][n] != "none" and not differs(n, rows))


def _seeds(grid: Grid) -> str:
    if len(grid.seed_lists) > 1:
        return "n: number of seeds, mean and from 3 seeds on ± standard deviation over them (ddof 1)"
    (seeds,) = grid.seed_lists
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}), so no spread is known"
    if len(seeds) < statistics.SPREAD_SEEDS:
        return f"Mean of {len(seeds)} seeds ({listed(seeds, ', ')}), too few for a standard deviation"
    return f"Mean ± standard deviation (ddof 1) over {len(seeds)} seeds ({listed(seeds, ', ')})"


def _test(tested: Mapping[Key, Contrast], baseline: str) -> str:
    if not tested:
        return f"No test: that takes {statistics.TEST_SEEDS} seeds of a row and of its baseline {baseline}"
    baselines = " or ".join(sorted({contrast.baseline for contrast in tested.values()}))
    return (
        f"▲ ▼ MRR above or below {baselines}: two-way t over seeds and test triples, on the mean reciprocal rank of a "
        f"triple's two sides, seeds not paired; Holm over all {len(tested)} of this table, adjusted p < {ALPHA}"
    )


def _notes(grid: Grid, skipped: Mapping[str, str], judged: bool) -> list[str]:
    notes = []
    if judged and not all(run["converged"] for run in grid.runs):
        notes.append("† Not converged, so at this budget: the best validation came in the last tenth of the steps.")
    for identity, label in sorted(grid.labels.items(), key=lambda item: item[1]):
        row = dict(identity)
        peers = [dict(other) for other in grid.labels if preset(dict(other)) == preset(row)]
        options = [name for name in row if name.startswith("sampler.") and not differs(name, peers)]
        if options and row["variant"] != "recommended":  # whose options are all in the label
            values = (f"{name.removeprefix('sampler.')}={row[name]}" for name in options)
            notes.append(f"{label} sets {', '.join(values)}.")
    if any("own_loss" in dict(identity) for identity in grid.labels):
        notes.append("Own loss: the row replaces sampling and the other rows' loss, so it compares more than samplers.")
    codes = sorted({str(run["code"]) for run in grid.runs})
    if len(codes) > 1:
        notes.append(f"The runs come from {len(codes)} states of the code ({listed(codes, ', ')}).")
    if skipped:
        notes.append(f"Unfinished or damaged run folders, left out: {len(skipped)}.")
    return notes
