"""From a store to a table: which runs stand in it, and in which layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse
from nsbench.identity import plugin_label
from nsbench.results import store
from nsbench.results.store import Store
from nsbench.results.tables import ablation
from nsbench.results.tables.beside import published_table
from nsbench.results.tables.cells import Table
from nsbench.results.tables.contrasts import BASELINE, Progress
from nsbench.results.tables.grid import Grid
from nsbench.results.tables.layouts import LAYOUTS, Asked, Layout
from nsbench.results.tables.metrics import METRICS, Metric
from nsbench.results.tables.mixtures import chosen_by, refuse_mixtures

FIRST_RUN = "nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y"


def comparison(
    runs: Store | str | Path | None = None,
    *,
    layout: str = "dhns4",
    baseline: str = BASELINE,
    published: bool = False,
    where: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Table:
    """A table of a store that was read, or is to be read; None: NSBENCH_RUNS or ./runs.

    `baseline` is the sampler, or a row's label, that the others are tested against; of an ablation, the full method.
    `where` are filters as in nsbench.results.store.select; `progress` hears (done, total) of the tests. Misuse, naming a
    filter, if the runs cannot stand in one table.
    """
    where, baseline = dict(where or {}), plugin_label(baseline)
    laid = _layout(layout, published)
    shown = [METRICS[name] for name in laid.metrics]
    printed = laid.published() if published and laid.published else None
    found = runs if isinstance(runs, Store) else store.read(runs)
    if not found.runs:
        return _without_runs(found, laid, shown, printed, where)
    passing = store.select([*found.runs, *found.begun], where)
    complete, stopped = ([run for run in passing if bool(run.record) is done] for done in (True, False))
    if not complete:
        raise Misuse(f"no complete run passes the filters {where}; ask for at least one value of each")
    if laid.one_sampler:
        sampler = ablation.sampler_of(complete, baseline)
        complete, stopped = ([run for run in some if run["sampler"] == sampler] for some in (complete, stopped))
    refuse_mixtures(complete, timed=any(metric.part == "cost" for metric in shown))

    begun = [(run, found.skipped[run.name]) for run in stopped]
    grid = Grid(complete, begun, chosen_by(where, found.runs, complete))
    return laid.table(Asked(grid, shown, laid.title, baseline, printed, found.skipped, progress))


def _layout(name: str, published: bool) -> Layout:
    if name not in LAYOUTS:
        raise Misuse(f"unknown layout '{name}'; there are {', '.join(LAYOUTS)}")
    if published and LAYOUTS[name].published is None:
        raise Misuse(f"papers print nothing that fits the layout {name}; leave out --published")
    return LAYOUTS[name]


def _without_runs(found: Store, laid: Layout, shown: Sequence[Metric], printed: Any, where: Mapping[str, Any]) -> Table:
    """The papers' figures alone, where they were asked for."""
    if printed is not None:
        if laid.one_sampler:
            return published_table(ablation.with_differences(shown), where, ablation.FIRST_RUN, printed)
        return published_table(shown, where, FIRST_RUN, printed)
    damaged = f" (unfinished or damaged folders: {len(found.skipped)})" if found.skipped else ""
    raise Misuse(f"no complete run in {found.folder}{damaged}; start with `{FIRST_RUN}`")
