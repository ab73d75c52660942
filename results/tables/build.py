"""From runs to a table: what may stand in one table, how its rows are named, which cells earn a marker.

Rows are samplers (with whatever else differs), in groups by scoring model; columns are metrics, in groups by dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.store import Store
from nsbench.results.tables import ablation, captions, claims, papers
from nsbench.results.tables.beside import Beside, published_table
from nsbench.results.tables.cells import DIAGNOSTICS, METRICS, Column, Metric, Row, Table
from nsbench.results.tables.contrasts import BASELINE, Progress, contrasts
from nsbench.results.tables.grid import Grid
from nsbench.results.tables.labels import cited
from nsbench.results.tables.mixtures import chosen_by, refuse_mixtures
from nsbench.results.tables.rows import emphasised, figure, row_of

FIRST_RUN = "nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y"

LAYOUTS = {
    "dhns4": ("mrr", "hits@1", "hits@3", "hits@10"),
    "mmrns2": ("mrr", "mr", "hits@1", "hits@3", "hits@10"),
    "ablation": ("mrr", "hits@1", "hits@3", "hits@10"),
    "cost": (*store.COST, "sampler_state"),
    "diagnostics": DIAGNOSTICS,
    "claims": ("mrr",),
}


@store.uncollected()
def comparison(
    runs: Store | str | Path | None = None,
    *,
    layout: str = "dhns4",
    metrics: Sequence[str] | None = None,
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
    if layout not in LAYOUTS:
        raise Misuse(f"unknown layout '{layout}'; there are {', '.join(LAYOUTS)}")
    unknown = [name for name in metrics or () if name not in METRICS]
    if unknown:
        raise Misuse(f"unknown metric '{unknown[0]}'; there are {', '.join(METRICS)}")
    if published and layout == "claims":
        raise Misuse("published figures have no place among claims, which rest on tests; leave out --published")
    if metrics and layout == "claims":
        raise Misuse("claims are about MRR; leave the metrics out")
    shown = [METRICS[name] for name in metrics or LAYOUTS[layout]]
    found = runs if isinstance(runs, Store) else store.read(runs)
    skipped = found.skipped
    if not found.runs:
        if published:
            if layout == "ablation":
                return published_table(ablation.with_differences(shown), where or {}, ablation.FIRST_RUN, papers.ablation())
            return published_table(shown, where or {}, FIRST_RUN, papers.figures())
        damaged = f" (unfinished or damaged folders: {len(skipped)})" if skipped else ""
        raise Misuse(f"no complete run in {found.folder}{damaged}; start with `{FIRST_RUN}`")
    where = dict(where or {})
    passing = store.select([*found.runs, *found.begun], where)
    complete, stopped = ([run for run in passing if bool(run.record) is done] for done in (True, False))
    if not complete:
        raise Misuse(f"no complete run passes the filters {where}; ask for at least one value of each")
    if layout == "ablation":
        sampler = ablation.sampler_of(complete, baseline)
        complete, stopped = ([run for run in some if run["sampler"] == sampler] for some in (complete, stopped))
    refuse_mixtures(complete, timed=any(metric.name in store.COST for metric in shown))

    begun = [(run, skipped[run.name]) for run in stopped]
    grid = Grid(complete, begun, chosen_by(where, found.runs, complete))
    if layout == "claims":
        return claims.table(grid, baseline, skipped, progress)
    if layout == "ablation":
        return ablation.table(grid, shown, baseline, published, skipped, progress)
    quality = METRICS["mrr"] in shown
    tested = contrasts(grid, baseline, progress=progress) if quality else {}
    if not quality:
        shown = [m for m in shown if any(figure(run, m) is not None for run in complete)]
        if not shown:
            raise Misuse("none of these runs has diagnostics: they were made with --no-diagnostics, or by objectives alone")
    columns = tuple(Column(dataset, metric) for dataset in grid.datasets for metric in shown)
    beside = Beside(columns, papers.figures() if published else ())
    rows: list[Row] = []
    for group in grid.groups:
        identities = grid.identities(group)
        beneath = cited(identities)
        own = emphasised([row_of(grid, group, identity, columns, tested) for identity in identities])
        for identity, row in zip(identities, own):
            rows.append(row)
            if identity in beneath:
                rows += beside.rows(row, grid.kge[group], dict(identity)["sampler"])
    notes = captions.notes(grid, skipped, any(metric.name in store.METRICS for metric in shown), tested)
    if published:
        notes += beside.notes(grid.runs)
    caption = captions.caption(grid, shown, captions.testing(tested, baseline) if quality else None)
    return Table(_title(shown), columns, tuple(rows), caption, tuple(notes), tuple(beside.footnotes))


def _title(shown: Sequence[Metric]) -> str:
    titles = {LAYOUTS["cost"]: "Cost of a run", DIAGNOSTICS: "What the samplers draw"}
    return next((t for names, t in titles.items() if all(m.name in names for m in shown)), "Filtered link prediction")
