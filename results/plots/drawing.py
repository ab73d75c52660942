"""How plots look: matplotlib (extra `plots`), imported inside functions, without pyplot and so without a display.

A row (a sampler with its options) has one look in all plots, given by its place among the labels: colour, line style,
marker and hatch together, so that it is still told apart in grey. Texts are at least 6 points at both widths.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nsbench.errors import Misuse
from nsbench.results.stats import statistics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9  # inches

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B")  # Okabe and Ito's, mostly
DASHES = ((5, 1.5), (1, 1), (5, 1, 1, 1), (3, 1, 1, 1, 1, 1), (2, 1), (8, 1, 1, 1, 1, 1), (1, 2.5))  # on, off, ...
LINES: tuple[Any, ...] = ("-", *((0, dashes) for dashes in DASHES))
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
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.2,
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
def style() -> Iterator[None]:
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
    with style():
        figure.savefig(buffer, format=form, metadata=metadata[form])
    return buffer.getvalue()


def models(
    data: pd.DataFrame, labels: Sequence[str], width: float, x: str, y: str, *, grey: Mapping[str, str] = {}
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each model of the one dataset, with its data, the MRR x100; `grey` as in `handles`."""
    titles = [f"{model}, {data['dataset'].iloc[0]}" for model in data["model"].unique()]
    figure, axes = panels(width, titles, handles(data, labels, grey), x, y, handle=1.2 if grey else 2.8)
    scaled = data.assign(mrr=100 * data["mrr"]).groupby("model", sort=False)
    return figure, [(ax, panel) for ax, (_, panel) in zip(axes, scaled)]


def panels(
    width: float,
    titles: Sequence[str],
    handles: list[Any],
    x: str,
    y: str,
    *,
    columns: int = 0,
    ratios: Sequence[float] | None = None,
    height: float = 1.75,
    handle: float = 2.8,
) -> tuple[Figure, list[Axes]]:
    """Panels under their titles, beside each other where there is room, over one legend.

    `x` names the axis of every panel that has none below it, `y` that of the first of each line. `height` is a panel's, in
    inches, `handle` the width of a legend's entry, in letters.
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
    for i, (ax, title) in enumerate(zip(axes, titles)):
        ax.set_title(title)
        ax.grid(True)
        if i + columns >= len(titles):
            ax.set_xlabel(x)
        if i % columns == 0:
            ax.set_ylabel(y)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // lines), handlelength=handle)
    return figure, axes[: len(titles)]


def rows(panel: pd.DataFrame, labels: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Each row of a panel: its label, its look, its data."""
    for row, data in panel.groupby("row", sort=False):
        yield row, look(labels.index(row)), data


def look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)]}


def bar(i: int) -> dict[str, Any]:
    return {"facecolor": FACES[i % len(FACES)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "black", "linewidth": 0.5}


def handles(data: pd.DataFrame, labels: Sequence[str], grey: Mapping[str, str] = {}) -> list[Any]:
    """Legend entries of the rows that are there; with `grey` of markers alone, and of its labels, filled as it says."""
    from matplotlib.lines import Line2D

    there = [i for i, label in enumerate(labels) if (data["row"] == label).any()]
    alone: dict[str, Any] = {"linestyle": "none"} if grey else {}
    others = {label: {"marker": "o", "color": "#555555", "fillstyle": fill} for label, fill in grey.items()}
    looks = {labels[i]: look(i) for i in there} | others
    return [Line2D([], [], label=label, **each | alone) for label, each in looks.items()]


def mark(ax: Axes, x: Any, y: Any, look: Mapping[str, Any], **how: Any) -> None:
    """A marker with its error bars."""
    ax.errorbar(x, y, fmt=look["marker"], color=look["color"], elinewidth=0.7, capsize=1.5, **how)


def half(mrr: pd.Series) -> float | None:
    """Half of the 95 % t interval over seeds; None for fewer than three seeds."""
    if len(mrr) < statistics.SPREAD_SEEDS:
        return None
    low, high = statistics.t_interval(mrr.to_numpy())
    return (high - low) / 2


def wrapped(names: Sequence[str], inches: float) -> list[str]:
    """Names in lines of about this length."""
    return ["\n".join(textwrap.wrap(name, max(8, int(inches / 0.056)))) for name in names]


def widest(texts: Sequence[Text], side: str = "width") -> float:
    """The largest width, or height, of the texts of one figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Any = texts[0].figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    return max(getattr(text.get_window_extent(renderer), side) for text in texts) / figure.dpi


def logarithmic(ax: Axes) -> None:
    """A log scale with plain numbers: at decades, at 1, 2 and 5 of less than two, at round steps of less than one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis: Any = ax.xaxis
    ax.set_xscale("log")
    low, high = axis.get_view_interval()
    round_steps = MaxNLocator(4, steps=(1, 2, 5, 10))
    subs = (1,) if high >= 100 * low else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs) if high >= 10 * low else round_steps)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=range(2, 10)) if high >= 100 * low else NullLocator())
    axis.set_minor_formatter(NullFormatter())
