"""Means over seeds: figures, spread, markers, styles, rounding. NSBENCH_WRITE_GOLDEN=1 writes the golden files anew."""

import csv
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

from nsbench.metrics import reciprocal
from nsbench.results import load
from nsbench.results.stats import statistics
from nsbench.results.stats.multiplicity import holm
from nsbench.results.store import Run
from nsbench.results.tables import comparison
from nsbench.results.tables.metrics import METRICS
from nsbench.results.writers import write
from nsbench.results.writers.words import at
from tests.results.tables.looking import cell, labels, records

GOLDEN = Path(__file__).parents[1] / "golden"


FORMS = {"md": "md", "latex": "tex", "csv": "csv"}


def tokens(text):
    """Numbers as numbers, so that the last bit of a library's t distribution does not matter."""
    for line in csv.reader(io.StringIO(text)):
        for token in " ".join(f"{i}:{field}" for i, field in enumerate(line)).replace(":", " ").split():
            try:
                yield pytest.approx(float(token), rel=1e-9)
            except ValueError:
                yield token


@pytest.mark.parametrize("form", FORMS)
def test_golden(small_store, form):
    text = write(comparison(small_store, published=True, where={"kge": "transe"}), form)
    golden = GOLDEN / f"published.{FORMS[form]}"
    if os.environ.get("NSBENCH_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    if form == "csv":
        expected, found = list(tokens(golden.read_text(encoding="utf-8"))), list(tokens(text))
        assert len(found) == len(expected)
        plain = [token.expected if hasattr(token, "expected") else token for token in found]
        assert all(token == want for token, want in zip(plain, expected))
    else:
        assert text == golden.read_text(encoding="utf-8")


def test_cells_are_mean_and_deviation_of_the_runs(small_store):
    found = records(comparison(small_store))
    frame = load(small_store)
    groups = frame.groupby(["kge", "sampler", "dataset"])
    for metric in ("mrr", "hits@1", "hits@3", "hits@10"):
        own = found[(found["metric"] == metric) & (found["status"] == "ok")].set_index(["kge", "sampler", "dataset"])
        assert len(own) == len(groups)
        expected = groups[metric].agg(["mean", "std", "count"])
        assert np.allclose(own["mean"], expected.loc[own.index, "mean"], rtol=1e-12)
        assert np.allclose(own["sd"], expected.loc[own.index, "std"], rtol=1e-9)
        for shown, (mean, sd, _) in zip(own["shown"], expected.loc[own.index].to_numpy()):
            assert re.match(rf"{100 * mean:.2f}[▲▼†]* ± {100 * sd:.2f}$", shown)


def test_markers_come_from_the_two_way_t_with_holm_over_the_whole_table(small_store):
    table = comparison(small_store)
    frame = load(small_store)
    contrasts = [
        ("bernoulli", "rotate", "mkg_y"),
        ("dhns", "rotate", "mkg_y"),
        ("bernoulli", "transe", "mkg_y"),
        ("dhns", "transe", "mkg_y"),
        ("dhns", "transe", "db15k"),
    ]
    p = []
    for sampler, kge, dataset in contrasts:
        arms = []
        for name in (sampler, "uniform"):
            chosen = frame[(frame["sampler"] == name) & (frame["kge"] == kge) & (frame["dataset"] == dataset)]
            arms.append(np.stack([reciprocal(Run(row["path"], {}, {}, {}).ranks().ranks) for _, row in chosen.iterrows()]))
        p.append(statistics.two_way_t(*arms).p)
    adjusted = holm(p)
    for (sampler, kge, dataset), raw, corrected in zip(contrasts, p, adjusted):
        own = cell(table, sampler, dataset=dataset, group=kge)
        assert own.record["p"] == pytest.approx(raw)
        assert own.record["p_holm"] == pytest.approx(corrected)
        assert own.record["family"] == 5
        assert ("▲" in own.marks, "▼" in own.marks) == (corrected < 0.05 and dataset == "mkg_y", dataset == "db15k")
    assert not np.allclose(p, adjusted)
    assert [("▲" in cell(table, name).marks) for name in ("uniform", "bernoulli", "dhns")] == [False, False, True]
    assert all(
        "p" not in c.record
        for row in table.rows
        for c, column in zip(row.cells, table.columns)
        if column.metric.name != "mrr"
    )
    assert "Holm over all 5 of this table" in str(table.caption)


@pytest.mark.parametrize(
    ("seeds", "spread", "marked", "caption"),
    [
        (1, False, False, "One seed (0), so no spread is known"),
        (2, False, False, "Mean of 2 seeds (0, 1), too few for a standard deviation"),
        (3, True, False, "over 3 seeds (0, 1, 2)"),
        (4, True, False, "No test: that takes 5 seeds of a row and of its baseline uniform"),
        (5, True, True, "over 5 seeds (0, 1, 2, 3, 4)"),
    ],
)
def test_what_is_shown_depends_on_the_number_of_seeds(store, run, seeds, spread, marked, caption):
    run("uniform", seeds=range(seeds))
    run("dhns", seeds=range(seeds), quality=2.5)
    table = comparison(store)
    for label in ("uniform", "dhns"):
        assert cell(table, label).spread.startswith("±") == spread
        assert ("sd" in cell(table, label).record) == spread
    assert (cell(table, "dhns").marks == ("▲",)) == marked
    assert ("p" in cell(table, "dhns").record) == marked
    assert caption in str(table.caption)


def test_unequal_numbers_of_seeds_are_a_column_where_the_cells_of_a_row_agree(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(2), quality=2.5)
    run("bernoulli", seeds=range(3))
    table = comparison(store)
    assert not any(c.marks for row in table.rows for c in row.cells)
    assert [(row.label, row.n) for row in at(table, range(4))] == [("uniform", "5"), ("bernoulli", "3"), ("dhns", "2")]
    run("uniform", dataset="mkg_w", seeds=range(4))
    table = comparison(store)
    for places, dataset, n in ((range(4), "mkg_w", "4"), (range(4, 8), "mkg_y", "5")):
        assert {table.columns[i].dataset for i in places} == {dataset}
        shown = at(table, places)
        assert [row.n for row in shown if row.label == "uniform"] == [n]
        assert not any("n=" in c.spread for row in shown for c in row.cells)
    both = {row.label: row for row in at(table, range(8))}
    assert (both["uniform"].n, both["dhns"].n) == ("", "2")
    assert [c.spread[-5:] for c in both["uniform"].cells] == ["(n=4)"] * 4 + ["(n=5)"] * 4


@pytest.mark.parametrize("form", ["rich", "md", "latex", "html"])
def test_the_column_n_is_there_only_if_rows_differ(store, run, form):
    run("uniform", seeds=range(3))
    run("bernoulli", seeds=range(3))
    head = {"rich": "sampler +n ", "md": r"sampler +\| +n \|", "latex": "Sampler & n &", "html": "<button>n</button>"}[form]
    assert not re.search(head, write(comparison(store), form))
    run("dhns", seeds=range(2))
    text = write(comparison(store), form)
    assert len(re.findall(head, text)) == 1
    assert "(n=" not in text


def exact(*reciprocals):
    """Ranks whose MRR is the mean of the given reciprocals of whole numbers, one per triple, both sides alike."""
    rank = np.array([round(1 / x) for x in reciprocals], np.int32)
    return np.broadcast_to(rank[:, None, None], (len(rank), 2, 2)).copy(), np.full((len(rank), 2), 100_000)


@pytest.mark.fact(46, 47)
def test_best_and_second_go_by_unrounded_means_and_print(store, run):
    run("uniform", ranks=exact(1 / 2, 1 / 50_000))  # 25.00
    run("bernoulli", ranks=exact(1 / 2, 1 / 90_000))  # 25.00 too, a little less: equal in print, so equal in style
    run("sans", ranks=exact(1 / 4, 1 / 100))
    run("dhns", ranks=exact(1 / 4, 1 / 110))
    table = comparison(store, layout="mmrns2")
    assert [cell(table, label).style for label in labels(table)] == ["best", "best", "second", ""]
    assert [cell(table, label).value for label in labels(table)] == ["25.00", "25.00", "13.00", "12.95"]
    assert cell(table, "uniform").record["mean"] > cell(table, "bernoulli").record["mean"]
    assert [cell(table, label, "mr").style for label in labels(table)] == ["", "", "best", "second"]  # lower is better
    assert cell(table, "sans", "mr").value == "52"


def test_only_means_of_the_most_seeds_are_ranked(store, run):
    run("uniform", seeds=range(3))
    run("bernoulli", seeds=range(3), quality=1.2)
    run("dhns", seeds=range(2), quality=3)
    run("ns_kge", seeds=range(3), quality=3, own_loss=True)
    run("uniform", "rotate")
    run("dhns", "rotate", quality=3)
    table = comparison(store)
    styles = {(row.group, row.label): row.cells[0].style for row in table.rows}
    assert styles == {
        ("transe", "uniform"): "second",
        ("transe", "bernoulli"): "best",
        ("transe", "dhns"): "",
        ("transe", "ns_kge (own loss)"): "",
        ("rotate", "uniform"): "second",
        ("rotate", "dhns"): "best",
    }
    assert "largest n" in str(table.caption)
    assert cell(table, "ns_kge (own loss)").record["own_loss"] is True


@pytest.mark.fact(46)
@pytest.mark.parametrize(("value", "text"), [(0.02675, "2.68"), (0.345, "34.50"), (1.0, "100.00"), (0.00005, "0.01")])
def test_rounding_is_half_up_in_decimal(value, text):
    assert METRICS["mrr"].text(value) == text


def test_zero_has_no_minus_and_what_is_not_finite_prints():
    mrr = METRICS["mrr"]
    assert [mrr.text(x) for x in (-0.00004, -0.0, 0.0)] == ["0.00", "0.00", "0.00"]
    assert [mrr.text(x, sign=True) for x in (-0.00004, 0.00004, -0.00005)] == ["+0.00", "+0.00", "-0.01"]
    assert [mrr.text(x) for x in (np.inf, -np.inf, np.nan)] == ["inf", "-inf", "nan"]
    assert [mrr.text(x, sign=True) for x in (np.inf, -np.inf)] == ["+inf", "-inf"]


def test_runs_that_did_not_converge_are_marked(store, run):
    run("uniform", seeds=range(2))
    run("dhns", seeds=[0])
    run("dhns", seeds=[1], result={"converged": False})
    table = comparison(store)
    assert all(cell(table, "dhns", metric).marks == ("†",) for metric in ("mrr", "hits@10"))
    assert cell(table, "uniform").marks == ()
    assert table.caption.signs.startswith("† Not converged")
    assert "†" not in str(comparison(store, where={"sampler": "uniform"}).caption)
    costs = comparison(store, layout="cost")
    assert "†" not in str(costs.caption)
    assert not any("†" in own.marks for row in costs.rows for own in row.cells)


def test_missing_cells_are_a_dash(small_store):
    table = comparison(small_store)
    assert cell(table, "bernoulli", dataset="db15k").value == "-"
    assert cell(table, "bernoulli", dataset="db15k").record["status"] == "missing"


def test_a_cell_names_the_seeds_that_its_figures_are_of(run, store):
    run("uniform", seeds=(0, 2))
    for seed, hardness in ((1, 0.7), (3, 0.8)):
        run("uniform", seed=seed, result={"diagnostics": {"end": {"hardness": hardness}}})
    (row,) = at(comparison(store, layout="diagnostics"), [0])
    assert row.cells[0].record["seeds"] == "1 3"
    assert row.cells[0].record["values"] == "0.7 0.8"
    assert (row.cells[0].value, row.n) == ("75.0", "2")
