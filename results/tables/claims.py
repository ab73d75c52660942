"""What may be claimed, one line for each contrast with a baseline: how large, how sure, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.special import stdtr

from nsbench.errors import Misuse
from nsbench.results.stats import statistics
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.store import Run
from nsbench.results.tables import captions
from nsbench.results.tables.cells import DIFFERENCE, METRICS, Cell, Column, Metric, Row, Table
from nsbench.results.tables.contrasts import EQUAL, MARKS, Contrast, Progress, baseline_row, contrasts
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.rows import about_column, about_row, absent

INTERVAL = Metric("interval", "95 % interval", None, 100, 2, "fraction")
DRAWN = Metric("bootstrap", "bootstrap", None, 100, 2, "fraction")
P = Metric("p_holm", "p (Holm)", None, 1, 4, "probability")
CLIFF = Metric("cliffs_delta", "Cliff's δ", None, 1, 2, "")
IN_ROPE = Metric("p_rope", "P(equal)", None, 1, 2, "probability")
VERDICT = Metric("verdict", "verdict", None, 1, 0, "")
SEEN = Metric("seen_verdict", "seen entities only", None, 1, 0, "")
COLUMNS = tuple(Column("", metric) for metric in (DIFFERENCE, INTERVAL, DRAWN, P, CLIFF, IN_ROPE, VERDICT, SEEN))


def table(grid: Grid, baseline: str, skipped: Mapping[str, str], progress: Progress | None = None) -> Table:
    """Every cell of the grid that has a baseline, tested or not, with the verdict that its test allows."""
    tested = contrasts(grid, baseline, bootstrap=True, progress=progress)
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
    words = captions.claimed(tested, baseline)
    caption = captions.caption(grid, [METRICS["mrr"]], words, means=False)
    notes = captions.notes(grid, skipped, True, tested)
    return Table("What may be claimed", COLUMNS, tuple(rows), caption, tuple(notes))


def _row(grid: Grid, key: Key, theirs: list[Run], baseline: str, contrast: Contrast | None) -> Row:
    group, identity, dataset = key
    runs = grid.cells[key]
    figures = _figures([run["mrr"] for run in runs], [run["mrr"] for run in theirs], contrast)
    record = about_row(grid, group, identity) | {"dataset": dataset, "split": runs[0]["split"], "n": len(runs)}
    record |= {"baseline": baseline, "status": "ok", "converged": all(run["converged"] for run in [*runs, *theirs])}
    record |= contrast.record if contrast else {"verdict": "not testable"}
    record |= {name: figures[name] for name in ("difference", "cliffs_delta", "p_rope") if name in figures}
    texts = _texts(figures, contrast)
    if not record["converged"]:
        texts[VERDICT] = replace(texts[VERDICT], spread="at this budget")
    cells = (replace(texts.get(column.metric, Cell()), record=about_column(column) | record) for column in COLUMNS)
    return Row(f"{group}, {dataset}", f"{grid.labels[identity]} against {baseline}", tuple(cells))


def _failed(grid: Grid, key: Key) -> Row:
    """Of runs that all came to no result."""
    group, identity, dataset = key
    cell = absent(grid, key)
    record = {**about_row(grid, group, identity), "verdict": "not testable", **cell.record}
    cells = (
        Cell(cell.value if each.metric == VERDICT else "-", record={**about_column(each), **record, "dataset": dataset})
        for each in COLUMNS
    )
    return Row(f"{group}, {dataset}", grid.labels[identity], tuple(cells))


def _figures(ours: list[float], theirs: list[float], contrast: Contrast | None) -> dict[str, float]:
    """The difference; with a test also Cliff's delta over seeds, and the mass of the difference's t within the rope."""
    if contrast is None:
        return {"difference": float(np.mean(ours) - np.mean(theirs))}
    from nsbench.results.stats.effects import superiority  # loads the whole of scipy.stats

    return {
        "difference": contrast.test.difference,
        "cliffs_delta": superiority(ours, theirs).delta,
        "p_rope": p_rope(contrast.test),
    }


def p_rope(test: statistics.TwoWayT, rope: float = ROPE) -> float:
    """Mass within ±rope of the t distribution around the difference: a posterior under a flat prior."""
    if test.standard_error == 0:
        return float(abs(test.difference) <= rope)
    ends = ((end - test.difference) / test.standard_error for end in (-rope, rope))
    low, high = (float(stdtr(test.df, end)) for end in ends)
    return high - low


def _texts(figures: Mapping[str, float], contrast: Contrast | None) -> dict[Metric, Cell]:
    value = DIFFERENCE.text(figures["difference"], sign=True)
    if contrast is None:
        return {DIFFERENCE: Cell(value), VERDICT: Cell("not testable"), SEEN: Cell("not testable")}
    seen = contrast.seen.verdict.word if contrast.seen else "not recorded"
    return {
        DIFFERENCE: Cell(value),
        INTERVAL: Cell(_interval(contrast.test.interval)),
        DRAWN: Cell(_interval(contrast.drawn) if contrast.drawn else "-"),
        P: Cell(p_text(contrast.p_holm)),
        CLIFF: Cell(CLIFF.text(figures["cliffs_delta"], sign=True)),
        IN_ROPE: Cell(IN_ROPE.text(figures["p_rope"])),
        VERDICT: Cell(contrast.verdict.word, marks=_marks(contrast)),
        SEEN: Cell(seen, "(changed)" if contrast.changed else "", marks=_marks(contrast.seen) if contrast.seen else ()),
    }


def _interval(ends: tuple[float, float]) -> str:
    low, high = (INTERVAL.text(end, sign=True) for end in ends)
    return f"[{low}, {high}]"


def _marks(contrast: Contrast) -> tuple[str, ...]:
    """The sign of near-equality, where the word does not say it already."""
    word, negligible = contrast.verdict
    return (EQUAL,) if negligible and word in MARKS else ()


def p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else P.text(p)
