"""A store as a pandas DataFrame, for users: `nsbench.results.load`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nsbench.results.store.reading import read
from nsbench.results.store.run import FIGURES, SETTINGS

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
