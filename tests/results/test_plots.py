"""Plots: what the artists show is held against figures read from the run folders here, by other means."""

import builtins
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from nsbench.cli import cli
from nsbench.commands.results import default_of
from nsbench.errors import Misuse
from nsbench.results.plots import drawing
from nsbench.results.plots.data import KINDS, TRAIN_TRIPLES, plots, write
from nsbench.results.tables import papers
from tests.results.stats.examples import DEMSAR, DEMSAR_RANKS

SIZE, BATCH, EVERY = 1000, 250, 20
PARTS = {"category": ("1-1", "1-n", "n-1", "n-n"), "seen": ("seen", "unseen")}


def result_of(run):
    return json.loads((run / "result.json").read_text())


def lines_of(axes, label):
    return [line for line in axes.get_lines() if line.get_label() == label]


def drawn(plot, width=drawing.ONE_COLUMN):
    """Axes of the figure by title."""
    return {axes.get_title(): axes for axes in plot.draw(width).axes}


def single(store, kind, **how):
    (plot,), _ = plots(store, [kind], **how)
    return plot


@pytest.fixture
def learning(store, run):
    """Three samplers, two models, three seeds, with events; MRR and seconds differ by run."""
    rng = np.random.default_rng(0)
    samplers = enumerate(("uniform", "bernoulli", "dhns"))
    for (s, sampler), kge, seed in itertools.product(samplers, ("transe", "rotate"), range(3)):
        train = 30.0 * (s + 1) + 5 * seed
        breakdown = {
            by: {part: {"mrr": float(rng.uniform(0.1, 0.5)), "queries": 60 if part == "1-1" else 400} for part in parts}
            for by, parts in PARTS.items()
        }
        path = run(
            sampler,
            kge,
            seed=seed,
            quality=1 + s / 2,
            protocol={"batch": BATCH},
            result={
                "selected_at": 3 * EVERY,
                "cost": {"train_seconds": train},
                "breakdown": breakdown,
                "train_triples": SIZE,
            },
        )
        events = [
            {"step": EVERY * i, "valid": {"mrr": float(rng.uniform(0.1, 0.4))}, "train_seconds": train * i / 4}
            for i in range(1, 5)
        ]
        (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return store


def events_of(store, sampler, kge):
    """step, seconds and MRR of every seed: three arrays [seeds, validations]."""
    runs = [
        [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        for run in sorted(store.glob(f"{sampler}-{kge}-*"))
    ]
    pick = [lambda e: e["step"], lambda e: e["train_seconds"], lambda e: e["valid"]["mrr"]]
    return [np.array([[of(event) for event in run] for run in runs]) for of in pick]


@pytest.mark.parametrize(("kind", "label"), [("epochs", "epoch"), ("seconds", "training time (s)")])
def test_a_curve_is_the_mean_over_seeds_and_its_band_the_lowest_and_highest(learning, kind, label):
    plot = single(learning, kind)
    assert plot.name == f"{kind}-mkg_y"
    panels = drawn(plot)
    assert list(panels) == ["transe, mkg_y", "rotate, mkg_y"]
    assert panels["rotate, mkg_y"].get_xlabel() == label
    for sampler, kge in itertools.product(("uniform", "bernoulli", "dhns"), ("transe", "rotate")):
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
    run = next(learning.glob("dhns-rotate-mkg_y-s1-*"))
    lines = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join(lines[:3]))
    (curve,) = lines_of(drawn(single(learning, "epochs"))["rotate, mkg_y"], "dhns")
    assert len(curve.get_xdata()) == 3


def test_without_the_number_of_training_triples_curves_go_against_steps(learning):
    for run in learning.iterdir():
        record = result_of(run)
        del record["train_triples"]
        (run / "result.json").write_text(json.dumps(record))
    plot = single(learning, "epochs")
    axes = drawn(plot)["rotate, mkg_y"]
    assert axes.get_xlabel() == "training step"
    (curve,) = lines_of(axes, "uniform")
    assert list(curve.get_xdata()) == [20, 40, 60, 80]
    assert "do not say how many steps make an epoch" in plot.caption


@pytest.mark.data
@pytest.mark.slow
def test_the_sizes_of_the_public_datasets_are_those_of_their_files():
    from nsbench.datasets.public import load_public

    sizes = {}
    for name, split in (("mkg_y", None), ("mkg_w", None), ("db15k", "clean"), ("db15k", "released")):
        data = load_public(name, None, split, "none")
        sizes[data.fingerprint] = len(data.train)
    assert sizes == TRAIN_TRIPLES


def test_cost_shows_means_with_their_intervals_and_fills_what_nothing_dominates(learning):
    panels = drawn(single(learning, "cost"))
    for kge in ("transe", "rotate"):
        points, filled = {}, set()
        for bars in panels[f"{kge}, mkg_y"].containers:
            records = [result_of(run) for run in learning.glob(f"{bars.get_label()}-{kge}-*")]
            mrr, seconds = ([100 * r["test"]["mrr"] for r in records], [r["cost"]["train_seconds"] for r in records])
            marker, _, (level, upright) = bars.lines
            points[bars.get_label()] = (np.mean(seconds), np.mean(mrr))
            np.testing.assert_allclose([marker.get_xdata()[0], marker.get_ydata()[0]], points[bars.get_label()])
            np.testing.assert_allclose(level.get_segments()[0][:, 0], [min(seconds), max(seconds)])
            interval = stats.t.interval(0.95, 2, np.mean(mrr), stats.sem(mrr))
            np.testing.assert_allclose(upright.get_segments()[0][:, 1], interval)
            if marker.get_markerfacecolor() != "white":
                filled.add(bars.get_label())
        undominated = {
            name
            for name, (x, y) in points.items()
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())
        }
        assert len(points) == 3
        assert filled == undominated


@pytest.mark.parametrize("factor", [1.001, 1.5, 3, 8, 20, 1000])
def test_a_log_axis_is_labelled_whatever_it_spans(factor):
    data = pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "row": ["a", "a", "b"],
            "seed": [0, 1, 0],
            "seconds": [103.0, 103 * factor, 103.0],
            "mrr": [0.1, 0.2, 0.3],
        }
    )
    (axes,) = drawing.cost(data, ["a", "b"], drawing.ONE_COLUMN).axes
    low, high = axes.get_xlim()
    shown = {axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks() if low <= tick <= high}
    assert 2 <= len(shown) <= 12


@pytest.mark.parametrize("slowest", [150, 2500])
@pytest.mark.parametrize("width", [drawing.ONE_COLUMN, drawing.TWO_COLUMNS])
def test_labels_of_a_log_axis_do_not_touch(slowest, width):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = pd.DataFrame(
        [
            {"model": model, "dataset": "mkg_y", "row": "uniform", "seed": 0, "seconds": seconds, "mrr": 0.3}
            for model in ("transe", "distmult", "rotate")
            for seconds in (2.0, slowest)
        ]
    )
    figure = drawing.cost(data, ["uniform"], width)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        labels = [label for tick, label in zip(axes.get_xticks(), axes.get_xticklabels()) if low <= tick <= high]
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
        assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_front_keeps_what_is_better_or_cheaper():
    assert drawing.front([(3, 5), (1, 1), (2, 1), (2, 4), (4, 5), (1, 0)]) == [(1, 1), (2, 4), (3, 5)]


def test_bars_by_part_of_the_test_set(learning):
    figure = single(learning, "relations").draw(drawing.TWO_COLUMNS)
    for axes, (kge, (by, parts)) in zip(figure.axes, itertools.product(("transe", "rotate"), PARTS.items()), strict=True):
        names = [text.get_text().split("\n")[0] for text in axes.get_xticklabels()]
        assert names == list(parts)
        found = [container for container in axes.containers if isinstance(container, matplotlib.container.BarContainer)]
        assert len(found) == 3 * len(parts)
        for container, (sampler, part) in zip(found, itertools.product(("uniform", "bernoulli", "dhns"), parts)):
            (bar,) = container.patches
            mrr = [result_of(run)["breakdown"][by][part]["mrr"] for run in learning.glob(f"{sampler}-{kge}-*")]
            assert container.get_label() == sampler
            assert bar.get_height() == pytest.approx(100 * np.mean(mrr))
            assert round(bar.get_x() + bar.get_width() / 2) == parts.index(part)
            assert bar.get_alpha() == (0.35 if part == "1-1" else 1)  # of 60 queries


def test_a_row_that_a_model_does_not_have_leaves_no_gap(learning):
    for path in learning.glob("bernoulli-rotate-*"):
        shutil.rmtree(path)
    for axes in single(learning, "relations").draw(drawing.TWO_COLUMNS).axes:
        bars = [container.patches[0] for container in axes.containers if hasattr(container, "patches")]
        first = sorted(bar.get_x() for bar in bars if bar.get_x() < 0.5)
        assert len(first) == (3 if "transe" in axes.get_title() else 2)
        np.testing.assert_allclose(np.diff(first), 0.84 / 3)  # side by side
        assert np.mean(first) == pytest.approx(-0.84 / 6)  # around the name of the part


def test_bars_need_a_breakdown(store, run):
    path = run("uniform")
    with pytest.raises(Misuse, match=f"{path.name} has no figures by category"):
        plots(store, ["relations"])


def test_an_option_of_the_protocol_on_x(store, run):
    for negatives in (1, 4, 16):
        changed = {} if negatives == 4 else {"negatives": negatives}
        for sampler in ("uniform", "dhns"):
            run(sampler, seeds=(0, 1), quality=negatives / 10, protocol={"negatives": negatives}, changed=changed)
    run("bernoulli", seeds=(0, 1), protocol={"negatives": 4})  # varied nowhere
    plot = single(store, "sensitivity")
    assert plot.name == "sensitivity-protocol.negatives-mkg_y"
    (axes,) = drawn(plot).values()
    assert axes.get_xlabel() == "protocol.negatives"
    assert axes.get_xscale() == "log"
    assert {line.get_label() for line in axes.get_lines()} == {"uniform", "dhns", "seeds: uniform", "seeds: dhns"}
    records = [result_of(path) for path in store.iterdir()]
    for sampler in ("uniform", "dhns"):
        found = sorted(
            (r["config"]["protocol"]["negatives"], r["test"]["mrr"]) for r in records if r["config"]["sampler"] == sampler
        )
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
    (axes,) = drawn(plot).values()
    by_label = {bars.get_label(): bars for bars in axes.containers}
    assert set(by_label) == {"transe: uniform", "transe: kbgan"}
    for sampler in ("uniform", "kbgan"):
        mrr = np.array([100 * result_of(path)["test"]["mrr"] for path in store.glob(f"{sampler}-*")])
        theirs = sorted(100 * figure.value for figure in printed if figure.sampler == sampler)
        marker, _, (upright,) = by_label[f"transe: {sampler}"].lines
        np.testing.assert_allclose(np.sort(marker.get_xdata()), theirs)
        np.testing.assert_allclose(marker.get_ydata(), mrr.mean())
        half = 4.302653 * mrr.std(ddof=1) * (1 + 1 / 3) ** 0.5
        np.testing.assert_allclose(upright.get_segments()[0][:, 1], [mrr.mean() - half, mrr.mean() + half], rtol=1e-6)
        outside = plot.data[plot.data["row"] == sampler]["outside"]
        assert list(outside) == [
            abs(value - mrr.mean()) > half + 0.005 for value in 100 * plot.data[plot.data["row"] == sampler]["published"]
        ]
    assert "never tested" in plot.caption


def test_a_published_figure_is_drawn_once(store, run):
    run("sans", seeds=range(3), options={"sampler": {"hops": 3}})
    run("sans", seeds=range(3))
    run("sans", "transe", "mkg_w", seeds=range(3), options={"sampler": {"hops": 3}})
    data = single(store, "published").data
    assert set(zip(data["dataset"], data["row"])) == {("mkg_y", "sans"), ("mkg_w", "sans (hops=3)")}


def test_by_which_filters_the_runs_were_chosen_stands_in_the_caption(learning):
    plots_made, _ = plots(learning, ["epochs", "cost"], where={"kge": "transe"})
    assert len(plots_made) == 2
    assert all(plot.caption.endswith("Runs chosen by kge=transe.") for plot in plots_made)
    assert "Runs chosen by" not in single(learning, "epochs").caption


def test_a_split_that_the_papers_do_not_have_is_said(store, run):
    run("uniform", dataset="db15k", split="clean", seeds=range(3))
    assert "db15k: ours is the clean split" in single(store, "published").caption


def test_without_a_published_figure_there_is_no_scatter(store, run):
    run("mine", seeds=range(3))
    with pytest.raises(Misuse, match="no paper prints an MRR for these"):
        plots(store, ["published"])


@pytest.fixture
def blocks(store, run):
    """Two models, four datasets, two seeds: dhns always above uniform, bernoulli mostly, but for two small reverses."""
    for i, (kge, dataset) in enumerate(itertools.product(("transe", "rotate"), ("mkg_y", "mkg_w", "db15k", "mine"))):
        run("uniform", kge, dataset, seeds=(0, 1), quality=1)
        run("bernoulli", kge, dataset, seeds=(0, 1), quality=1 + (i + 1) / 4 * (-1 if i < 2 else 1))
        run("dhns", kge, dataset, seeds=(0, 1), quality=2)
    return store


def means_of(store):
    records = [result_of(path) for path in store.iterdir()]
    frame = pd.DataFrame([{**record["config"], "mrr": record["test"]["mrr"]} for record in records])
    return frame.pivot_table("mrr", ["kge", "dataset"], "sampler")[["uniform", "bernoulli", "dhns"]]


def test_critical_differences_show_the_ranks_and_join_what_is_not_separated(blocks):
    plot = single(blocks, "cd")
    means = means_of(blocks)
    ranks = means.rank(axis=1, ascending=False).mean()
    p = {
        pair: stats.wilcoxon(means[pair[0]] - means[pair[1]], method="exact").pvalue
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
    texts = {text.get_text() for text in axes.texts}
    assert {f"{sampler} {ranks[sampler]:.2f}" for sampler in means.columns} <= texts
    joined = {line.get_label() for line in axes.get_lines() if str(line.get_label()).startswith("clique")}
    assert joined == {"clique: uniform, bernoulli", "clique: bernoulli, dhns"}
    assert not lines_of(axes, "critical difference")
    assert "over 8 blocks" in plot.caption
    assert len(plot.data) == 24


def test_too_many_incomplete_blocks_are_refused(blocks, run):
    for dataset in ("five", "six"):
        run("uniform", "transe", dataset, seeds=(0, 1))
    assert "over 8 blocks" in single(blocks, "cd").caption  # 2 of 10 are no more than a fifth
    run("uniform", "transe", "seven", seeds=(0, 1))
    with pytest.raises(Misuse, match="3 of 11 blocks lack a row, so the complete ones are a choice"):
        plots(blocks, ["cd"])


def test_pairs_are_tested_only_where_friedman_finds_a_difference(blocks):
    two = {"sampler": "uniform,bernoulli"}
    better = means_of(blocks)["bernoulli"] - means_of(blocks)["uniform"]
    assert stats.wilcoxon(better, method="exact").pvalue < 0.05  # which alone would part them
    assert stats.binomtest(int((better > 0).sum()), len(better)).pvalue > 0.05  # Friedman's test of two rows
    plot = single(blocks, "cd", where=two)
    (axes,) = plot.draw(drawing.ONE_COLUMN).axes
    joined = [str(line.get_label()) for line in axes.get_lines() if str(line.get_label()).startswith("clique")]
    assert joined in (["clique: uniform, bernoulli"], ["clique: bernoulli, uniform"])
    assert "which found no difference, so no pair was tested" in plot.caption


def test_nemenyi_draws_its_ruler(blocks):
    (axes,) = single(blocks, "cd", posthoc="nemenyi").draw(drawing.TWO_COLUMNS).axes
    (ruler,) = lines_of(axes, "critical difference")
    start, end = axes.get_lines()[0].get_xdata()
    length = (ruler.get_xdata()[1] - ruler.get_xdata()[0]) / (end - start) * 2
    assert length == pytest.approx(2.343701 * (3 * 4 / (6 * 8)) ** 0.5, abs=1e-4)  # q.05 of Demšar's table 5, k = 3


def test_a_bar_is_dotted_where_it_passes_over_what_it_does_not_join():
    figure = drawing.critical_differences(["a", "b", "c"], [1.2, 2.0, 2.8], [(0, 2)], None, drawing.ONE_COLUMN)
    bars = [line for line in figure.axes[0].get_lines() if line.get_gid() == "bar"]
    assert [bar.is_dashed() for bar in bars] == [True, True]
    figure = drawing.critical_differences(["a", "b", "c"], [1.2, 2.0, 2.8], [(0, 1)], None, drawing.ONE_COLUMN)
    assert [line.is_dashed() for line in figure.axes[0].get_lines() if line.get_gid() == "bar"] == [False]


@pytest.mark.parametrize("width", [drawing.ONE_COLUMN, drawing.TWO_COLUMNS])
def test_no_name_leaves_the_diagram(width):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = ["uniform", "dhns (released, fusion=adamf)", "nscaching (lazy=1)", "one_vs_all (own loss)"]
    figure = drawing.critical_differences(labels, list(DEMSAR_RANKS), [(0, 2), (1, 2, 3)], 1.25, width)
    FigureCanvasAgg(figure).draw()
    edges = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= edges.x0 - 0.5
        assert box.x1 <= edges.x1 + 0.5
        assert box.y0 >= edges.y0 - 0.5
        assert box.y1 <= edges.y1 + 0.5


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([("uniform", "transe", (0, 1))], "one row has nothing to be ranked against"),
        ([("uniform", "transe", (0, 1)), ("dhns", "transe", (0, 1))], "ranking 2 rows takes 6 blocks.* and there is 1;"),
    ],
)
def test_no_diagram_where_blocks_do_not_suffice(store, run, runs, words):
    for sampler, kge, seeds in runs:
        run(sampler, kge, seeds=seeds)
    with pytest.raises(Misuse, match=words):
        plots(store, ["cd"])


def test_incomplete_blocks_do_not_count(blocks, run):
    run("kbgan", "transe", "mkg_y", seeds=(0, 1))
    with pytest.raises(Misuse, match=r"takes 8 blocks.* is 1 \(8 of uniform, bernoulli, dhns alone\); run more"):
        plots(blocks, ["cd"])


def test_no_diagram_of_single_seeds(blocks):
    with pytest.raises(Misuse, match="a rank from one seed is luck"):
        plots(blocks, ["cd"], where={"seed": 0})


def test_what_cannot_be_drawn_is_said_in_one_sentence(learning):
    made, refused = plots(learning)
    assert {plot.name.partition("-")[0] for plot in made} == {"epochs", "seconds", "cost", "relations", "published"}
    assert set(refused) == {"cd", "sensitivity"}
    for sentence in refused.values():
        assert ". " not in sentence
        assert "\n" not in sentence
    with pytest.raises(Misuse, match="unknown kind of plot 'pie'; there are cd, epochs"):
        plots(learning, ["pie"])
    with pytest.raises(Misuse, match=r"^cd: ranking 3 rows"):
        plots(learning, ["cost", "cd"])


def test_a_damaged_curve_is_named(learning):
    run = next(learning.iterdir())
    (run / "events.jsonl").write_text('{"step": 1')
    with pytest.raises(Misuse, match=rf"cannot read .*{run.name}.*\(it is damaged\)"):
        plots(learning, ["epochs"])
    (run / "events.jsonl").unlink()
    with pytest.raises(Misuse, match=r"\(No such file or directory\)"):
        plots(learning, ["epochs"])


def test_runs_that_may_not_share_a_table_share_no_plot(learning, run):
    run("kbgan", "transe", protocol={"name": "cpu"})
    with pytest.raises(Misuse, match="the runs differ in protocol"):
        plots(learning, ["cost"])


def test_where_nothing_can_be_drawn_the_common_reason_is_given(store, run):
    run("uniform", protocol={"name": "cpu"})
    run("uniform")
    with pytest.raises(Misuse, match=r"^the runs differ in protocol"):
        plots(store)


def test_an_empty_store_says_what_to_run(store):
    with pytest.raises(Misuse, match=r"no complete run in .*start with `nsbench run"):
        plots(store)


def test_without_matplotlib_one_sentence_names_the_extra(learning, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Misuse, match=r"plots need matplotlib; run pip install 'nsbench\[plots\]'"):
        plots(learning)


def test_the_same_runs_give_the_same_bytes_in_files_written_whole(learning, tmp_path, monkeypatch):
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
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):  # a user's own settings change nothing
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


def test_widths_are_those_of_the_columns(learning):
    for plot in plots(learning)[0]:
        for width in (drawing.ONE_COLUMN, drawing.TWO_COLUMNS):
            figure = plot.draw(width)
            assert figure.get_figwidth() == width
            assert figure.get_figheight() < 9.5  # a page
            assert not figure.texts or all(text.get_fontsize() >= 6 for text in figure.texts)
            for axes in figure.axes:
                names = [axes.title, axes.xaxis.label, axes.yaxis.label]
                for text in (*names, *axes.get_xticklabels(), *axes.get_yticklabels()):
                    assert text.get_fontsize() >= 6


def test_rows_are_told_apart_without_colour():
    looks = [(str(look["linestyle"]), look["marker"]) for look in map(drawing._look, range(24))]
    assert len(set(looks)) == 24
    bars = [drawing._bar(i) for i in range(16)]
    assert len({(bar["facecolor"], bar["hatch"]) for bar in bars}) == 16
    for one, two in itertools.combinations(bars[:8], 2):
        grey = [np.dot(matplotlib.colors.to_rgb(bar["facecolor"]), (0.299, 0.587, 0.114)) for bar in (one, two)]
        assert one["hatch"] != two["hatch"] or abs(grey[0] - grey[1]) > 0.1


def test_the_command_needs_no_display_and_no_torch_to_draw(learning, tmp_path):
    script = (
        "import sys; from pathlib import Path; from nsbench.results.plots.data import plots, write\n"
        "for plot in plots(sys.argv[1], ['cost'])[0]: write(plot, Path(sys.argv[2]))\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    command = [sys.executable, "-c", script, str(learning), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=env | {"MPLBACKEND": "tkagg"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_the_command_writes_what_was_asked_for_and_says_what_it_could_not(learning, tmp_path):
    out = tmp_path / "figures"
    store = ["plot", "--runs", str(learning), "-o", str(out)]
    done = CliRunner().invoke(cli, [*store, "--kind", "cost", "--where", "kge=transe"])
    assert done.exit_code == 0, done.output
    assert f"{out / 'cost-mkg_y'}: 8 files" in done.output
    assert set(pd.read_csv(out / "cost-mkg_y.csv")["model"]) == {"transe"}
    refused = CliRunner().invoke(cli, [*store, "--kind", "cd"])
    assert isinstance(refused.exception, Misuse)
    assert set(KINDS) == {"cd", "epochs", "seconds", "cost", "sensitivity", "relations", "published"}


@pytest.mark.fact(52)
def test_demsars_diagram_at_one_tenth():
    """Bars over {A, C} and {B, C, D}."""
    from nsbench.results.stats.blocks import block_ranks
    from nsbench.results.stats.posthoc import cliques, nemenyi_p

    ranks = block_ranks(DEMSAR).mean(axis=0)
    np.testing.assert_allclose(ranks, DEMSAR_RANKS)
    names = ["A", "B", "C", "D"]
    figure = drawing.critical_differences(names, ranks, cliques(nemenyi_p(ranks, 14), 0.1), None, drawing.ONE_COLUMN)
    labels = {line.get_label() for line in figure.axes[0].get_lines()}
    assert {label for label in labels if str(label).startswith("clique")} == {"clique: A, C", "clique: B, C, D"}
