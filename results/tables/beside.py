"""Published figures beside ours, as rows of a table: never tested, never competing for bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from nsbench.errors import Misuse
from nsbench.results.stats import statistics
from nsbench.results.store import Run
from nsbench.results.tables import captions, papers
from nsbench.results.tables.cells import Caption, Cell, Column, Row, Table
from nsbench.results.tables.metrics import METRICS, Metric
from nsbench.results.tables.rows import about_column

OUTSIDE = "‡"
BELOW = "§"
ABOUT = ("model", "row", "kge", "sampler", "variant", "fusion", "features", "options")  # of a record, shared with ours


class Beside:
    """Makes the rows of these printed figures, and remembers what has to be said below the table: `footnotes`, and more."""

    def __init__(self, columns: Sequence[Column], printed: Sequence[papers.Figure]) -> None:
        self.columns = columns
        self.printed = printed
        self.footnotes: list[str] = []
        self.figures: list[papers.Figure] = []
        self.outside = False
        self.below: list[str] = []  # printed differences that our table would not have seen, in words

    def rows(self, ours: Row, kge: str, sampler: str, without: str = "", fusion: str = "none") -> list[Row]:
        """One row for each source that prints any of the columns for this sampler with this model, to stand under ours.

        `without`: the part that an ablation's row lacks (nsbench.results.tables.papers.Figure). Whole models are those of
        their fusion; where there are some, those without are for rows without.
        """
        whole = any(figure.fusion for figure in self.printed)
        cited: dict[str, dict[Column, papers.Figure]] = {}
        of_column = {(column.dataset, column.metric.name): column for column in self.columns}
        for figure in self.printed:
            column = of_column.get((figure.dataset, figure.metric))
            if whole and (figure.fusion or "none") != fusion:
                continue
            if column and (figure.kge, figure.sampler, figure.without) == (kge, sampler, without):
                cited.setdefault(figure.source, {})[column] = figure
                self.figures.append(figure)
        return [self._row(source, ours, found) for source, found in cited.items()]

    def _row(self, source: str, ours: Row, cited: Mapping[Column, papers.Figure]) -> Row:
        cells = []
        for column, own in zip(self.columns, ours.cells):
            record = {name: own.record[name] for name in ABOUT} | about_column(column)
            record |= {"status": "published", "source": source}
            figure = cited.get(column)
            missing = Cell(record=record | {"status": "missing"})
            cells.append(self._cell(figure, own, column.metric, record) if figure else missing)
        return Row(ours.group, f"published: {source}", tuple(cells), published=True)

    def _cell(self, figure: papers.Figure, own: Cell, metric: Metric, record: dict[str, Any]) -> Cell:
        """The printed figure, ours minus it, and whether that is more than another run of ours might show."""
        record |= {"published": figure.value, "note": figure.note}
        spread = ""
        marks: tuple[str, ...] = ()
        if "mean" in own.record:
            record["ours_minus_published"] = own.record["mean"] - figure.value
            spread = f"({metric.text(record['ours_minus_published'], sign=True)})"
            values = [float(value) for value in own.record["values"].split()]
            if len(values) >= statistics.SPREAD_SEEDS:
                low, high, outside = predicted(figure, values)
                record |= {"prediction_low": low, "prediction_high": high, "outside": outside}
                marks = (OUTSIDE,) if outside else ()
                self.outside |= outside
        printed = self._difference(figure, own)
        if printed is not None:
            least, text = own.record["detectable"], METRICS["mrr"].text
            record |= {"published_difference": printed, "below_detectable": abs(printed) < least}
            if abs(printed) < least:
                marks += (BELOW,)
                where = f"{figure.sampler} ({figure.kge}, {figure.dataset}; {figure.source})"
                self.below.append(f"{where} {text(printed, sign=True)}, ours from {text(least)} on")
        if figure.note and figure.note not in self.footnotes:
            self.footnotes.append(figure.note)
        number = (str(self.footnotes.index(figure.note) + 1),) if figure.note else ()
        return Cell(figure.printed, spread, "", marks + number, record)

    def _difference(self, figure: papers.Figure, own: Cell) -> float | None:
        """From the same source's figure of the row that ours was tested against; None where either is not there."""
        if "detectable" not in own.record:
            return None
        if figure.metric == "difference":
            return figure.value
        baseline = own.record["baseline"].partition(" (")[0]
        where = (figure.source, figure.kge, figure.dataset, figure.metric, baseline)
        others = [f for f in self.printed if (f.source, f.kge, f.dataset, f.metric, f.sampler) == where and not f.without]
        return figure.value - others[0].value if others else None

    def notes(self, runs: Sequence[Run] = ()) -> list[str]:
        """What a reader must know of these rows; `runs` are ours."""
        if not self.figures:
            return ["No published figure fits a row of this table."]
        said = f"{BELOW} Printed difference, and what ours would have seen: {'; '.join(self.below)}."
        return [said] * bool(self.below) + papers.caveats(self.figures, runs)

    def said(self, runs: Sequence[Run] = ()) -> captions.Said:
        """For the caption; `runs` are ours."""
        what = ["Published rows: the figure as printed"] if self.figures else []
        what += ["In brackets: ours minus it"] if self.figures and runs else []
        if any(figure.metric == "difference" for figure in self.figures):
            what.append("Published Δ: computed from the printed MRRs")
        signs = {"-": "No run, or nothing printed"} if self.figures else {}
        signs |= {
            OUTSIDE: f"{OUTSIDE} Outside the 95 % prediction interval of one new run like ours (t over the seeds), widened "
            "by half a unit of the paper's last digit",
            BELOW: f"{BELOW} The printed difference from the baseline is smaller than our test sees with {captions.SURELY}. "
            "Where we find none, that is no contradiction",
        }
        return captions.Said(what, (), signs)


def predicted(figure: papers.Figure, ours: Sequence[float]) -> tuple[float, float, bool]:
    """Where one new run like ours would fall, from and to, and whether the printed figure is outside.

    It is not while its rounding, half a unit of the last digit that the paper prints, may put it inside.
    """
    exponent = Decimal(figure.printed).as_tuple().exponent
    assert isinstance(exponent, int)
    half = 0.5 * 10.0**exponent / (1 if figure.metric == "mr" else 100)
    low, high = statistics.prediction_interval(ours)
    return low, high, not low - half <= figure.value <= high + half


def published_table(
    metrics: Sequence[Metric], where: Mapping[str, Any], first_run: str, printed: Sequence[papers.Figure]
) -> Table:
    """The papers' figures alone, with empty cells for ours, which a command like `first_run` would fill.

    `where` may choose kge, sampler and dataset. Misuse for another filter, and where no paper prints what is asked for.
    """
    names = ("kge", "sampler", "dataset")
    other = [name for name in where if name not in names]
    if other:
        raise Misuse(f"without runs a table of published figures can be filtered by {', '.join(names)}, not by '{other[0]}'")
    chosen: dict[str, list[str]] = {}
    for name in names:
        there = list(dict.fromkeys(str(getattr(figure, name)) for figure in printed))
        wanted = where.get(name, there)
        wanted = wanted.split(",") if isinstance(wanted, str) else [str(value) for value in wanted]
        chosen[name] = [value for value in there if value in wanted]
        if not chosen[name]:
            raise Misuse(f"no paper prints {name}={','.join(wanted)}; there is {', '.join(there)}")
    columns = tuple(Column(dataset, metric) for dataset in chosen["dataset"] for metric in metrics)
    beside = Beside(columns, printed)
    rows: list[Row] = []
    less, fusions = dict.fromkeys(f.without for f in printed), dict.fromkeys(f.fusion or "none" for f in printed)
    for kge, sampler, without, fusion in product(chosen["kge"], chosen["sampler"], less, fusions):
        added = ", ".join(filter(None, (without, f"fusion={fusion}" if fusion != "none" else "")))
        label = f"{sampler} ({added})" if added else sampler
        about = dict.fromkeys(ABOUT, "") | {"model": kge, "row": label, "kge": kge, "sampler": sampler}
        cells = (Cell(record={**about, **about_column(column), "status": "missing", "n": 0}) for column in columns)
        ours = Row(kge, label, tuple(cells))
        below = beside.rows(ours, kge, sampler, without, fusion)
        rows += [ours, *below] if below else []
    if not rows:
        raise Misuse("no paper prints these columns for these rows; choose layout dhns4 or mmrns2, or leave a filter out")
    scaled = ", ".join(metric.header for metric in metrics if metric.scale == 100)
    what = captions.sentences(*beside.said().what, f"{scaled} x100")
    signs = captions.signed(rows, {"-": '"-" No run of ours yet, or nothing printed'})
    caption = Caption(what, f"To run ours, start with `{first_run}`.", signs)
    return Table("Published figures", columns, tuple(rows), caption, tuple(beside.notes()), tuple(beside.footnotes))
