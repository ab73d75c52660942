"""Quality and what it costs: test MRR against seconds of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def make(asked: Asked) -> Iterator[Plot]:
    """Test MRR and seconds of training of each run, one plot for each dataset."""
    shown = Shown(asked.runs, timed=True)
    for dataset in shown.datasets:
        yield shown.plot(
            f"cost-{dataset}",
            [dataset],
            "Test MRR against seconds of training, validation excluded (log scale). Markers: means over seeds; upright "
            "bars: 95 % t interval over seeds, from three seeds on; level bars: quickest and slowest seed. Filled, on the "
            "grey line: no other row is both better and quicker.",
            [about | {"seconds": run["train_seconds"], "mrr": run["mrr"]} for about, run in shown.of(dataset)],
            draw,
        )


def draw(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """A panel for each model; a grey line joins what nothing dominates."""
    axes, dominated = ("training time (s)", "test MRR ×100"), {"dominated": "none"}
    figure, panels = drawing.models(data, labels, width, *axes, grey=dominated)
    for ax, panel in panels:
        means = panel.groupby("row", sort=False)[["seconds", "mrr"]].mean()
        best = front(list(means.itertuples(index=False, name=None)))
        for row, look, runs in drawing.rows(panel, labels):
            x, y = means.loc[row]
            bars = {"xerr": [[x - runs["seconds"].min()], [runs["seconds"].max() - x]], "yerr": drawing.half(runs["mrr"])}
            face = look["color"] if (x, y) in best else "white"
            drawing.mark(ax, x, y, look, **bars, markersize=5, markerfacecolor=face, label=row)
        ax.step(*zip(*best), where="post", color="#AAAAAA", linewidth=1.8, zorder=0, label="front")
        drawing.logarithmic(ax)
        ax.margins(x=0.08, y=0.1)
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, quality) that no other one beats in both, or in one while equal in the other; by cost."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


KINDS = (Kind("cost", "test MRR against seconds of training", make, place=4),)
