"""Differences from the baseline as a forest plot: one line a row, with interval, verdict and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown
from nsbench.results.stats import statistics
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.tables.captions import TEST
from nsbench.results.tables.claims import UNTESTED
from nsbench.results.tables.contrasts import baseline_row, contrasts, plain_difference
from nsbench.results.tables.fields import interval_text
from nsbench.results.tables.metrics import DIFFERENCE, METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LOOKS: dict[str, dict[str, Any]] = {  # of a verdict: told apart by its shape, in grey as well
    "better": {"color": "#0072B2", "marker": "^", "markersize": 5},
    "worse": {"color": "#D55E00", "marker": "v", "markersize": 5},
    "practically equal": {"color": "#444444", "marker": "s", "markersize": 3.5},
    "inconclusive": {"color": "#444444", "marker": "o", "markersize": 4, "markerfacecolor": "white"},
    UNTESTED: {"color": "#444444", "marker": "x", "markersize": 4},
}
PITCH = 0.165  # inches from line to line of single lines
CUT = 5  # median half lengths of an interval, beyond which single rows are cut off, so that the others can be read


def rows_of(shown: Shown, baseline: str) -> list[dict[str, Any]]:
    """A line of data for each cell that has a baseline, with its test as in the claims; Misuse if none was tested."""
    tested = contrasts(shown, baseline)
    if not tested:
        least = statistics.TEST_SEEDS
        raise Misuse(
            f"no row has {least} seeds beside {least} of its baseline {baseline}; run `--seeds {least}`, or name another"
        )
    found = []
    for key, runs in shown.in_order():
        group, identity, dataset = key
        against = baseline_row(shown, key, baseline)
        if against is None or against == identity:
            continue
        row: dict[str, Any] = {"model": group, "dataset": dataset, "row": shown.labels[identity]}
        row |= {"baseline": shown.labels[against], "n": len(runs)}
        if contrast := tested.get(key):
            row |= contrast.record | {"mark": "".join(contrast.mark)}
        else:
            row |= {
                "difference": plain_difference(runs, shown.cells[group, against, dataset]),
                "verdict": UNTESTED,
                "mark": "",
            }
        found.append(row)
    return found


def testing(rows: Sequence[dict[str, Any]]) -> str:
    """The sentence on the test, of all rows."""
    family = max(row.get("family", 0) for row in rows)
    return f"Test: {TEST}; better or worse: p < {statistics.ALPHA} after Holm over all {family} tests of these runs."


def make(asked: Asked) -> Iterator[Plot]:
    """One plot for each dataset that has a tested row; Holm runs over all datasets, as in a table of them."""
    shown = Shown(asked.runs, begun=asked.begun)
    rows = rows_of(shown, asked.baseline)
    for dataset in shown.datasets:
        here = [row for row in rows if row["dataset"] == dataset]
        if all(row["verdict"] == UNTESTED for row in here):
            continue
        left, right = limits(here)
        beyond = f" The axis ends at {100 * left:+.1f} and {100 * right:+.1f}; an arrow points to what lies beyond it."
        caption = (
            f"Mean test MRR minus that of {asked.baseline}, in points (MRR x100), with its 95 % interval, which is not "
            f"adjusted for the other rows. {testing(rows)} Practically equal: the interval lies in the grey band, "
            f"±{METRICS['mrr'].text(ROPE)}.{beyond if _cut(here) else ''}"
        )
        yield shown.plot(f"forest-{dataset}", [dataset], caption, here, partial(draw, baseline=asked.baseline))


def _ends(rows: Sequence[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[rows, 2]: where each begins and ends, a row without an interval at its difference."""
    return np.array([[row.get(f"difference_{end}", row["difference"]) for end in ("low", "high")] for row in rows])


def limits(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The ends of the axis: all that there is, or, where few rows would dwarf the others, what shows the others."""
    ends = _ends(rows)
    halves = (ends[:, 1] - ends[:, 0]) / 2
    room = max(CUT * float(np.median(halves[halves > 0])) if (halves > 0).any() else 0.0, 3 * ROPE)
    beyond = np.abs(ends).max(axis=1) > room
    if (np.abs(ends) > 2 * room).any() and beyond.mean() < 0.5:
        ends = ends[~beyond]
    return min(float(ends.min()), -1.5 * ROPE), max(float(ends.max()), 1.5 * ROPE)


def _cut(rows: Sequence[dict[str, Any]]) -> bool:
    (left, right), ends = limits(rows), _ends(rows)
    return bool((ends.min() < left) or (ends.max() > right))


def draw(data: pd.DataFrame, labels: Sequence[str], width: float, baseline: str) -> Figure:
    """A line for each row under the name of its model; figures at the right, with intervals where there is room."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    rows = [{name: value for name, value in row.items() if value == value} for row in data.to_dict("records")]  # no nan
    lines: list[dict[str, Any] | str] = []
    for row in rows:
        lines += [row["model"]] if row["model"] not in lines else []
        lines.append(row)
    there = list(dict.fromkeys(row["row"] for row in rows))
    indented = {row: f"  {name}".replace("\n", "\n  ") for row, name in zip(there, drawing.wrapped(there, 0.33 * width))}
    heights = [1.0 if isinstance(line, str) else 1 + 0.7 * indented[line["row"]].count("\n") for line in lines]
    ends = np.cumsum(heights) - 0.5  # below each line, in pitches
    wide = width > drawing.ONE_COLUMN
    figure = Figure(figsize=(width, 1))
    ax = figure.add_axes((0, 0, 1, 1))
    low, high = (100 * end for end in limits(rows))
    margin = 0.03 * (high - low)
    ax.set(xlim=(low - margin, high + margin), ylim=(ends[-1], -0.5), yticks=[])
    ax.spines["left"].set_visible(False)
    band = ax.axvspan(-100 * ROPE, 100 * ROPE, color="#E4E4E4", linewidth=0, zorder=0, label=f"±{METRICS['mrr'].text(ROPE)}")
    ax.axvline(0, color="black", linewidth=0.7, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(5 if wide else 4, steps=(1, 2, 2.5, 5, 10)))
    ax.set_xlabel(f"MRR minus that of {baseline}, points; {data['dataset'].iloc[0]}")
    names, figures = [], []
    for y, line in zip(ends - np.array(heights) / 2, lines):
        place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center"}
        if isinstance(line, str):
            names.append(ax.text(0, y, line, weight="bold", **place))
        else:
            names.append(ax.text(0, y, indented[line["row"]], **place))
            figures.append(ax.text(0, y, _figures(line, wide), ha="right", **place))
            ax.text(0, y, line["mark"], ha="right", gid="mark", **place)
            _line(ax, y, line, (low, high))
    beside, after = drawing.widest(names), drawing.widest(figures)
    sign = 0.12 * max(len(row["mark"]) for row in rows)
    left, right = beside + 0.12, after + sign + 0.12
    panel = width - left - right
    for text in ax.texts:
        x = 0.04 - left if text in names else panel + right - 0.03 - (0 if text.get_gid() == "mark" else sign)
        text.set_x(x / panel)
    shapes = {word: look for word, look in LOOKS.items() if (data["verdict"] == word).any()}
    shapes |= {"beyond the axis": {"color": "#444444", "marker": "<", "markersize": 4}} if _cut(rows) else {}
    entries = [*(Line2D([], [], linestyle="none", label=word, **look) for word, look in shapes.items()), band]
    columns = len(entries) if wide else 2
    below = 0.45 + 0.16 * -(-len(entries) // columns)
    height = PITCH * sum(heights) + below + 0.08
    figure.set_size_inches(width, height)
    ax.set_position((left / width, below / height, panel / width, PITCH * sum(heights) / height))
    figure.legend(handles=entries, loc="lower center", ncols=columns, handlelength=1.2)
    return figure


def _figures(row: dict[str, Any], wide: bool) -> str:
    """What stands at the right of a row: the difference, and at full width its interval."""
    said = f"{DIFFERENCE.text(row['difference'], sign=True)}"
    said += f" {interval_text((row['difference_low'], row['difference_high']))}" if wide and "difference_low" in row else ""
    return said.replace("-", "−")


def _line(ax: Any, y: float, row: dict[str, Any], ends: tuple[float, float]) -> None:
    """Interval and marker of a row; an arrow where either leaves the axis, which has these ends."""
    look, (left, right) = LOOKS[row["verdict"]], ends
    ((low, high),), at = 100 * _ends([row]), 100 * row["difference"]
    kept = np.clip([low, high], left, right)
    ax.plot(
        kept, [y, y], color=look["color"], linewidth=1.1, solid_capstyle="butt", label=f"interval: {row['row']}", zorder=2
    )
    if left <= at <= right:
        ax.plot([at], [y], linestyle="none", zorder=3, label=row["row"], **look)
    for beyond, end, marker, inside in ((low < left, left, "<", 1), (high > right, right, ">", -1)):
        if beyond:
            tail = end + inside * 0.05 * (right - left)
            ax.plot([end, tail], [y, y], color=look["color"], linewidth=1.1, solid_capstyle="butt", zorder=2)
            ax.plot([end], [y], marker=marker, color=look["color"], markersize=4, label=f"beyond: {row['row']}", zorder=3)


KINDS = (Kind("forest", "differences from the baseline with intervals and verdicts", make, place=0, first=True),)
