"""Learning curves: validation MRR against epochs, and against seconds of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown
from nsbench.results.store import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Training triples of the public datasets, by fingerprint: runs made before result.json said so lack them.
TRAIN_TRIPLES = {
    "c09af6629d73767fb3f4e8d9da380219daeaa3a356d4ffe44400c7238d0d24ea": 21_310,  # mkg_y
    "df7b01925ad18547b1590a3b0f8ec22f7028beb312554bc4e6025f738dff0aab": 34_196,  # mkg_w
    "52c97da0296915a8fb863d4a125da9770116d5acd7ae120b14126f2292db47dc": 77_241,  # db15k, clean split
    "ee95e8305f860e242158882af1cd6a2f78bb4d3ad2eec076405333ad4de274b7": 79_222,  # db15k, released split
}
AXES = {  # column -> what the axis is called, and what the caption calls it
    "epoch": ("epoch", "passes over the training triples"),
    "step": ("training step", "training steps (the runs do not say how many steps make an epoch)"),
    "seconds": ("training time (s)", "seconds of training, without validation, each at its mean over the seeds"),
}


def make(asked: Asked, against: str) -> Iterator[Plot]:
    """Validation MRR after each validation of each run, one plot for each dataset."""
    shown = Shown(asked.runs, timed=against == "seconds")
    for dataset in shown.datasets:
        known = all(_train_triples(run) for run in shown.runs if run["dataset"] == dataset)
        x = "seconds" if shown.timed else "epoch" if known else "step"
        yield shown.plot(
            f"{against}-{dataset}",
            [dataset],
            f"Validation MRR against {AXES[x][1]}. Line: mean over seeds, unsmoothed; band: lowest and highest seed; filled "
            "markers: the validation that each seed's model was taken from, at its own time.",
            [about | event for about, run in shown.of(dataset) for event in _events(run)],
            partial(draw, x=x),
        )


def _train_triples(run: Run) -> int | None:
    return run.record.get("train_triples") or TRAIN_TRIPLES.get(run["fingerprint"])


def _events(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each validation of a run."""
    size, batch = _train_triples(run), run.config["protocol"].get("batch")
    path = run.path / "events.jsonl"
    try:
        for event in store.events(path.parent):
            yield {
                "step": int(event["step"]),
                "epoch": event["step"] * batch / size if size and batch else None,
                "seconds": float(event["train_seconds"]),
                "mrr": float(event["valid"]["mrr"]),
                "selected": event["step"] == run["selected_at"],
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise Misuse(f"cannot read {path} ({reason}); leave its curve out, or delete the folder and run it again") from None


def draw(data: pd.DataFrame, labels: Sequence[str], width: float, x: str) -> Figure:
    """A panel for each model, a line with its band for each row."""
    figure, panels = drawing.models(data, labels, width, AXES[x][0], "validation MRR ×100")
    for ax, panel in panels:
        for row, look, runs in drawing.rows(panel, labels):
            seeds = runs["seed"].nunique()
            steps = runs.groupby("step").agg(
                x=(x, "mean"), mean=("mrr", "mean"), low=("mrr", "min"), high=("mrr", "max"), seeds=("mrr", "size")
            )
            steps = steps[steps["seeds"] == seeds]  # a mean over those that happened to run longer would jump
            open_markers: dict[str, Any] = {"markersize": 2.5, "markerfacecolor": "white", "markeredgewidth": 0.7}
            every = (labels.index(row) % 5, 5)
            ax.plot(steps["x"], steps["mean"], label=row, markevery=every, **look, **open_markers)
            if seeds > 1:
                band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
                ax.fill_between(steps["x"], steps["low"], steps["high"], label=row, **band)
            chosen = runs[runs["selected"]]
            points = {**look, "linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.3}
            ax.plot(chosen[x], chosen["mrr"], label=f"selected: {row}", **points)
        if x == "seconds":
            drawing.logarithmic(ax)
    return figure


KINDS = (
    Kind("epochs", "validation MRR against epochs", partial(make, against="epochs"), place=2),
    Kind("seconds", "validation MRR against seconds of training", partial(make, against="seconds"), place=3),
)
