"""What a table is made of: metrics and how they print, columns, cells with their full record, rows.

A `Table` holds the finished text of each cell and everything about it unrounded; nsbench.results.writers lay it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

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
        """Rounded half up in decimal: 2.675 at two decimals is 2.68, which binary rounding gets wrong. Zero has no minus."""
        plus = "+" if sign else ""
        if not math.isfinite(value):
            return f"{value:{plus}f}"  # inf, nan
        scaled = Decimal(repr(float(value))) * Decimal(repr(self.scale))
        rounded = scaled.quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP)
        return f"{rounded or abs(rounded):{plus}f}"


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
        Metric("sampler_state", "sampler state MiB", False, 2**-20, 1, "bytes"),
        Metric("end.false_negatives_train", "FN train", None, 100, 2, "fraction"),
        Metric("end.false_negatives_known", "FN known", None, 100, 2, "fraction"),
        Metric("end.false_negatives_world", "FN world", None, 100, 2, "fraction"),
        Metric("start.hardness", "hardness, start", None, 100, 1, "fraction"),
        Metric("middle.hardness", "hardness, middle", None, 100, 1, "fraction"),
        Metric("end.hardness", "hardness, end", None, 100, 1, "fraction"),
        Metric("end.hardness_now", "hardness, own model", None, 100, 1, "fraction"),
        Metric("end.margin_gap", "margin gap", None, 1, 2, "score"),
        Metric("end.active", "active", None, 100, 1, "fraction"),
        Metric("end.type_valid", "type-valid", None, 100, 1, "fraction"),
        Metric("end.unseen", "unseen", None, 100, 1, "fraction"),
        Metric("end.entropy", "entropy", None, 100, 1, "fraction"),
        Metric("end.coverage", "coverage", None, 100, 1, "fraction"),
        Metric("end.distinct", "distinct", None, 100, 1, "fraction"),
        Metric("end.generated_false_negatives_known", "generated: FN known", None, 100, 2, "fraction"),
        Metric("end.generated_false_negatives_world", "generated: FN world", None, 100, 2, "fraction"),
        Metric("end.generated_hardness_now", "generated: hardness", None, 100, 1, "fraction"),
        Metric("end.generated_active", "generated: active", None, 100, 1, "fraction"),
    )
}
DIFFERENCE = Metric("difference", "Δ MRR", None, 100, 2, "fraction")  # from the baseline, or the full method
DIAGNOSTICS = tuple(name for name in METRICS if "." in name)  # moment.figure of nsbench.training.diagnostics


@dataclass(frozen=True)
class Column:
    dataset: str  # empty where the rows are of one dataset each
    metric: Metric

    @property
    def header(self) -> str:
        return self.metric.header + {True: " ↑", False: " ↓", None: ""}[self.metric.higher]


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

    @property
    def legend(self) -> tuple[tuple[str, Style], ...]:
        """What the emphasis means, as (text, style); empty if the table has none."""
        if not any(cell.style for row in self.rows for cell in row.cells):
            return ()
        rest = " of a model's rows go by unrounded means and claim no significance."
        return (" ", ""), ("Best", "best"), (" and ", ""), ("second best", "second"), (rest, "")
