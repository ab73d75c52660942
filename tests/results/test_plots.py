"""Plots: what the artists show is held against figures read from the run folders here, by other means."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
from click.testing import CliRunner

from nsbench.cli import cli
from nsbench.commands.results import default_of
from nsbench.errors import Misuse
from nsbench.results import plots as package
from nsbench.results.plots import cd, cost, drawing, forest, verdicts
from nsbench.results.plots.curves import TRAIN_TRIPLES
from nsbench.results.plots.plot import kinds, plots, write
from nsbench.results.report import report
from nsbench.results.tables import comparison, papers
from tests.results.stats.examples import DEMSAR_RANKS

SIZE, BATCH, EVERY = 1000, 250, 20
PARTS = {"category": ("1-1", "1-n", "n-1", "n-n"), "seen": ("seen", "unseen")}
NAMES = ["verdicts", "forest", "cd", "epochs", "seconds", "cost", "sensitivity", "relations", "published"]
SAMPLERS, MODELS, WIDTHS = ("uniform", "bernoulli", "dhns"), ("transe", "rotate"), (drawing.ONE_COLUMN, drawing.TWO_COLUMNS)


def results(store, pattern="*"):
    return [json.loads((run / "result.json").read_text()) for run in sorted(store.glob(pattern))]


def mrr_of(store, pattern):
    return np.array([100 * result["test"]["mrr"] for result in results(store, pattern)])


def lines_of(axes, label):
    return [line for line in axes.get_lines() if line.get_label() == label]


def single(store, kind, **how):
    (plot,), _ = plots(store, [kind], **how)
    return plot


def drawn(store, kind, width=drawing.ONE_COLUMN, **how):
    """Axes of the only plot of a kind by title."""
    return {axes.get_title(): axes for axes in single(store, kind, **how).draw(width).axes}


def styled(draw, *given):
    """A figure, drawn as in a plot, and its renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawing.style()(draw)(*given)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, canvas.get_renderer()


@pytest.fixture
def learning(store, run):
    """Three samplers (bernoulli worse and slower than uniform), two models, three seeds, with events; all runs differ."""
    rng = np.random.default_rng(0)
    for (s, sampler), kge, seed in itertools.product(enumerate(SAMPLERS), MODELS, range(3)):
        train = 30.0 * (s + 1) + 5 * seed
        breakdown = {
            by: {part: {"mrr": float(rng.uniform(0.1, 0.5)), "queries": 60 if part == "1-1" else 400} for part in parts}
            for by, parts in PARTS.items()
        }
        result = {"selected_at": 3 * EVERY, "cost": {"train_seconds": train}, "breakdown": breakdown, "train_triples": SIZE}
        path = run(sampler, kge, seed=seed, quality=(1, 0.5, 2)[s], protocol={"batch": BATCH}, result=result)
        events = [
            {"step": EVERY * i, "valid": {"mrr": float(rng.uniform(0.1, 0.4))}, "train_seconds": train * i / 4}
            for i in range(1, 5)
        ]
        (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return store


def events_of(store, sampler, kge):
    """step, seconds and MRR of every seed: three arrays [seeds, validations]."""
    import pandas as pd

    files = sorted(store.glob(f"{sampler}-{kge}-*/events.jsonl"))
    runs = [pd.json_normalize([json.loads(line) for line in file.read_text().splitlines()]) for file in files]
    return [np.array([run[name] for run in runs]) for name in ("step", "train_seconds", "valid.mrr")]


@pytest.mark.parametrize(("kind", "label"), [("epochs", "epoch"), ("seconds", "training time (s)")])
def test_a_curve_is_the_mean_over_seeds_and_its_band_the_lowest_and_highest(learning, kind, label):
    assert single(learning, kind).name == f"{kind}-mkg_y"
    panels = drawn(learning, kind)
    assert list(panels) == ["transe, mkg_y", "rotate, mkg_y"]
    assert panels["rotate, mkg_y"].get_xlabel() == label
    for sampler, kge in itertools.product(SAMPLERS, MODELS):
        axes = panels[f"{kge}, mkg_y"]
        step, seconds, mrr = events_of(learning, sampler, kge)
        x = step * BATCH / SIZE if kind == "epochs" else seconds
        (curve,) = lines_of(axes, sampler)
        np.testing.assert_allclose(curve.get_xdata(), x.mean(axis=0))
        np.testing.assert_allclose(curve.get_ydata(), 100 * mrr.mean(axis=0))
        (band,) = [c for c in axes.collections if c.get_label() == sampler]
        corners = {(round(a, 6), round(b, 6)) for a, b in band.get_paths()[0].vertices}
        for low_or_high in (mrr.min(axis=0), mrr.max(axis=0)):
            assert {(round(a, 6), round(b, 6)) for a, b in zip(x.mean(axis=0), 100 * low_or_high)} <= corners
        (chosen,) = lines_of(axes, f"selected: {sampler}")
        np.testing.assert_allclose(np.sort(chosen.get_xdata()), np.sort(x[:, 2]))
        np.testing.assert_allclose(np.sort(chosen.get_ydata()), np.sort(100 * mrr[:, 2]))


def test_a_mean_ends_where_the_first_seed_stops(learning):
    events = next(learning.glob("dhns-rotate-mkg_y-s1-*")) / "events.jsonl"
    events.write_text("\n".join(events.read_text().splitlines()[:3]))
    (curve,) = lines_of(drawn(learning, "epochs")["rotate, mkg_y"], "dhns")
    assert len(curve.get_xdata()) == 3


def test_without_the_number_of_training_triples_curves_go_against_steps(learning):
    for run in learning.glob("*/result.json"):
        run.write_text(run.read_text().replace("train_triples", "other"))
    axes = drawn(learning, "epochs")["rotate, mkg_y"]
    assert axes.get_xlabel() == "training step"
    (curve,) = lines_of(axes, "uniform")
    assert list(curve.get_xdata()) == [20, 40, 60, 80]
    assert "do not say how many steps make an epoch" in single(learning, "epochs").caption


@pytest.mark.slow
def test_the_sizes_of_the_public_datasets_are_those_of_their_files():
    from nsbench.datasets.public import load_public

    parts = (("mkg_y", None), ("mkg_w", None), ("db15k", "clean"), ("db15k", "released"))
    found = [load_public(name, None, split, "none") for name, split in parts]
    assert {data.fingerprint: len(data.train) for data in found} == TRAIN_TRIPLES


def test_a_damaged_curve_is_named(learning):
    run = next(learning.iterdir())
    (run / "events.jsonl").write_text('{"step": 1')
    with pytest.raises(Misuse, match=rf"cannot read .*{run.name}.*\(it is damaged\)"):
        plots(learning, ["epochs"])
    (run / "events.jsonl").unlink()
    with pytest.raises(Misuse, match=r"\(No such file or directory\)"):
        plots(learning, ["epochs"])


def test_cost_shows_means_with_their_intervals_and_fills_what_nothing_dominates(learning):
    panels = drawn(learning, "cost")
    for kge in MODELS:
        points, filled = {}, set()
        for bars in panels[f"{kge}, mkg_y"].containers:
            name = bars.get_label()
            mrr = mrr_of(learning, f"{name}-{kge}-*")
            seconds = [result["cost"]["train_seconds"] for result in results(learning, f"{name}-{kge}-*")]
            marker, _, (level, upright) = bars.lines
            points[name] = (np.mean(seconds), np.mean(mrr))
            np.testing.assert_allclose([marker.get_xdata()[0], marker.get_ydata()[0]], points[name])
            np.testing.assert_allclose(level.get_segments()[0][:, 0], [min(seconds), max(seconds)])
            interval = scipy.stats.t.interval(0.95, 2, np.mean(mrr), scipy.stats.sem(mrr))
            np.testing.assert_allclose(upright.get_segments()[0][:, 1], interval)
            if marker.get_markerfacecolor() != "white":
                filled.add(name)
        others = {name: [(a, b) for a, b in points.values() if (a, b) != at] for name, at in points.items()}
        assert len(filled) < len(points) == 3
        assert filled == {n for n, (x, y) in points.items() if not any(a <= x and b >= y for a, b in others[n])}


@pytest.mark.parametrize(("factor", "width"), [*zip([1.001, 1.5, 3, 8, 20, 75, 1250], itertools.cycle(WIDTHS))])
def test_a_log_axis_is_labelled_whatever_it_spans_and_its_labels_do_not_touch(factor, width):
    import pandas as pd

    seconds = pd.DataFrame({"seconds": [2.0, 2.0 * factor]})
    models = pd.DataFrame({"model": ["transe", "distmult", "rotate"], "dataset": "mkg_y", "row": "uniform", "mrr": 0.3})
    figure, renderer = styled(cost.draw, models.merge(seconds, how="cross"), ["uniform"], width)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        labels = [label for tick, label in zip(axes.get_xticks(), axes.get_xticklabels()) if low <= tick <= high]
        assert 2 <= len({label.get_text() for label in labels}) <= 12
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_bars_by_part_of_the_test_set(learning):
    from matplotlib.container import BarContainer

    figure = single(learning, "relations").draw(drawing.TWO_COLUMNS)
    for axes, (kge, (by, parts)) in zip(figure.axes, itertools.product(MODELS, PARTS.items()), strict=True):
        assert [text.get_text().split("\n")[0] for text in axes.get_xticklabels()] == list(parts)
        found = [container for container in axes.containers if isinstance(container, BarContainer)]
        assert len(found) == 3 * len(parts)
        for container, (sampler, part) in zip(found, itertools.product(SAMPLERS, parts)):
            (bar,) = container.patches
            mrr = [result["breakdown"][by][part]["mrr"] for result in results(learning, f"{sampler}-{kge}-*")]
            assert container.get_label() == sampler
            assert bar.get_height() == pytest.approx(100 * np.mean(mrr))
            assert round(bar.get_x() + bar.get_width() / 2) == parts.index(part)
            assert bar.get_alpha() == (0.35 if part == "1-1" else 1)  # of 60 queries


def test_twins_are_a_part_where_all_runs_record_them(learning):
    files = sorted(learning.glob("*/result.json"))
    for i, file in enumerate(files):
        record = json.loads(file.read_text())
        parts = {
            name: {**record["breakdown"]["seen"]["seen"], "mrr": mrr} for name, mrr in (("twin", 0.7), ("no twin", 0.2))
        }
        file.write_text(json.dumps(record | {"breakdown": record["breakdown"] | {"twin": parts}}))
        if i == len(files) - 2:
            plot = single(learning, "relations")
            assert f"Not by twins: 1 of {len(files)} runs do not record them." in plot.caption
            assert len(plot.draw(drawing.TWO_COLUMNS).axes) == 2 * len(MODELS)
    plot = single(learning, "relations")
    assert "Not by twins" not in plot.caption
    axes = plot.draw(drawing.TWO_COLUMNS).axes
    assert len(axes) == 3 * len(MODELS)
    assert [bar.get_height() for bar in axes[2].patches] == pytest.approx([70, 20] * 3)


def test_a_row_that_a_model_does_not_have_leaves_no_gap(learning):
    for path in learning.glob("bernoulli-rotate-*"):
        shutil.rmtree(path)
    for axes in single(learning, "relations").draw(drawing.TWO_COLUMNS).axes:
        bars = [container.patches[0] for container in axes.containers if hasattr(container, "patches")]
        first = sorted(bar.get_x() for bar in bars if bar.get_x() < 0.5)
        assert len(first) == (3 if "transe" in axes.get_title() else 2)
        np.testing.assert_allclose(np.diff(first), 0.84 / 3)  # side by side
        assert np.mean(first) == pytest.approx(-0.84 / 6)  # around the name of the part


def test_an_option_of_the_protocol_on_x(store, run):
    for negatives, sampler in itertools.product((1, 4, 16), ("uniform", "dhns")):
        changed = {} if negatives == 4 else {"negatives": negatives}
        run(sampler, seeds=(0, 1), quality=negatives / 10, protocol={"negatives": negatives}, changed=changed)
    run("bernoulli", seeds=(0, 1), protocol={"negatives": 4})  # varied nowhere
    assert single(store, "sensitivity").name == "sensitivity-protocol.negatives-mkg_y"
    (axes,) = drawn(store, "sensitivity").values()
    assert axes.get_xlabel() == "protocol.negatives"
    assert axes.get_xscale() == "log"
    assert {line.get_label() for line in axes.get_lines()} == {"uniform", "dhns", "seeds: uniform", "seeds: dhns"}
    for sampler in ("uniform", "dhns"):
        records = results(store, f"{sampler}-*")
        found = sorted((result["config"]["protocol"]["negatives"], result["test"]["mrr"]) for result in records)
        (line,), (seeds,) = lines_of(axes, sampler), lines_of(axes, f"seeds: {sampler}")
        assert list(line.get_xdata()) == [1, 4, 16]
        np.testing.assert_allclose(line.get_ydata(), [50 * (found[i][1] + found[i + 1][1]) for i in (0, 2, 4)])
        assert sorted(zip(seeds.get_xdata(), seeds.get_ydata())) == [(x, pytest.approx(100 * y)) for x, y in found]


def test_an_option_of_the_sampler_on_x_takes_the_default_that_runs_do_not_record(store, run):
    for cache in (None, 10, 100):
        run("nscaching", seeds=(0, 1), options={"sampler": {} if cache is None else {"cache": cache}})
    assert sorted(single(store, "sensitivity").data["value"].unique()) == [10, 100]  # no default known
    data = single(store, "sensitivity", default=default_of).data
    assert sorted(data["value"].unique()) == [10, 50, 100]  # nscaching's default
    assert sorted(data[data["value"] == 50]["seed"]) == [0, 1]
    assert list(data["row"].unique()) == ["nscaching"]
    assert default_of({"sampler": "not_here"}, "options.sampler.cache") is None
    assert default_of({"sampler": "nscaching"}, "protocol.negatives") is None


def test_published_figures_against_ours(store, run):
    run("uniform", seeds=range(3))
    run("kbgan", seeds=range(3), quality=3)
    run("mine", seeds=range(3))  # in no paper
    plot = single(store, "published")
    printed = [
        figure for figure in papers.figures() if (figure.kge, figure.dataset, figure.metric) == ("transe", "mkg_y", "mrr")
    ]
    (axes,) = plot.draw(drawing.ONE_COLUMN).axes
    by_label = {bars.get_label(): bars for bars in axes.containers}
    assert set(by_label) == {"transe: uniform", "transe: kbgan"}
    for sampler in ("uniform", "kbgan"):
        mrr = mrr_of(store, f"{sampler}-*")
        theirs = sorted(100 * figure.value for figure in printed if figure.sampler == sampler)
        marker, _, (upright,) = by_label[f"transe: {sampler}"].lines
        np.testing.assert_allclose(np.sort(marker.get_xdata()), theirs)
        np.testing.assert_allclose(marker.get_ydata(), mrr.mean())
        half = 4.302653 * mrr.std(ddof=1) * (1 + 1 / 3) ** 0.5
        np.testing.assert_allclose(upright.get_segments()[0][:, 1], [mrr.mean() - half, mrr.mean() + half], rtol=1e-6)
        rows = plot.data[plot.data["row"] == sampler]
        assert list(rows["outside"]) == [abs(value - mrr.mean()) > half + 0.005 for value in 100 * rows["published"]]
    assert "never tested" in plot.caption


def test_a_published_figure_is_drawn_once_and_without_an_interval_of_fewer_than_three_seeds(store, run):
    run("sans", seeds=range(3), options={"sampler": {"hops": 3}})
    run("sans", seeds=range(3))
    run("sans", "transe", "mkg_w", seeds=range(2), options={"sampler": {"hops": 3}})
    data = single(store, "published").data
    assert set(zip(data["dataset"], data["row"])) == {("mkg_y", "sans"), ("mkg_w", "sans (hops=3)")}
    for name in ("low", "high", "outside"):
        assert list(data[name].isna()) == list(data["dataset"] == "mkg_w")


def test_a_split_that_the_papers_do_not_have_is_said(store, run):
    run("uniform", dataset="db15k", split="clean", seeds=range(3))
    assert "db15k: ours is the clean split" in single(store, "published").caption


@pytest.fixture
def blocks(store, run):
    """Two models, four datasets, two seeds: dhns always above uniform, bernoulli mostly, but for two small reverses."""
    for i, (kge, dataset) in enumerate(itertools.product(MODELS, ("mkg_y", "mkg_w", "db15k", "mine"))):
        for sampler, quality in zip(SAMPLERS, (1, 1 + (i + 1) / 4 * (-1 if i < 2 else 1), 2)):
            run(sampler, kge, dataset, seeds=(0, 1), quality=quality)
    return store


def means_of(store):
    import pandas as pd

    frame = pd.DataFrame([{**result["config"], "mrr": result["test"]["mrr"]} for result in results(store)])
    return frame.pivot_table("mrr", ["kge", "dataset"], "sampler")[list(SAMPLERS)]


def cliques_in(axes):
    return {label for line in axes.get_lines() if (label := str(line.get_label())).startswith("clique")}


def test_critical_differences_show_the_ranks_and_join_what_is_not_separated(blocks):
    plot, means = single(blocks, "cd"), means_of(blocks)
    ranks = means.rank(axis=1, ascending=False).mean()
    p = {
        pair: scipy.stats.wilcoxon(means[pair[0]] - means[pair[1]], method="exact").pvalue
        for pair in itertools.combinations(means.columns, 2)
    }
    order = sorted(p, key=p.get)
    steps = np.maximum.accumulate([min(1.0, p[pair] * (3 - i)) for i, pair in enumerate(order)])
    apart = {pair for pair, adjusted in zip(order, steps) if adjusted < 0.05}
    assert apart == {("uniform", "dhns")}  # so that the two bars are those below
    assert p["uniform", "bernoulli"] < 0.05  # but for Holm, one bar less
    (axes,) = plot.draw(drawing.ONE_COLUMN).axes
    scale = axes.get_lines()[0].get_xdata()
    for sampler in means.columns:
        (line,) = lines_of(axes, sampler)
        assert 1 + 2 * (line.get_xdata()[0] - scale[0]) / (scale[1] - scale[0]) == pytest.approx(ranks[sampler])
    assert {f"{sampler} {ranks[sampler]:.2f}" for sampler in means.columns} <= {text.get_text() for text in axes.texts}
    assert cliques_in(axes) == {"clique: uniform, bernoulli", "clique: bernoulli, dhns"}
    assert not lines_of(axes, "critical difference")
    assert "over 8 blocks" in plot.caption
    assert len(plot.data) == 24


def test_pairs_are_tested_only_where_friedman_finds_a_difference(blocks):
    two = {"sampler": "uniform,bernoulli"}
    better = means_of(blocks)["bernoulli"] - means_of(blocks)["uniform"]
    assert scipy.stats.wilcoxon(better, method="exact").pvalue < 0.05  # which alone would part them
    assert scipy.stats.binomtest(int((better > 0).sum()), len(better)).pvalue > 0.05  # Friedman's test of two rows
    plot = single(blocks, "cd", where=two)
    assert cliques_in(*plot.draw(drawing.ONE_COLUMN).axes) == {"clique: uniform, bernoulli"}
    assert "which found no difference, so no pair was tested" in plot.caption


def test_nemenyi_draws_its_ruler(blocks):
    (axes,) = drawn(blocks, "cd", drawing.TWO_COLUMNS, posthoc="nemenyi").values()
    (ruler,) = lines_of(axes, "critical difference")
    start, end = axes.get_lines()[0].get_xdata()
    length = (ruler.get_xdata()[1] - ruler.get_xdata()[0]) / (end - start) * 2
    assert length == pytest.approx(2.343701 * (3 * 4 / (6 * 8)) ** 0.5, abs=1e-4)  # q.05 of Demšar's table 5, k = 3


@pytest.mark.parametrize(("clique", "dashed"), [((0, 2), [True, True]), ((0, 1), [False])])
def test_a_bar_is_dotted_where_it_passes_over_what_it_does_not_join(clique, dashed):
    figure, _ = styled(cd.draw, ["a", "b", "c"], [1.2, 2.0, 2.8], [clique], None, drawing.ONE_COLUMN)
    assert [line.is_dashed() for line in figure.axes[0].get_lines() if line.get_gid() == "bar"] == dashed


@pytest.mark.parametrize("width", WIDTHS)
def test_no_name_leaves_the_diagram(width):
    labels = ["uniform", "dhns (released, fusion=adamf)", "nscaching (lazy=1)", "one_vs_all (own loss)"]
    figure, renderer = styled(cd.draw, labels, list(DEMSAR_RANKS), [(0, 2), (1, 2, 3)], 1.25, width)
    for text in figure.axes[0].texts:
        low, high = text.get_window_extent(renderer).get_points()
        assert (low >= figure.bbox.min - 0.5).all()
        assert (high <= figure.bbox.max + 0.5).all()


def test_too_many_incomplete_blocks_are_refused(blocks, run):
    for dataset in ("five", "six"):
        run("uniform", "transe", dataset, seeds=(0, 1))
    assert "over 8 blocks" in single(blocks, "cd").caption  # 2 of 10 are no more than a fifth
    run("uniform", "transe", "seven", seeds=(0, 1))
    with pytest.raises(Misuse, match="3 of 11 blocks lack a row, so the complete ones are a choice"):
        plots(blocks, ["cd"])


def test_incomplete_blocks_do_not_count(blocks, run):
    run("kbgan", "transe", "mkg_y", seeds=(0, 1))
    with pytest.raises(Misuse, match=r"takes 8 blocks.* is 1 \(8 of uniform, bernoulli, dhns alone\); run more"):
        plots(blocks, ["cd"])


def test_no_ranks_of_single_or_different_seeds(blocks, run):
    with pytest.raises(Misuse, match="a rank from one seed is luck"):
        plots(blocks, ["cd"], where={"seed": 0})
    run("dhns", "transe", "mkg_y", seed=2)
    with pytest.raises(Misuse, match="the cells have different seeds"):
        plots(blocks, ["cd"])


@pytest.fixture
def contrasted(store, run):
    """With TransE dhns far below uniform, bernoulli and kbgan near it, nscaching above; dhns with RotatE; mine once."""
    for sampler, quality in (("uniform", 1), ("bernoulli", 1.01), ("kbgan", 1), ("nscaching", 1.3), ("dhns", -0.5)):
        run(sampler, seeds=range(5), quality=quality)
    for sampler in ("uniform", "dhns"):
        run(sampler, "rotate", seeds=range(5))
    run("mine", seed=0, quality=1)
    return store


def claims_of(store, **how):
    """(model, row) -> the record of its test, as the claims have it."""
    made = comparison(store, layout="claims", **how)
    return {(row.cells[0].record["model"], row.cells[0].record["row"]): row.cells[0].record for row in made.rows}


def forest_of(store, width=drawing.TWO_COLUMNS, **how):
    (axes,) = single(store, "forest", **how).draw(width).axes
    return axes


def test_a_forest_shows_what_the_claims_say(contrasted):
    plot, claims = single(contrasted, "forest"), claims_of(contrasted)
    assert plot.name == "forest-mkg_y"
    (axes,) = plot.draw(drawing.TWO_COLUMNS).axes
    assert {record["verdict"] for record in claims.values()} == {"better", "worse", "inconclusive", "not testable"}
    shapes = {"better": "^", "worse": "v", "inconclusive": "o", "not testable": "x"}
    data = plot.data.set_index(["model", "row"])
    assert set(data.index) == set(claims)
    left = axes.get_xlim()[0]
    texts = {round(text.get_position()[1]): [] for text in axes.texts}
    for text in axes.texts:
        texts[round(text.get_position()[1])].append(text.get_text().strip())
    lines = ["transe", *(row for model, row in claims if model == "transe"), "rotate", "dhns"]
    assert [texts[y][0] for y in sorted(texts)] == lines
    for (model, row), record in claims.items():
        y = lines.index("rotate") + 1 if model == "rotate" else lines.index(row)
        (interval,) = [line for line in lines_of(axes, f"interval: {row}") if line.get_ydata()[0] == y]
        marker = [line for line in lines_of(axes, row) if line.get_ydata()[0] == y]
        if record["verdict"] == "not testable":
            assert interval.get_xdata() == pytest.approx([100 * record["difference"]] * 2)
            assert "[" not in texts[y][1]
        else:
            ends = [100 * record["difference_low"], 100 * record["difference_high"]]
            assert ends[0] < left or interval.get_xdata() == pytest.approx(ends)
            assert texts[y][1] == "{:+.2f} [{:+.2f}, {:+.2f}]".format(100 * record["difference"], *ends).replace(
                "-", "\u2212"
            )
        if row == "dhns" and model == "transe":
            assert not marker  # it lies beyond the axis, as its arrow says
            (arrow,) = lines_of(axes, f"beyond: {row}")
            assert (arrow.get_marker(), arrow.get_ydata()[0], left < arrow.get_xdata()[0] < 0) == ("<", y, True)
        else:
            assert [(one.get_xdata()[0], one.get_marker()) for one in marker] == [
                (pytest.approx(100 * record["difference"]), shapes[record["verdict"]])
            ]
        assert texts[y][2:] == [{"better": "\u25b2", "worse": "\u25bc"}.get(record["verdict"], "")]
    assert "after Holm over all 5 tests" in plot.caption
    assert "an arrow points to what lies beyond it" in plot.caption


def test_an_axis_is_cut_for_few_rows_alone(contrasted):
    low = 100 * claims_of(contrasted)["transe", "dhns"]["difference_low"]
    assert forest_of(contrasted).get_xlim()[0] > low / 2
    two = {"kge": "transe", "sampler": "uniform,dhns,nscaching"}
    assert forest_of(contrasted, where=two).get_xlim()[0] < low
    assert "arrow" not in single(contrasted, "forest", where=two).caption


def test_a_forest_has_the_family_of_the_table_where_a_seed_failed(contrasted, run):
    """The five survivors are a choice by outcome: neither tests them."""
    path = run("kbgan", seed=5)
    (path / "result.json").unlink()
    (path / "failed.json").write_text('{"reason": "out of memory"}')
    claims = claims_of(contrasted)
    plot = single(contrasted, "forest")
    assert dict(zip(zip(plot.data["model"], plot.data["row"]), plot.data["verdict"])) == {
        key: record["verdict"] for key, record in claims.items()
    }
    assert claims["transe", "kbgan"]["verdict"] == "not testable"
    assert claims["transe", "bernoulli"]["family"] == 4
    assert "after Holm over all 4 tests" in plot.caption


def test_a_forest_against_another_baseline(contrasted):
    data = single(contrasted, "forest", baseline="bernoulli").data.set_index("row")
    assert set(data["baseline"]) == {"bernoulli"}
    assert data["difference"]["uniform"] == pytest.approx(
        claims_of(contrasted, baseline="bernoulli")["transe", "uniform"]["difference"]
    )
    assert data["difference"]["uniform"] == pytest.approx(-claims_of(contrasted)["transe", "bernoulli"]["difference"])


def grey(colour):
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_matrix_has_colour_and_sign_of_each_verdict_of_the_claims(contrasted, run, width):
    run("kbgan", "rotate", "mkg_w", seeds=range(5))
    run("uniform", "rotate", "mkg_w", seeds=range(5))
    plot, made = single(contrasted, "verdicts"), comparison(contrasted, layout="claims")
    assert plot.name == "verdicts"
    (axes,) = plot.draw(width).axes
    claims = {
        (record["model"], record["dataset"], record["row"]): record for record in (row.cells[0].record for row in made.rows)
    }
    boxes = {patch.get_label(): patch for patch in axes.patches}
    assert set(boxes) == {f"{model}, {dataset}: {row}" for model, dataset, row in claims}
    signs = {"better": "\u25b2", "worse": "\u25bc", "inconclusive": "\u25cb"}
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    seen, across = {}, set()
    for (model, dataset, row), record in claims.items():
        box, word = boxes[f"{model}, {dataset}: {row}"], record["verdict"]
        seen.setdefault(word, set()).add((box.get_facecolor(), box.get_hatch()))
        across.add(box.get_x())
        assert texts[box.get_x() + 0.5, box.get_y() + 0.5] == (
            "" if word == "not testable" else f"{signs[word]} {100 * record['difference']:+.2f}".replace("-", "\u2212")
        )
    assert across == {0, 1, 2}  # a model on a dataset each, and none for RotatE where it has no baseline
    assert set(seen) == {"better", "worse", "inconclusive", "not testable"}
    assert all(len(looks) == 1 for looks in seen.values())
    assert len(set.union(*seen.values())) == len(seen)


def test_verdicts_are_told_apart_in_grey():
    for one, two in itertools.combinations(verdicts.LOOKS.values(), 2):
        assert abs(grey(one["facecolor"]) - grey(two["facecolor"])) > 0.1 or one.get("hatch") != two.get("hatch")
    assert set(verdicts.LOOKS) == set(forest.LOOKS)
    assert len({look["marker"] for look in forest.LOOKS.values()}) == len(forest.LOOKS)


@pytest.mark.parametrize(("kind", "width"), [*itertools.product(("forest", "verdicts"), WIDTHS)])
def test_nothing_of_a_picture_of_verdicts_is_cut_off_or_covered(contrasted, run, kind, width):
    """With names of two lines; names, figures and the axis stand beside each other."""
    options = {"sampler": {"some_option": "a_rather_long_value", "another": 12345}}
    run("nscaching", seeds=range(5), quality=1.2, options=options)
    figure, renderer = styled(single(contrasted, kind).draw, width)
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text().strip()]
    for text in texts:
        low, high = text.get_window_extent(renderer).get_points()
        assert (low >= figure.bbox.min - 0.5).all(), text.get_text()
        assert (high <= figure.bbox.max + 0.5).all(), text.get_text()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text().strip()]
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.shrunk(0.9, 0.75).overlaps(b.shrunk(0.9, 0.75))]


CPU = {"protocol": {"name": "cpu"}}


@pytest.mark.parametrize(
    ("kind", "made", "words"),
    [
        ("cd", [("uniform", {})], "^cd: one row has nothing to be ranked against"),
        ("cd", [("uniform", {}), ("dhns", {})], "ranking 2 rows takes 6 blocks.* and there is 1;"),
        ("relations", [("uniform", {})], "uniform-transe-mkg_y-s0-.* has no figures by category"),
        ("forest", [("uniform", {}), ("dhns", {})], "^forest: no row has 5 seeds beside 5 of its baseline uniform; run"),
        ("published", [("mine", {})], "no paper prints an MRR for these"),
        ("sensitivity", [("uniform", {}), ("dhns", {})], "no numeric option differs"),
        ("cost", [("uniform", CPU), ("dhns", {})], "the runs differ in protocol"),
        ("", [("uniform", CPU), ("dhns", {})], "^the runs differ in protocol"),  # the reason most kinds give
        ("", [], "no complete run in .*start with `nsbench run"),
        ("pie", [("uniform", {})], "unknown kind of plot 'pie'; there are verdicts, forest, cd, epochs"),
    ],
)
def test_why_there_is_no_plot(store, run, kind, made, words):
    for sampler, config in made:
        run(sampler, seeds=(0, 1), **config)
    with pytest.raises(Misuse, match=words):
        plots(store, [kind] if kind else ())


def test_what_cannot_be_drawn_is_said_in_one_sentence(learning):
    made, refused = plots(learning)
    assert {plot.name.partition("-")[0] for plot in made} == {"epochs", "seconds", "cost", "relations", "published"}
    assert set(refused) == {"verdicts", "forest", "cd", "sensitivity"}
    assert not [sentence for sentence in refused.values() if ". " in sentence or "\n" in sentence]
    with pytest.raises(Misuse, match=r"^cd: ranking 3 rows"):
        plots(learning, ["cost", "cd"])


def test_without_matplotlib_one_sentence_names_the_extra(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Misuse, match=r"plots need matplotlib; run pip install 'nsbench\[plots\]'"):
        plots(store)


def test_by_which_filters_the_runs_were_chosen_stands_in_the_caption(learning):
    made, _ = plots(learning, ["epochs", "cost"], where={"kge": "transe"})
    assert len(made) == 2
    assert all(plot.caption.endswith("Runs chosen by kge=transe.") for plot in made)
    assert "Runs chosen by" not in single(learning, "epochs").caption


def test_the_same_runs_give_the_same_bytes_in_files_written_whole(learning, tmp_path, monkeypatch):
    import pandas as pd
    from matplotlib import rc_context

    plot = single(learning, "cost")
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append((Path(a), Path(b))), replace(a, b)))
    files = write(plot, tmp_path / "one")
    assert [path.name for path in files] == [
        f"cost-mkg_y{ending}" for ending in (".pdf", ".svg", ".png", "-wide.pdf", "-wide.svg", "-wide.png", ".csv", ".txt")
    ]
    assert [b for _, b in renamed] == files
    assert all(a.parent == b.parent and a.name != b.name for a, b in renamed)
    with rc_context({"font.size": 20, "axes.facecolor": "red"}):  # a user's own settings change nothing
        again = write(single(learning, "cost"), tmp_path / "two")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert sorted(tmp_path.joinpath("one").iterdir()) == sorted(files)
    assert b"%PDF" in files[0].read_bytes()[:8]
    assert b"<svg" in files[1].read_bytes()[:600]
    assert list(pd.read_csv(files[-2]).columns) == list(plot.data.columns)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(learning, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "save", lambda figure, form, caption: caption.encode())
    plot = single(learning, "cost")
    before = {path: path.read_bytes() for path in write(plot, tmp_path)}

    def full(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        write(plot._replace(caption="other"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_widths_are_those_of_the_columns_and_no_letter_is_too_small(learning):
    for plot, width in itertools.product(plots(learning)[0], WIDTHS):
        figure = plot.draw(width)
        assert figure.get_figwidth() == width
        assert figure.get_figheight() < 9.5  # a page
        texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
        for axes in figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
        assert min(text.get_fontsize() for text in texts) >= 6


def test_the_unit_stands_below_each_column_of_panels_and_left_of_each_line():
    import pandas as pd

    titles, entries = list("abcde"), drawing.handles(pd.DataFrame({"row": ["uniform"]}), ["uniform"])
    _, axes = drawing.panels(drawing.TWO_COLUMNS, titles, entries, "x", "y")
    assert [(ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) for ax in axes] == [
        ("a", "", "y"), ("b", "", ""), ("c", "x", ""), ("d", "x", "y"), ("e", "x", "")
    ]  # fmt: skip


def test_rows_are_told_apart_without_colour():
    from matplotlib.colors import to_rgb

    looks = [(str(look["linestyle"]), look["marker"]) for look in map(drawing.look, range(24))]
    assert len(set(looks)) == 24
    bars = [drawing.bar(i) for i in range(16)]
    assert len({(bar["facecolor"], bar["hatch"]) for bar in bars}) == 16
    for one, two in itertools.combinations(bars[:8], 2):
        grey = [np.dot(to_rgb(bar["facecolor"]), (0.299, 0.587, 0.114)) for bar in (one, two)]
        assert one["hatch"] != two["hatch"] or abs(grey[0] - grey[1]) > 0.1


def test_the_command_needs_no_display_and_no_torch_to_draw(learning, tmp_path):
    script = (
        "import sys; from nsbench.results.plots import drawing, plots\n"
        "drawing.save(plots(sys.argv[1], ['cost'])[0][0].draw(3.3), 'svg', '')\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    command = [sys.executable, "-c", script, str(learning)]
    done = subprocess.run(command, capture_output=True, text=True, env=env | {"MPLBACKEND": "tkagg"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_writes_what_was_asked_for_and_says_what_it_could_not(learning, tmp_path):
    import pandas as pd

    out = tmp_path / "figures"
    store = ["plot", "--runs", str(learning), "-o", str(out)]
    done = CliRunner().invoke(cli, [*store, "--kind", "cost", "--where", "kge=transe"])
    assert done.exit_code == 0, done.output
    assert f"{out / 'cost-mkg_y'}: 8 files" in done.output
    assert set(pd.read_csv(out / "cost-mkg_y.csv")["model"]) == {"transe"}
    refused = CliRunner().invoke(cli, [*store, "--kind", "cd"])
    assert isinstance(refused.exception, Misuse)


@pytest.fixture
def more(tmp_path, monkeypatch):
    """more(name, source): one file more in the package of plots."""
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    def add(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, f"nsbench.results.plots.{name}", raising=False)
        kinds.cache_clear()

    yield add
    kinds.cache_clear()


def test_a_file_more_is_a_kind_more_in_the_command_its_help_and_the_report(learning, more, checkout):
    assert list(kinds()) == NAMES
    examples = re.findall(r"```python\n(.*?)```", (checkout / "docs" / "extending.md").read_text(), flags=re.DOTALL)
    more("seeds", *[source for source in examples if "KINDS" in source])
    assert list(kinds()) == [*NAMES, "seeds"]
    assert re.search(r"seeds +test MRR of every seed", CliRunner().invoke(cli, ["plot", "--help"]).output)
    (line,) = lines_of(drawn(learning, "seeds")["rotate, mkg_y"], "dhns")
    np.testing.assert_allclose(line.get_ydata(), mrr_of(learning, "dhns-rotate-*"))
    assert "Test MRR of each seed. mkg_y (released split" in report(learning, {"kge": "rotate", "sampler": "uniform"})


def test_two_kinds_of_one_name_are_refused(more):
    more("another", "from nsbench.results.plots.cost import KINDS")
    with pytest.raises(Misuse, match="2 kinds of plots are called 'cost'"):
        kinds()
