"""Critical differences (Demšar, JMLR 2006): average ranks over blocks, with bars over what no test separates."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.results.plots.plot import Asked, Kind, Plot, Shown
from nsbench.results.stats import blocks as tests
from nsbench.results.stats import posthoc as tests_of_pairs
from nsbench.results.stats import statistics
from nsbench.results.store import Run
from nsbench.results.tables.labels import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make(asked: Asked) -> Iterator[Plot]:
    """One plot; a block is a model and a dataset."""
    nemenyi = asked.posthoc == "nemenyi"
    shown = Shown(asked.runs)
    labels, blocks = shown.rows(), _blocks(shown, nemenyi)
    k, n = len(labels), len(blocks)
    values = np.array([[np.mean([run["mrr"] for run in row[label]]) for label in labels] for row in blocks.values()])
    ranks = tests.block_ranks(values)
    gate = tests.friedman_permutation(values, np.random.default_rng(0))
    found = tests.friedman(values)
    p = np.ones((k, k))
    if gate < statistics.ALPHA:  # else nothing is separated
        p = tests_of_pairs.nemenyi_p(ranks.mean(axis=0), n) if nemenyi else tests_of_pairs.wilcoxon_holm(values)
    ruler = tests_of_pairs.critical_difference(k, n, statistics.ALPHA) if nemenyi else None
    friedman = f"; Iman-Davenport F {found.f:.4g}, Kendall's W {found.w:.3f}" if found else ""
    test = "Nemenyi's test" if nemenyi else f"Wilcoxon's signed-rank test with Holm over {k * (k - 1) // 2} pairs"
    unsure = "" if gate < statistics.ALPHA else ", which found no difference, so no pair was tested"
    yield shown.plot(
        "cd",
        shown.datasets,
        f"Average ranks of {k} rows by mean test MRR over {n} blocks (model and dataset), 1 the best, at the left. Bars "
        f"join what {test} does not separate (adjusted p >= {statistics.ALPHA}); dotted where a bar passes over a "
        f"row that it does not join. Friedman's test, ranks relabelled inside blocks: p {gate:.2g}{friedman}{unsure}. "
        "Blocks that share a dataset or a model are not independent.",
        [
            {"model": group, "dataset": dataset, "row": label, "mrr": value, "rank": rank}
            for (group, dataset), mrr, ranked in zip(blocks, values, ranks)
            for label, value, rank in zip(labels, mrr, ranked)
        ],
        lambda data, labels, width: draw(labels, ranks.mean(axis=0), tests_of_pairs.cliques(p), ruler, width),
    )


def _blocks(shown: Shown, nemenyi: bool) -> dict[tuple[str, str], dict[str, list[Run]]]:
    """The runs of each row in each (model, dataset) that has all rows; Misuse where they do not allow ranks."""
    started: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for (group, identity, dataset), cell in shown.in_order():
        started.setdefault((group, dataset), {})[shown.labels[identity]] = cell
    rows = shown.rows()
    k, n = len(rows), sum(len(block) == len(rows) for block in started.values())
    if k < 2:
        raise Misuse("one row has nothing to be ranked against; run a second sampler")
    needed = max(statistics.FEWEST_BLOCKS, 0 if nemenyi else tests_of_pairs.blocks_needed(k * (k - 1) // 2))
    if n < needed:
        always = [row for row in rows if all(row in block for block in started.values())]
        without = f" ({len(started)} of {listed(always, ', ')} alone)" if 1 < len(always) < k else ""
        there = f"there {'is' if n == 1 else 'are'} {n}{without}"
        block = "blocks, each a model and a dataset with runs of every row"
        raise Misuse(f"ranking {k} rows takes {needed} {block}, and {there}; run more models or datasets")
    if len(started) - n > tests.LACKING * len(started):
        raise Misuse(f"{len(started) - n} of {len(started)} blocks lack a row, so the complete ones are a choice; run them")
    order = [(group, dataset) for group in shown.groups for dataset in shown.datasets]
    blocks = {key: started[key] for key in order if len(started.get(key, ())) == k}
    seeds = {tuple(run["seed"] for run in cell) for block in blocks.values() for cell in block.values()}
    if min(map(len, seeds)) < 2:
        raise Misuse("a rank from one seed is luck; run at least two seeds of every cell")
    if len(seeds) > 1:
        raise Misuse("the cells have different seeds; run the missing ones, or keep the common ones by a filter as seed=0,1")
    return blocks


def draw(
    labels: Sequence[str], ranks: Sequence[float], cliques: Sequence[Sequence[int]], ruler: float | None, width: float
) -> Figure:
    """Average ranks [k] on a scale, 1 at the left, names below it, a bar over each clique.

    Each bar is one line with a marker on its members; it is dotted where it passes over a row that it does not join.
    `ruler` is Nemenyi's critical difference, drawn above the scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k, order, left = len(labels), list(np.argsort(ranks, kind="stable")), (len(labels) + 1) // 2
    letters = int((0.3 * width - 0.1) / 0.058)  # of a name in a line
    texts = ["\n".join(textwrap.wrap(f"{label} {rank:.2f}", letters)) for label, rank in zip(labels, ranks)]
    figure = Figure(figsize=(width, 1))
    ax = figure.add_axes((0, 0, 1, 1))
    names = [ax.text(0, 0, text, va="center", linespacing=1.05) for text in texts]
    boxes = [name.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for name in names]
    side = max(box.width for box in boxes) / figure.dpi + 0.12
    tall = max(box.height for box in boxes) / figure.dpi + 0.06
    unit = (width - 2 * side) / (k - 1)  # inches for a rank
    x = [side + (rank - 1) * unit for rank in ranks]
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
        at = side + (rank - 1) * unit
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
            look = {"linewidth": 2.4 if joined else 0.9, "linestyle": "-" if joined else (0, (1, 1.5))}
            ax.plot([x[one], x[two]], [y, y], gid="bar", **{**black, **look})
        members = "clique: " + ", ".join(labels[i] for i in clique)
        ax.plot([x[i] for i in clique], [y] * len(clique), "o", markersize=3, color="black", label=members)
    if ruler is not None:
        end = side + ruler * unit
        ax.plot([side, end], [0.12, 0.12], label="critical difference", **black)
        for at in (side, end):
            ax.plot([at, at], [0.08, 0.16], **black)
        ax.text(end + 0.06, 0.12, f"critical difference {ruler:.2f}", ha="left", va="center")
    return figure


def _levels(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each bar the first line on which it touches none before it."""
    levels: list[int] = []
    for low, high in spans:
        taken = {level for (a, b), level in zip(spans, levels) if a <= high and low <= b}
        levels.append(next(level for level in range(len(spans)) if level not in taken))
    return levels


KINDS = (Kind("cd", "average ranks over (model, dataset), with bars over what no test separates", make, place=1),)
