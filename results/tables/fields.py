"""What is recorded of a cell, each declared once: its field of the csv, its value, where HTML and the claims show it.

A statistic of a test is one entry with `of`; what else stands in a record is written by who makes the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from nsbench.results.stats.verdicts import ROPE
from nsbench.results.store.scores import PARTS
from nsbench.results.tables.cells import Cell
from nsbench.results.tables.metrics import DIFFERENCE, Metric

if TYPE_CHECKING:
    from nsbench.results.stats.statistics import TwoWayT
    from nsbench.results.tables.contrasts import Contrast


class Shown(NamedTuple):
    """A column of the claims: `cell` is made of the contrast."""

    place: int
    metric: Metric
    cell: Callable[[Contrast], Cell]


class Field(NamedTuple):
    name: str
    tooltip: str = ""  # how HTML's tooltips call it; empty: they leave it out
    of: Callable[[Contrast], Any] | None = None  # None where the test does not give it
    column: Shown | None = None


INTERVAL = Metric("interval", "95 % interval", None, 100, 2, "fraction")
DETECTABLE = Metric("detectable", "would see", None, 100, 2, "fraction")
DRAWN = Metric("bootstrap", "bootstrap", None, 100, 2, "fraction")
P = Metric("p_holm", "p (Holm)", None, 1, 4, "probability")
CLIFF = Metric("cliffs_delta", "Cliff's δ", None, 1, 2, "")
IN_ROPE = Metric("p_rope", "P(equal)", None, 1, 2, "probability")
VERDICT = Metric("verdict", "verdict", None, 1, 0, "")


def p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else P.text(p)


def p_rope(test: TwoWayT) -> float:
    """Mass within ±ROPE of the t distribution around the difference: a posterior under a flat prior."""
    if test.standard_error == 0:
        return float(abs(test.difference) <= ROPE)
    ends = ((end - test.difference) / test.standard_error for end in (-ROPE, ROPE))
    low, high = (float(stdtr(test.df, end)) for end in ends)
    return high - low


def cliffs_delta(contrast: Contrast) -> float | None:
    """How often a run beats one of the baseline, minus how often it loses; None where the arms are not kept."""
    if contrast.arms is None:
        return None
    ours, theirs = (np.round(arm, 12) for arm in contrast.arms)
    return float(np.sign(np.subtract.outer(ours, theirs)).mean())


def interval_text(ends: tuple[float, float]) -> str:
    low, high = (INTERVAL.text(end, sign=True) for end in ends)
    return f"[{low}, {high}]"


def _repeated(part: str, place: int) -> tuple[Field, ...]:
    """The test on a part of the triples."""

    def again(contrast: Contrast) -> Contrast | None:
        return contrast.again.get(part)

    def cell(contrast: Contrast) -> Cell:
        found = again(contrast)
        return (
            Cell(found.verdict.word, "(changed)" * contrast.changed(part), "", found.near) if found else Cell("not recorded")
        )

    shown = Shown(place, Metric(f"{part}_verdict", PARTS[part].short, None, 1, 0, ""), cell)
    return (
        Field(f"{part}_difference", of=lambda c: (found := again(c)) and found.test.difference),
        Field(f"{part}_p_holm", of=lambda c: (found := again(c)) and found.p_holm),
        Field(f"{part}_verdict", of=lambda c: (found := again(c)) and found.verdict.word, column=shown),
    )


FIELDS = (
    *map(Field, ("model", "row", "kge", "sampler", "variant", "fusion", "features", "options", "own_loss")),
    Field("reads", "negatives come from"),
    *map(Field, ("dataset", "split", "metric", "unit", "better", "status", "failed", "reason", "shown", "best", "second")),
    Field("n", "seeds"),
    Field("seeds"),
    Field("values", "values"),
    Field("mean", "mean"),
    Field("sd", "sd over seeds"),
    *map(Field, ("low", "high", "converged")),
    Field("dead", "dead generator"),
    Field("baseline", "against", lambda c: c.baseline),
    Field(
        "difference",
        "difference",
        lambda c: c.test.difference,
        Shown(1, DIFFERENCE, lambda c: Cell(DIFFERENCE.text(c.test.difference, sign=True))),
    ),
    Field(
        "difference_low",
        of=lambda c: c.test.interval[0],
        column=Shown(2, INTERVAL, lambda c: Cell(interval_text(c.test.interval))),
    ),
    Field("difference_high", of=lambda c: c.test.interval[1]),
    Field(
        "detectable",
        "would see",
        lambda c: c.detectable,
        Shown(3, DETECTABLE, lambda c: Cell(DETECTABLE.text(c.detectable))),
    ),
    Field("standard_error", of=lambda c: c.test.standard_error),
    Field("df", of=lambda c: c.test.df),
    Field("p", "p", lambda c: c.test.p),
    Field("p_holm", "p (Holm)", lambda c: c.p_holm, Shown(5, P, lambda c: Cell(p_text(c.p_holm)))),
    Field("family", of=lambda c: c.family),
    Field("inflation", of=lambda c: c.test.inflation),
    Field(
        "bootstrap_low",
        of=lambda c: c.drawn and c.drawn[0],
        column=Shown(6, DRAWN, lambda c: Cell(interval_text(c.drawn) if c.drawn else "-")),
    ),
    Field("bootstrap_high", of=lambda c: c.drawn and c.drawn[1]),
    Field("cliffs_delta", "", cliffs_delta, Shown(7, CLIFF, lambda c: Cell(CLIFF.text(cliffs_delta(c) or 0.0, sign=True)))),
    Field(
        "p_rope",
        of=lambda c: p_rope(c.test) if c.arms else None,
        column=Shown(8, IN_ROPE, lambda c: Cell(IN_ROPE.text(p_rope(c.test)))),
    ),
    Field(
        "verdict",
        "verdict",
        lambda c: c.verdict.word,
        Shown(4, VERDICT, lambda c: Cell(c.verdict.word, marks=c.near)),
    ),
    *(field for place, part in enumerate(PARTS, start=9) for field in _repeated(part, place)),
    Field("source", "source"),
    Field("published", "published"),
    Field("ours_minus_published", "ours - published"),
    *map(Field, ("prediction_low", "prediction_high", "outside")),
    Field("published_difference", "published difference"),
    Field("below_detectable"),
    Field("note", "note"),
)
COLUMNS: dict[str, Shown] = dict(
    sorted(((field.name, field.column) for field in FIELDS if field.column), key=lambda pair: pair[1].place)
)  # of the claims, by field


def record(contrast: Contrast) -> dict[str, Any]:
    """The figures of a test, unrounded, for csv."""
    found = {field.name: field.of(contrast) for field in FIELDS if field.of}
    return {name: value for name, value in found.items() if value is not None}
