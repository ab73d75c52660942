"""How plots look: matplotlib (extra `plots`), imported inside functions, without pyplot and so without a display.

A row (a sampler with its options) has one look in all plots, given by its place among the labels: colour, line style,
marker and hatch together, so that it is still told apart in grey. Texts are at least 6 points at both widths.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.results.stats import statistics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9  # inches
FEW_QUERIES = 100  # two for each triple
PARTS = {"category": "relation category", "seen": "entities in train"}

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B")  # Okabe and Ito's, mostly
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2, 1)),
    (0, (8, 1, 1, 1, 1, 1)),
    (0, (1, 2.5)),
)
MARKERS = "os^DvPX*<>dhp"
FACES = ("#FFFFFF", "#9ECAE1", "#E6550D", "#C7E9C0", "#54278F", "#FDD0A2", "#DADAEB", "#BDBDBD")
HATCHES = ("", "////", "", "....", "", "\\\\\\\\", "xxxx", "----", "++++", "oo", "||||")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "hatch.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handletextpad": 0.6,
    "text.parse_math": False,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.hashsalt": "nsbench",
}


def require() -> None:
    """Misuse if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Misuse("plots need matplotlib; run pip install 'nsbench[plots]'") from None


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Our settings on matplotlib's own defaults, whatever the user's configuration says; both are as before afterwards."""
    import matplotlib

    settings: Any = STYLE  # matplotlib types every name of a setting
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def save(figure: Figure, form: str, caption: str = "") -> bytes:
    """The figure as pdf, svg or png, without dates and random names: the same figure gives the same bytes."""
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Subject": caption},
        "svg": {"Date": None, "Description": caption},
        "png": {"Description": caption},
    }
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format=form, metadata=metadata[form])
    return buffer.getvalue()


# The kinds


def curves(data: pd.DataFrame, x: str, labels: Sequence[str], width: float) -> Figure:
    """Validation MRR against data[x]: a panel for each model, a line with its band for each row."""
    with _style():
        figure, axes = _panels(width, _titles(data), _handles(data, labels))
        for ax, (_, panel) in zip(axes, data.groupby("model", sort=False)):
            for row, runs in panel.groupby("row", sort=False):
                look = _look(labels.index(row))
                seeds = runs["seed"].nunique()
                steps = runs.groupby("step").agg(
                    x=(x, "mean"), mean=("mrr", "mean"), low=("mrr", "min"), high=("mrr", "max"), seeds=("mrr", "size")
                )
                steps = steps[steps["seeds"] == seeds]  # a mean over those that happened to run longer would jump
                offset = labels.index(row) % 5
                ax.plot(
                    steps["x"],
                    100 * steps["mean"],
                    label=row,
                    markevery=(offset, 5),
                    markersize=2.5,
                    **{**look, "markerfacecolor": "white"},
                    markeredgewidth=0.7,
                )
                if seeds > 1:
                    ax.fill_between(
                        steps["x"],
                        100 * steps["low"],
                        100 * steps["high"],
                        color=look["color"],
                        alpha=0.18,
                        linewidth=0,
                        label=row,
                    )
                chosen = runs[runs["selected"]]
                ax.plot(
                    chosen[x],
                    100 * chosen["mrr"],
                    linestyle="none",
                    marker=look["marker"],
                    color=look["color"],
                    markersize=3.5,
                    markeredgecolor="white",
                    markeredgewidth=0.3,
                    label=f"selected: {row}",
                )
            if x == "seconds":
                _logarithmic(ax.xaxis)
            ax.grid(True)
        names = {"epoch": "epoch", "step": "training step", "seconds": "training time (s)"}
        _name_axes(axes, names[x], "validation MRR ×100")
    return figure


def cost(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """Test MRR against seconds of training, a panel for each model; a grey line joins what nothing dominates."""
    with _style():
        handles = [*_handles(data, labels, lines=False), _grey_marker("dominated", "none")]
        figure, axes = _panels(width, _titles(data), handles, handle=1.2)
        for ax, (_, panel) in zip(axes, data.groupby("model", sort=False)):
            means = panel.groupby("row", sort=False)[["seconds", "mrr"]].mean()
            best = front([(x, 100 * y) for x, y in means.itertuples(index=False)])
            for row, runs in panel.groupby("row", sort=False):
                look, x, y = _look(labels.index(row)), means.loc[row, "seconds"], 100 * means.loc[row, "mrr"]
                ax.errorbar(
                    x,
                    y,
                    xerr=[[x - runs["seconds"].min()], [runs["seconds"].max() - x]],
                    yerr=_half(runs["mrr"]),
                    fmt=look["marker"],
                    color=look["color"],
                    ecolor=look["color"],
                    elinewidth=0.7,
                    capsize=1.5,
                    markersize=5,
                    markerfacecolor=look["color"] if (x, y) in best else "white",
                    label=row,
                )
            ax.step(
                [x for x, _ in best],
                [y for _, y in best],
                where="post",
                color="#AAAAAA",
                linewidth=1.8,
                zorder=0,
                label="front",
            )
            _logarithmic(ax.xaxis)
            ax.margins(x=0.08, y=0.1)
            ax.grid(True)
        _name_axes(axes, "training time (s)", "test MRR ×100")
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, quality) that no other one beats in both, or in one while equal in the other; by cost."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def sensitivity(data: pd.DataFrame, name: str, labels: Sequence[str], width: float) -> Figure:
    """Test MRR against an option's value: seeds as points, means as a line, a panel for each model."""
    with _style():
        figure, axes = _panels(width, _titles(data), _handles(data, labels))
        values = np.sort(data["value"].unique())
        for ax, (_, panel) in zip(axes, data.groupby("model", sort=False)):
            for row, runs in panel.groupby("row", sort=False):
                look = _look(labels.index(row))
                means = runs.groupby("value")["mrr"].mean()
                ax.plot(means.index, 100 * means, label=row, **look)
                ax.plot(
                    runs["value"],
                    100 * runs["mrr"],
                    linestyle="none",
                    marker=look["marker"],
                    color=look["color"],
                    markersize=2,
                    alpha=0.6,
                    markeredgewidth=0,
                    label=f"seeds: {row}",
                )
            if values[0] > 0 and values[-1] / values[0] >= 4:
                ax.set_xscale("log", base=2)
            if len(values) <= 10:
                ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.minorticks_off()
            ax.grid(True)
        _name_axes(axes, name, "test MRR ×100")
    return figure


def relations(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """Bars of test MRR by part of the test set: a line of panels for each model, a panel for each kind of part."""
    from matplotlib.patches import Patch

    with _style():
        models, rows = list(data["model"].unique()), [row for row in labels if (data["row"] == row).any()]
        handles = [Patch(label=row, **_bar(labels.index(row))) for row in rows]
        titles = [title for title in _titles(data) for _ in PARTS]
        ratios = [data[data["by"] == by]["part"].nunique() for by in PARTS]
        columns = 2 if width > ONE_COLUMN else 1
        figure, axes = _panels(width, titles, handles, columns=columns, ratios=ratios, height=1.6, handle=2)
        for ax, (model, by) in zip(axes, [(model, by) for model in models for by in PARTS]):
            panel = data[(data["model"] == model) & (data["by"] == by)]
            parts = list(panel["part"].unique())
            thick = 0.84 / len(rows)
            there = [row for row in rows if (panel["row"] == row).any()]  # of other models' rows no gap
            for place, row in enumerate(there):
                for i, part in enumerate(parts):
                    runs = panel[(panel["row"] == row) & (panel["part"] == part)]
                    if runs.empty:
                        continue
                    pale = runs["queries"].iloc[0] < FEW_QUERIES
                    at = i + (place - (len(there) - 1) / 2) * thick
                    ax.bar(
                        at, 100 * runs["mrr"].mean(), thick, label=row, alpha=0.35 if pale else 1, **_bar(labels.index(row))
                    )
                    ax.errorbar(
                        at,
                        100 * runs["mrr"].mean(),
                        yerr=_half(runs["mrr"]),
                        fmt="none",
                        ecolor="black",
                        elinewidth=0.7,
                        capsize=1,
                    )
            queries = panel.groupby("part")["queries"].first()
            ax.set_xticks(range(len(parts)), [f"{part}\nn = {queries[part]:,}" for part in parts])
            ax.tick_params(axis="x", length=0)
            ax.grid(True, axis="y")
            ax.set_ylim(bottom=0)
            ax.set_xlabel(PARTS[by])
        _name_axes(axes, None, "test MRR ×100")
    return figure


def published(data: pd.DataFrame, labels: Sequence[str], width: float) -> Figure:
    """Ours against the papers': a panel for each dataset, a marker for each row, filled by model."""
    from matplotlib.ticker import MaxNLocator

    with _style():
        models = list(data["model"].unique())
        fills = dict(zip(models, ("full", "none", "left", "right", "top", "bottom")))
        handles = _handles(data, labels, lines=False) + [_grey_marker(model, fills.get(model, "full")) for model in models]
        figure, axes = _panels(width, list(data["dataset"].unique()), handles, height=2.3, handle=1.2)
        for ax, (_, panel) in zip(axes, data.groupby("dataset", sort=False)):
            for (model, row), cell in panel.groupby(["model", "row"], sort=False):
                look = _look(labels.index(row))
                x, y = 100 * cell["published"].to_numpy(), 100 * cell["mean"].to_numpy()
                if len(set(x)) > 1:
                    ax.plot([x.min(), x.max()], [y[0], y[0]], color=look["color"], linewidth=0.6, zorder=1)
                bars = 100 * (cell["high"] - cell["mean"]).to_numpy()
                ax.errorbar(
                    x,
                    y,
                    yerr=None if np.isnan(bars).any() else bars,
                    fmt=look["marker"],
                    color=look["color"],
                    fillstyle=fills.get(model, "full"),
                    markersize=4.5,
                    elinewidth=0.7,
                    capsize=1.5,
                    markeredgewidth=0.8,
                    label=f"{model}: {row}",
                )
            low = min(ax.get_xlim()[0], ax.get_ylim()[0])
            high = max(ax.get_xlim()[1], ax.get_ylim()[1])
            ax.plot([low, high], [low, high], color="#999999", linewidth=0.8, zorder=0, label="equal")
            ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
            ax.grid(True)
        _name_axes(axes, "published test MRR ×100", "our test MRR ×100")
    return figure


def critical_differences(
    labels: Sequence[str], ranks: Sequence[float], cliques: Sequence[Sequence[int]], ruler: float | None, width: float
) -> Figure:
    """Demšar's diagram: average ranks [k] on a scale, 1 at the left, names below it, a bar over each clique.

    Each bar is one line with a marker on its members; it is dotted where it passes over a row that it does not join.
    `ruler` is Nemenyi's critical difference, drawn above the scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k, order, left = len(labels), list(np.argsort(ranks, kind="stable")), (len(labels) + 1) // 2
    letters = int((0.3 * width - 0.1) / 0.058)  # of a name in a line
    texts = ["\n".join(textwrap.wrap(f"{label} {rank:.2f}", letters)) for label, rank in zip(labels, ranks)]
    with _style():
        figure = Figure(figsize=(width, 1))
        ax = figure.add_axes((0, 0, 1, 1))
        names = [ax.text(0, 0, text, va="center", linespacing=1.05) for text in texts]
        boxes = [name.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for name in names]
        side = max(box.width for box in boxes) / figure.dpi + 0.12
        tall = max(box.height for box in boxes) / figure.dpi + 0.06
        x = [side + (rank - 1) / (k - 1) * (width - 2 * side) for rank in ranks]
        levels = _levels([(min(x[i] for i in clique) - 0.06, max(x[i] for i in clique) + 0.06) for clique in cliques])
        scale = 0.38 if ruler is None else 0.56
        first = scale + 0.13 + 0.11 * (max(levels, default=-1) + 1) + tall / 2  # the first name
        height = first + tall * (left - 0.5) + 0.02
        figure.set_size_inches(width, height)
        ax.set(xlim=(0, width), ylim=(height, 0))
        ax.axis("off")

        black: dict[str, Any] = {"color": "black", "linewidth": 0.8, "solid_capstyle": "butt"}
        ax.plot([side, width - side], [scale, scale], **black)
        for rank in range(1, k + 1):
            at = side + (rank - 1) / (k - 1) * (width - 2 * side)
            ax.plot([at, at], [scale - 0.05, scale], **black)
            ax.text(at, scale - 0.07, str(rank), ha="center", va="bottom")
        ax.text(width / 2, scale - 0.22, "average rank (1 is best)", ha="center", va="bottom")
        for place, i in enumerate(order):
            on_left = place < left
            y = first + tall * (place if on_left else k - 1 - place)
            edge, outwards = (side, -0.04) if on_left else (width - side, 0.04)
            ax.plot([x[i], x[i], edge + outwards / 2], [scale, y, y], label=labels[i], **{**black, "linewidth": 0.6})
            names[i].set(x=edge + outwards, y=y, ha="right" if on_left else "left")
        for clique, level in zip(cliques, levels):
            y = scale + 0.12 + 0.11 * level
            inside = [i for i in order if min(ranks[j] for j in clique) <= ranks[i] <= max(ranks[j] for j in clique)]
            for one, two in pairwise(inside):
                joined = one in clique and two in clique
                ax.plot(
                    [x[one], x[two]],
                    [y, y],
                    color="black",
                    linewidth=2.4 if joined else 0.9,
                    linestyle="-" if joined else (0, (1, 1.5)),
                    solid_capstyle="butt",
                    gid="bar",
                )
            ax.plot(
                [x[i] for i in clique],
                [y] * len(clique),
                linestyle="none",
                marker="o",
                markersize=3,
                color="black",
                label="clique: " + ", ".join(labels[i] for i in clique),
            )
        if ruler is not None:
            end = side + ruler / (k - 1) * (width - 2 * side)
            ax.plot([side, end], [0.12, 0.12], label="critical difference", **black)
            for at in (side, end):
                ax.plot([at, at], [0.08, 0.16], **black)
            ax.text(end + 0.06, 0.12, f"critical difference {ruler:.2f}", ha="left", va="center")
    return figure


def _levels(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each bar the first line on which it touches none before it."""
    lines: list[list[tuple[float, float]]] = []
    levels = []
    for low, high in spans:
        free = (n for n, line in enumerate(lines) if all(high < a or b < low for a, b in line))
        level = next(free, len(lines))
        lines += [[]] if level == len(lines) else []
        lines[level].append((low, high))
        levels.append(level)
    return levels


# What they have in common


def _panels(
    width: float,
    titles: Sequence[str],
    handles: Sequence[Any],
    *,
    columns: int = 0,
    ratios: Sequence[float] | None = None,
    height: float = 1.75,
    handle: float = 2.8,
) -> tuple[Figure, list[Axes]]:
    """Panels under their titles, beside each other where there is room, over one legend.

    `height` of a panel in inches, `handle` of a legend's entry in letters.
    """
    from matplotlib.figure import Figure

    columns = columns or (1 if width <= ONE_COLUMN else min(3, len(titles)))
    rows = -(-len(titles) // columns)
    longest = max(len(handle.get_label()) for handle in handles)
    most = max(1, int((width - 0.1) / (0.09 * (handle + 2) + 0.05 * longest)))
    lines = -(-len(handles) // most)
    figure = Figure(figsize=(width, height * rows + 0.14 * lines + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios if columns > 1 else None)
    axes = list(grid.ravel())
    for ax in axes[len(titles) :]:
        ax.remove()
    for ax, title in zip(axes, titles):
        ax.set_title(title)
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=-(-len(handles) // lines),
        handlelength=handle,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    return figure, axes[: len(titles)]


def _name_axes(axes: Sequence[Axes], x: str | None, y: str) -> None:
    """The unit stands at every panel's foot that has none below it, and at the left of each line of panels."""
    for ax in axes:
        place = ax.get_subplotspec()
        assert place is not None
        below = [
            other
            for other in axes
            if other.get_subplotspec().rowspan.start > place.rowspan.start  # type: ignore[union-attr]
            and other.get_subplotspec().colspan == place.colspan  # type: ignore[union-attr]
        ]
        if x is not None and not below:
            ax.set_xlabel(x)
        if place.is_first_col():
            ax.set_ylabel(y)


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)]}


def _bar(i: int) -> dict[str, Any]:
    return {"facecolor": FACES[i % len(FACES)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "black", "linewidth": 0.5}


def _handles(data: pd.DataFrame, labels: Sequence[str], lines: bool = True) -> list[Any]:
    """Legend entries of the rows that are there."""
    from matplotlib.lines import Line2D

    there = [i for i, label in enumerate(labels) if (data["row"] == label).any()]
    return [Line2D([], [], label=labels[i], **{**_look(i), **({} if lines else {"linestyle": "none"})}) for i in there]


def _grey_marker(label: str, fill: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, linestyle="none", marker="o", color="#555555", fillstyle=fill)


def _titles(data: pd.DataFrame) -> list[str]:
    """A panel for each model of the one dataset."""
    return [f"{model}, {data['dataset'].iloc[0]}" for model in data["model"].unique()]


def _half(mrr: pd.Series) -> float | None:
    """Half of the 95 % t interval over seeds, x100; None for fewer than three seeds."""
    if len(mrr) < statistics.SPREAD_SEEDS:
        return None
    low, high = statistics.t_interval(mrr.to_numpy())
    return 100 * (high - low) / 2


def _logarithmic(axis: Any) -> None:
    """A log scale with plain numbers: at decades, at 1, 2 and 5 of less than two, at round steps of less than one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.axes.set_xscale("log")
    low, high = axis.get_view_interval()
    round_steps = MaxNLocator(4, steps=(1, 2, 5, 10))
    subs = (1,) if high >= 100 * low else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs) if high >= 10 * low else round_steps)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)) if high >= 100 * low else NullLocator())
    axis.set_minor_formatter(NullFormatter())
