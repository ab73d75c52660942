"""The layouts, each declared once: the command line, the report and the writers read what stands here.

A new layout is one entry; only where no `table` of the modules here makes what it shows, one module more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from nsbench.results.tables import papers
from nsbench.results.tables.cells import Table
from nsbench.results.tables.contrasts import Progress
from nsbench.results.tables.grid import Grid
from nsbench.results.tables.metrics import DIAGNOSTICS, METRICS, Metric


@dataclass(frozen=True)
class Layout:
    name: str
    metrics: tuple[str, ...]  # its columns, for each dataset
    title: str  # of the table
    section: str  # where the report has it; empty: it has not, for without published figures it shows nothing of its own
    help: str
    maker: str = "means"  # the module of nsbench.results.tables whose `table` makes it
    published: Callable[[], Sequence[papers.Figure]] | None = None  # the papers' figures that may stand in it
    beside: bool = False  # does the report show them?
    one_sampler: bool = False  # of the runs of one sampler, which the baseline names?

    def table(self, asked: Asked) -> Table:
        return import_module(f"nsbench.results.tables.{self.maker}").table(asked)


@dataclass(frozen=True)
class Asked:
    """What a layout makes its table of: `shown` are the columns, `skipped` the folders left out, with the reasons."""

    grid: Grid
    shown: Sequence[Metric]
    title: str
    baseline: str
    printed: Sequence[papers.Figure] | None  # published figures; None: they were not asked for
    skipped: Mapping[str, str]
    progress: Progress | None = None


QUALITY = ("mrr", "hits@1", "hits@3", "hits@10")
COST = tuple(name for name, metric in METRICS.items() if metric.part == "cost")
RANKS = "Filtered link prediction"

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("dhns4", QUALITY, RANKS, "Quality", "MRR and Hits@1, 3, 10", published=papers.figures),
        Layout(
            "dhns2",
            QUALITY,
            RANKS,
            "",
            "as dhns4, beside the whole models of tables 2 and 3 of dhns2025",
            published=papers.models,
        ),
        Layout("claims", ("mrr",), "What may be claimed", "Tests", "a verdict in words for each row", "claims"),
        Layout(
            "mmrns2",
            ("mrr", "mr", *QUALITY[1:]),
            RANKS,
            "Quality beside published figures",
            "as dhns4, with the mean rank",
            published=papers.figures,
            beside=True,
        ),
        Layout(
            "ablation",
            QUALITY,
            "Ablation",
            "Ablation",
            "the sampler --baseline in full and without each of its parts",
            "ablation",
            published=papers.ablation,
            beside=True,
            one_sampler=True,
        ),
        Layout("cost", COST, "Cost of a run", "Cost", "seconds and memory"),
        Layout(
            "diagnostics",
            DIAGNOSTICS,
            "What the samplers draw",
            "What the samplers draw",
            "false negatives, hardness and variety of what the samplers draw",
        ),
    )
}
