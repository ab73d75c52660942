"""Published figures: our mean test MRR beside each MRR that a paper prints for the same sampler, model and dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown
from nsbench.results.stats import statistics
from nsbench.results.tables import papers
from nsbench.results.tables.beside import predicted
from nsbench.results.tables.labels import cited

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FILLS = ("full", "none", "left", "right", "top", "bottom")  # of the models' markers


def make(asked: Asked) -> Iterator[Plot]:
    """One plot, of all datasets."""
    shown = Shown(asked.runs)
    rows: list[dict[str, Any]] = []
    beside: list[papers.Figure] = []
    for (group, identity, dataset), cell in shown.in_order():
        if identity not in cited(shown.present[group, dataset], shown.called):
            continue
        ours = [run["mrr"] for run in cell]
        where = ("mrr", cell[0]["sampler"], cell[0]["kge"], dataset)
        for figure in papers.figures():
            if (figure.metric, figure.sampler, figure.kge, figure.dataset) != where:
                continue
            several = len(ours) >= statistics.SPREAD_SEEDS
            low, high, outside = predicted(figure, ours) if several else (nan, nan, nan)
            row: dict[str, Any] = {"model": group, "dataset": dataset, "row": shown.labels[identity]}
            row |= {
                "source": figure.source,
                "published": figure.value,
                "mean": float(np.mean(ours)),
                "low": low,
                "high": high,
            }
            rows.append(row | {"outside": outside, "n": len(ours), "note": figure.note})
            beside.append(figure)
    if not rows:
        raise Misuse("no paper prints an MRR for these samplers, models and datasets; see nsbench table --published")
    notes = [f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys(figure.note for figure in beside) if note]
    caption = (
        "Our mean test MRR against the published one; on the diagonal they agree. Bars: where one more run of ours would "
        "fall with 95 % chance, from three seeds on; thin lines join what two papers print for one cell."
    )
    words = [caption, *papers.caveats(beside, asked.runs), *notes]
    yield shown.plot("published", shown.datasets, " ".join(words), rows, draw)


def draw(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """A panel for each dataset, a marker for each row, filled by model."""
    from matplotlib.ticker import MaxNLocator

    fills = {model: FILLS[i % len(FILLS)] for i, model in enumerate(data["model"].unique())}
    names = ("published test MRR ×100", "our test MRR ×100")
    handles = drawing.handles(data, labels, fills)
    figure, axes = drawing.panels(width, data["dataset"].unique(), handles, *names, height=2.3, handle=1.2)
    for ax, (_, panel) in zip(axes, data.groupby("dataset", sort=False)):
        for (model, row), cell in panel.groupby(["model", "row"], sort=False):
            look, how = (
                drawing.look(labels.index(row)),
                {"fillstyle": fills[model], "markersize": 4.5, "markeredgewidth": 0.8},
            )
            x, y = 100 * cell["published"].to_numpy(), 100 * cell["mean"].to_numpy()
            if len(set(x)) > 1:
                ax.plot([x.min(), x.max()], [y[0], y[0]], color=look["color"], linewidth=0.6, zorder=1)
            bars = 100 * (cell["high"] - cell["mean"]).to_numpy()
            drawing.mark(ax, x, y, look, yerr=None if np.isnan(bars).any() else bars, label=f"{model}: {row}", **how)
        low = min(ax.get_xlim()[0], ax.get_ylim()[0])
        high = max(ax.get_xlim()[1], ax.get_ylim()[1])
        ax.plot([low, high], [low, high], color="#999999", linewidth=0.8, zorder=0, label="equal")
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    return figure


KINDS = (Kind("published", "our test MRR against the papers'", make, place=7),)
