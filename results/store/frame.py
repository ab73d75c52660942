"""A store as a pandas DataFrame, for users: `nsbench.results.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbench.results.store import selection
from nsbench.results.store.reading import read
from nsbench.results.store.run import FIGURES, SETTINGS, Run

if TYPE_CHECKING:
    import pandas as pd


def load(folder: str | Path | None = None) -> pd.DataFrame:
    """One row per complete run, by name; no folder given: NSBENCH_RUNS or ./runs. Figures are fractions.

    `config` and `result` are what config.json and result.json hold. `frame.attrs["skipped"]` maps each unfinished or
    damaged run to the reason, `frame.attrs["folder"]` is the store. A store that does not exist is an empty one.
    """
    import pandas as pd

    store = read(folder)
    rows = [{"path": run.path, **run.values, "config": run.config, "result": run.record} for run in store.runs]
    frame = pd.DataFrame(rows, columns=["path", *SETTINGS, *FIGURES, "config", "result"])
    frame.attrs.update(folder=str(store.folder), skipped=store.skipped)
    return frame


# For the modules that still pass frames about; they go with the last of them.


def records(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    """The rows, by column."""
    columns = {str(name): frame[name].tolist() for name in frame}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def begun(frame: pd.DataFrame) -> pd.DataFrame:
    """The skipped folders that have a config.json."""
    import pandas as pd

    rows = [{"path": run.path, **run.values, "config": run.config} for run in read(frame.attrs["folder"]).begun]
    return pd.DataFrame(rows, columns=["path", *SETTINGS, *FIGURES, "config", "result"], dtype=object)


def select(runs: Any, filters: Mapping[str, Any]) -> Any:
    """selection.select, of a frame as well."""
    if isinstance(runs, list):
        return selection.select(runs, filters)
    rows = [Run(row["path"], row["config"], {}, row) for row in records(runs)]
    places = {id(run): i for i, run in enumerate(rows)}
    return runs.iloc[[places[id(run)] for run in selection.select(rows, filters)]]
