"""Parts of the test set: test MRR by relation category, for entities seen and unseen in train, and for twins and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

from nsbench.errors import Misuse
from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PARTS = {"category": "relation category", "seen": "entities in train", "twin": "pair in train by another relation"}
FEW_QUERIES = 100  # two for each triple


def make(asked: Asked) -> Iterator[Plot]:
    """Test MRR of each run in each part, one plot for each dataset."""
    shown = Shown(asked.runs)
    for dataset in shown.datasets:
        rows = []
        there = list(shown.of(dataset))
        lacking = sum("twin" not in run.record.get("breakdown", {}) for _, run in there)  # runs of earlier versions
        left_out = f" Not by twins: {lacking} of {len(there)} runs do not record them." if lacking else ""
        for (about, run), by in product(there, [by for by in PARTS if by != "twin" or not lacking]):
            parts = run.record.get("breakdown", {}).get(by)
            if not parts:
                raise Misuse(f"{run.name} has no figures by {by}; leave it out with a filter")
            for part, found in parts.items():
                rows.append(about | {"by": by, "part": part, "queries": found["queries"], "mrr": found["mrr"]})
        yield shown.plot(
            f"relations-{dataset}",
            [dataset],
            "Test MRR by category of the relation (heads per tail and tails per head in train, threshold 1.5), and of test "
            "triples with both entities in train or not, and joined there by another relation (twin) or not; below, the "
            "number of queries, two for each triple. Bars: 95 % t interval over seeds, from three seeds on. Pale: fewer "
            f"than {FEW_QUERIES} queries.{left_out}",
            rows,
            draw,
        )


def draw(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """A line of panels for each model, a panel for each kind of part."""
    from matplotlib.patches import Patch

    models, dataset, there = data["model"].unique(), data["dataset"].iloc[0], set(data["row"])
    kinds = list(data["by"].unique())
    looks = {row: drawing.bar(i) for i, row in enumerate(labels) if row in there}
    figure, axes = drawing.panels(
        width,
        [f"{model}, {dataset}" for model in models for _ in kinds],
        [Patch(label=row, **look) for row, look in looks.items()],
        "",  # each its own
        "test MRR ×100",
        columns=len(kinds) if width > drawing.ONE_COLUMN else 1,
        ratios=[data[data["by"] == by]["part"].nunique() for by in kinds],
        height=1.6,
        handle=2,
    )
    thick = 0.84 / len(looks)
    for ax, (model, by) in zip(axes, product(models, kinds)):
        panel = data[(data["model"] == model) & (data["by"] == by)].assign(mrr=lambda panel: 100 * panel["mrr"])
        parts = list(panel["part"].unique())
        rows = [row for row in looks if (panel["row"] == row).any()]  # of other models' rows no gap
        for (place, row), (i, part) in product(enumerate(rows), enumerate(parts)):
            runs = panel[(panel["row"] == row) & (panel["part"] == part)]
            if runs.empty:
                continue
            at, mean, bars = i + (place - (len(rows) - 1) / 2) * thick, runs["mrr"].mean(), drawing.half(runs["mrr"])
            pale = runs["queries"].iloc[0] < FEW_QUERIES
            ax.bar(at, mean, thick, label=row, alpha=0.35 if pale else 1, **looks[row])
            ax.errorbar(at, mean, yerr=bars, fmt="none", ecolor="black", elinewidth=0.7, capsize=1)
        queries = panel.groupby("part")["queries"].first()
        ax.set_xticks(range(len(parts)), [f"{part}\nn = {queries[part]:,}" for part in parts])
        ax.tick_params(axis="x", length=0)
        ax.grid(False, axis="x")
        ax.set_ylim(bottom=0)
        ax.set_xlabel(PARTS[by])
    return figure


KINDS = (Kind("relations", "test MRR by relation category, entities seen and unseen in train, and twins", make, place=6),)
