"""nsbench from Python: `nsbench.run` makes runs and `nsbench.table` compares them, as the commands of these names do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbench.campaign import plan
from nsbench.files import store_folder
from nsbench.runs.runner import Notify, RunOptions, unheard

if TYPE_CHECKING:
    from nsbench.results.tables.cells import Table


def run(
    sampler: str = "uniform",
    kge: str = "transe",
    dataset: str = "mkg_y",
    *,
    seed: int = 0,
    seeds: int | Iterable[int] | None = None,
    protocol: str = "auto",
    fusion: str = "auto",
    split: str | None = None,
    features: str = "auto",
    options: Mapping[str, Any] | None = None,
    runs: str | Path | None = None,
    device: str = "auto",
    save_model: bool = False,
    notify: Notify = unheard,
) -> Any:
    """Train, select and test one configuration, or return what is already there.

    Returns a nsbench.runs.result.Result for `seed`. With `seeds`, a list of them: `seeds=5` are 0 to 4, `seeds=[0, 3]` those
    two. `options` are what --set takes: {"protocol.steps": 100, "sampler.variant": "paper"}. `runs` is the run store, by
    default NSBENCH_RUNS or ./runs. Raises nsbench.errors.Misuse for a configuration that cannot work, and RunFailed for a
    run that could not be carried to its end.
    """
    plan.forget()
    wanted = [seed] if seeds is None else range(seeds) if isinstance(seeds, int) else seeds
    settings = [f"{key}={value}" for key, value in (options or {}).items()]
    shared: dict[str, Any] = {"fusion": fusion, "split": split, "features": features, "settings": settings}
    store = store_folder(runs)
    configs = plan.plan([sampler], [kge], [dataset], wanted, protocol=protocol, device=device, store=store, **shared)
    how = RunOptions(device=device, save_model=save_model)
    results = [plan.carry_out(config, store, how, notify) for config in configs]
    return results[0] if seeds is None else results


def table(
    runs: str | Path | None = None,
    layout: str = "dhns4",
    *,
    where: Mapping[str, Any] | None = None,
    published: bool = False,
    baseline: str = "uniform",
) -> Table:
    """The runs of a store (by default NSBENCH_RUNS or ./runs) as a table with its tests; `nsbench table --help` says more.

    `where` keeps some of the runs: {"dataset": "mkg_y", "seed": [0, 1]}. Raises nsbench.errors.Misuse where the runs cannot
    stand in one table, and names the filter that would do.
    """
    from nsbench.results import tables
    from nsbench.results.writers.html import Shown

    made = tables.comparison(runs, layout=layout, where=where, published=published, baseline=baseline)
    return Shown(**vars(made))
