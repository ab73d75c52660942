"""Verdicts as a matrix: one line a row, one column a model on a dataset, colour and sign by verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nsbench.results.plots import drawing
from nsbench.results.plots.forest import rows_of, testing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.tables.claims import UNTESTED
from nsbench.results.tables.contrasts import EQUAL, MARKS
from nsbench.results.tables.metrics import DIFFERENCE, METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LOOKS: dict[str, dict[str, Any]] = {  # of a verdict: apart in grey by how dark they are, and by the sign
    "better": {"facecolor": "#005A8F"},
    "worse": {"facecolor": "#F0A050"},
    "practically equal": {"facecolor": "#D9D9D9"},
    "inconclusive": {"facecolor": "#FFFFFF"},
    UNTESTED: {"facecolor": "#FFFFFF", "hatch": "/////"},
}
SIGNS = MARKS | {"practically equal": EQUAL, "inconclusive": "○"}
LINE = 0.2  # inches
WITH_FIGURES = 0.56  # inches that a cell needs for more than a sign


def make(asked: Asked) -> Iterator[Plot]:
    """One plot, of all datasets."""
    shown = Shown(asked.runs, begun=asked.begun)
    rows = rows_of(shown, asked.baseline)
    columns = [(model, dataset) for dataset in shown.datasets for model in shown.groups]
    columns = [column for column in columns if any((row["model"], row["dataset"]) == column for row in rows)]
    caption = (
        f"Verdicts on each row against {asked.baseline}, by model and dataset, with the difference of MRR in points. "
        f"{testing(rows)} {EQUAL} practically equal: the 95 % interval lies within ±{METRICS['mrr'].text(ROPE)}. "
        "Inconclusive is no evidence of equality. Empty: no run of the row or of its baseline."
    )
    yield shown.plot("verdicts", shown.datasets, caption, rows, partial(draw, columns=columns))


def draw(data: pd.DataFrame, labels: Sequence[str], width: float, columns: Sequence[tuple[str, str]]) -> Figure:
    """A cell for each row and column that have runs; with its difference where there is room."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    there = [label for label in labels if (data["row"] == label).any()]
    names = drawing.wrapped(there, 0.36 * width)
    pitch = LINE + 0.1 * max(name.count("\n") for name in names)
    figure = Figure(figsize=(width, 1))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    texts = [ax.text(0, y, name, va="center") for y, name in enumerate(names)]
    left = drawing.widest(texts) + 0.12
    cell = min(0.95, (width - left - 0.05) / len(columns))  # inches
    upright = max(len(model) for model, _ in columns) * 0.06 > cell
    heads = [
        ax.text(x + 0.5, -0.7, model, ha="center", va="bottom", rotation=90 * upright)
        for x, (model, _) in enumerate(columns)
    ]
    above = 0.24 + (drawing.widest(heads, "height") if upright else 0.12)
    for dataset in dict.fromkeys(dataset for _, dataset in columns):
        at = [x for x, column in enumerate(columns) if column[1] == dataset]
        y = -0.5 - above / pitch + 0.11 / pitch
        ax.text((at[0] + at[-1] + 1) / 2, y, dataset, ha="center", va="center", weight="bold")
        if at[0]:
            ax.plot(
                [at[0]] * 2, [-0.5 - above / pitch, len(there) - 0.5], color="black", linewidth=0.8, zorder=3, clip_on=False
            )
    for row in data.to_dict("records"):
        x, y, word = columns.index((row["model"], row["dataset"])), there.index(row["row"]), row["verdict"]
        box = Rectangle(
            (x, y - 0.5), 1, 1, edgecolor="#777777", linewidth=0.5, label=f"{row['model']}, {row['dataset']}: {row['row']}"
        )
        ax.add_patch(box)
        box.set(**LOOKS[word])
        figures = DIFFERENCE.text(row["difference"], sign=True).replace("-", "−") if cell >= WITH_FIGURES else ""
        said = " ".join(filter(None, [row["mark"] or SIGNS[word], figures])) if word != UNTESTED else ""
        ax.text(x + 0.5, y, said, ha="center", va="center", color="white" if word == "better" else "black")
    found = [word for word in LOOKS if (data["verdict"] == word).any()]
    entries = [
        Patch(edgecolor="#777777", linewidth=0.5, label=f"{SIGNS.get(word, '')} {word}".strip(), **LOOKS[word])
        for word in found
    ]
    across = len(entries) if width > drawing.ONE_COLUMN else 2
    below = 0.12 + 0.16 * -(-len(entries) // across)
    height = above + pitch * len(there) + below
    figure.set_size_inches(width, height)
    ax.set(xlim=(0, len(columns)), ylim=(len(there) - 0.5, -0.5))
    start = left + (width - left - 0.05 - cell * len(columns)) / 2
    ax.set_position((start / width, below / height, cell * len(columns) / width, pitch * len(there) / height))
    for text in texts:
        text.set_x((0.04 - left) / cell)
    figure.legend(handles=entries, loc="lower center", ncols=across, handlelength=1.4)
    return figure


KINDS = (Kind("verdicts", "better, worse, equal or open: rows by model and dataset", make, place=-1, first=True),)
