"""Draw docs/figures/two_way.svg: why the default test looks at seeds and triples together.

python tools/two_way.py writes the figure. Two samplers that are equal are compared again and again, by simulation; each
panel tests the same trials in another way, and shows how often it calls the two different. Spreads as in
docs/notes/statistics_and_reporting.md 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind, ttest_rel

from nsbench.results.stats.statistics import two_way_t

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "two_way.svg"
SEEDS, TRIPLES = 5, 1500
BY_TRIPLE, NOISE, BY_SEED = 0.10 / 2**0.5, 0.08, 0.003  # standard deviations: sampler by triple, seed by triple, seed
WAYS = ("triples alone, one run each", "seeds alone, five runs each", "two-way t: seeds and triples")
SHOWN, REPETITIONS = 40, 4000


def trials(repetitions: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Reciprocal ranks [SEEDS, TRIPLES] of two samplers, whose means over all seeds and triples there might be are equal."""
    rng = np.random.default_rng(2)  # whose first trials, those shown, are wrong about as often as all
    for _ in range(repetitions):
        difficulty = rng.normal(0, 0.3, TRIPLES)
        a, b = (
            difficulty
            + rng.normal(0, BY_TRIPLE, TRIPLES)
            + rng.normal(0, BY_SEED, (SEEDS, 1))
            + rng.normal(0, NOISE, (SEEDS, TRIPLES))
            for _ in range(2)
        )
        yield a, b


def intervals(repetitions: int) -> NDArray[np.float64]:
    """95 % intervals of the difference in points, [repetitions, 3 ways, low and high]."""
    found = []
    for a, b in trials(repetitions):
        one_run = ttest_rel(a[0], b[0]).confidence_interval()
        by_seed = ttest_ind(a.mean(1), b.mean(1), equal_var=False).confidence_interval()
        found.append([tuple(one_run), tuple(by_seed), two_way_t(a, b).interval])
    return 100 * np.array(found)


def wrong(found: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where an interval does not hold the true difference, which is zero: [repetitions, 3]."""
    return (found[..., 0] > 0) | (found[..., 1] < 0)


def draw() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = intervals(REPETITIONS)
    bad = wrong(found)
    style = {"svg.fonttype": "none", "svg.hashsalt": "nsbench", "font.family": "sans-serif", "font.size": 10}
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(1, 3, figsize=(9.6, 4.2), sharex=True, sharey=True)
        for way, (name, panel) in enumerate(zip(WAYS, panels)):
            for height in range(SHOWN):
                colour, width = ("#b3261e", 2.6) if bad[height, way] else ("#5f6b7a", 1.2)
                panel.plot(found[height, way], [height, height], color=colour, linewidth=width, solid_capstyle="butt")
            panel.axvline(0, color="black", linewidth=1)
            panel.set_title(f"{name}\nwrong in {100 * bad[:, way].mean():.0f} of 100 trials", fontsize=10)
            panel.set_xlabel("difference in MRR, points")
            panel.set_yticks([])
            panel.spines[["left", "right", "top"]].set_visible(False)
        panels[0].set_ylabel(f"{SHOWN} trials of two equal samplers")
        figure.tight_layout()
        PICTURE.parent.mkdir(exist_ok=True)
        figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    draw()
