"""Published figures beside ours, and alone."""

import itertools
import json

import numpy as np
import pytest

from nsbench.errors import Misuse
from nsbench.results.tables import comparison, papers
from nsbench.results.writers import write
from tests.results.conftest import make_ranks
from tests.results.tables.looking import cell, groups


def test_published_figures_stand_beside_ours_and_never_compete(store, run):
    run("uniform", "transe", seeds=range(5), quality=0)
    run("dhns", "transe", seeds=range(5), quality=0.1)
    plain, table = comparison(store), comparison(store, published=True)
    ours = [row for row in table.rows if not row.published]
    assert ours == list(plain.rows)  # styles, markers and tests are those without the papers
    beside = {row.label: row.cells[0] for row in table.rows if row.published}
    assert beside["published: mmrns2022 Table 2"].value == "30.73"
    difference = 100 * cell(table, "uniform").record["mean"] - 30.73
    assert beside["published: mmrns2022 Table 2"].spread == f"({difference:+.2f})"
    assert all(row.cells[i].style == "" for row in table.rows if row.published for i in range(len(row.cells)))
    assert all("p" not in c.record and "mean" not in c.record for row in table.rows if row.published for c in row.cells)
    assert any("never tested" in note for note in table.notes)


def test_a_published_figure_stands_once_under_the_row_that_is_most_like_it(store, run):
    run("sans", options={"sampler": {"hops": 3}})
    run("sans", fusion="adamf")
    run("sans", variant="released", options={"sampler": {"mode": "rw"}})
    run("sans")
    run("mmrns", features="names", modalities=["text"], options={"sampler": {"beta": 3.0}})
    run("mmrns", features="names", modalities=["text"], fusion="adamf", options={"sampler": {"beta": 3.0}})

    def beneath():
        rows = comparison(store, published=True).rows
        return [above.label for above, row in itertools.pairwise(rows) if row.published and not above.published]

    assert beneath() == ["sans", "mmrns (features=names:text, beta=3.0)"]
    run("sans", variant="paper", options={"sampler": {"anchor": True}})
    assert beneath() == ["sans (paper)", "mmrns (features=names:text, beta=3.0)"]


def test_published_figures_outside_the_prediction_interval_are_flagged(store, run):
    """Of one new run: t(n - 1) sd sqrt(1 + 1/n) around the mean, and half a unit of the last printed digit."""
    values = np.array([0.3000, 0.3010, 0.3005, 0.2995, 0.2990])
    half = 3.041443 * np.std(values, ddof=1) + 0.00005  # fact 43, five seeds; printed to two decimals of a percentage
    paths = run("uniform", seeds=range(5))
    for off in (half * 0.98, half * 1.02, -half * 0.98, -half * 1.02):
        for path, value in zip(paths, values - values.mean() + 0.3073 + off):
            result = json.loads((path / "result.json").read_text())
            result["test"]["mrr"] = value
            (path / "result.json").write_text(json.dumps(result))
        rows = comparison(store, published=True).rows
        (beside,) = [row.cells[0] for row in rows if row.label == "published: mmrns2022 Table 2"]
        assert ("‡" in beside.marks) == (abs(off) > half) == beside.record["outside"]
        low, high = beside.record["prediction_low"], beside.record["prediction_high"]
        assert (high - low) / 2 == pytest.approx(half - 0.00005, rel=1e-5)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_predict_nothing(store, run, seeds):
    run("uniform", seeds=range(seeds))
    table = comparison(store, published=True)
    assert not any("outside" in c.record or "‡" in c.marks for row in table.rows for c in row.cells)
    assert not any("‡" in note for note in table.notes)


@pytest.mark.parametrize(("quality", "noise", "below"), [(3, 0.2, True), (-2, 0.002, False)])
def test_a_printed_difference_that_our_test_would_not_have_seen_is_called_so(store, run, quality, noise, below):
    """mmrns2022 prints 30.73 for uniform and 31.12 for bernoulli, dhns2025's Table 4 the same."""
    for seed in range(5):
        for i, sampler in enumerate(("uniform", "bernoulli")):
            run(sampler, seed=seed, ranks=make_ranks(quality, 10 * i + seed, noise=noise))
    made = comparison(store, published=True)
    ours = next(row for row in made.rows if row.label == "bernoulli").cells[0].record
    assert (ours["detectable"] > 0.0039) == below
    cells = {row.label: row.cells for row in made.rows if row.published and row.cells[0].record["sampler"] == "bernoulli"}
    assert set(cells) == {"published: mmrns2022 Table 2", "published: dhns2025 Table 4"}
    for mrr, *others in cells.values():
        assert mrr.record["published_difference"] == pytest.approx(0.0039)
        assert (mrr.record["below_detectable"], "§" in mrr.marks) == (below, below)
        assert not any("§" in cell.marks for cell in others)
    uniform = [row.cells[0] for row in made.rows if row.published and row.cells[0].record["sampler"] == "uniform"]
    assert len(uniform) == 3
    assert not any("published_difference" in cell.record for cell in uniform)
    said = [note for note in made.notes if note.startswith("§")]
    words = f"bernoulli (transe, mkg_y; mmrns2022 Table 2) +0.39, ours from {100 * ours['detectable']:.2f} on"
    assert [words in note for note in said] == [True] * below


def test_without_runs_the_papers_stand_alone(store):
    """Issue 5, figure 2: the published table with its footnotes, and empty cells of ours."""
    table = comparison(store, published=True, layout="dhns4")
    ours = [row for row in table.rows if not row.published]
    assert {cell.value for row in ours for cell in row.cells} == {"-"}
    assert {cell.record["status"] for row in ours for cell in row.cells} == {"missing"}
    printed = [figure for figure in papers.figures() if figure.metric in ("mrr", "hits@1", "hits@3", "hits@10")]
    shown = [cell for row in table.rows if row.published for cell in row.cells if cell.record["status"] == "published"]
    assert len(shown) == len(printed) > 300
    assert sorted(cell.value for cell in shown) == sorted(figure.printed for figure in printed)
    assert not any(cell.style for row in table.rows for cell in row.cells)
    assert {"transe", "distmult", "rotate"} <= set(groups(table))
    marked = {mark for cell in shown for mark in cell.marks}
    assert marked == {str(i + 1) for i in range(len(table.footnotes))}
    assert any("impossible" in note for note in table.footnotes)
    assert any("29 of those cells differ" in note for note in table.notes)
    assert "start with `nsbench run" in str(table.caption)
    assert all("36.68" in write(table, form) for form in ("rich", "md", "latex", "csv", "html"))


def test_the_papers_alone_can_be_filtered(store):
    table = comparison(store, published=True, where={"dataset": "mkg_y", "kge": "rotate,transe", "sampler": ["dhns"]})
    assert groups(table) == ["transe", "rotate"]
    assert {row.label for row in table.rows if not row.published} == {"dhns"}
    assert {column.dataset for column in table.columns} == {"mkg_y"}
    with pytest.raises(Misuse, match="seed"):
        comparison(store, published=True, where={"seed": "0"})
    with pytest.raises(Misuse, match="kge=nothing"):
        comparison(store, published=True, where={"kge": "nothing"})
    with pytest.raises(Misuse, match="cost"):
        comparison(store, published=True, layout="cost")


def test_notes_of_published_figures_are_footnotes(store, run):
    run("dhns", "distmult")
    table = comparison(store, published=True)
    (row,) = [row for row in table.rows if row.label == "published: dhns2025 Table 4"]
    marked = {c.metric.name: own.marks for c, own in zip(table.columns, row.cells) if own.marks}
    assert list(marked) == ["hits@1"]
    (number,) = marked["hits@1"]
    assert "impossible" in table.footnotes[int(number) - 1]
    assert f"[{number}] impossible" in write(table, "md")
    assert f"$^{{{number}}}$ impossible" in write(table, "latex")


def test_another_split_than_the_papers_is_said(store, run):
    run("uniform", "transe", "db15k", split="clean")
    run("uniform", "transe", "mkg_y")
    notes = comparison(store, published=True).notes
    assert [n for n in notes if "split" in n] == ["db15k: ours is the clean split, the papers trained on the released one."]


def test_a_table_without_published_figures_says_so(store, run):
    run("zebra", "transe", "planted:small")
    assert "No published figure fits a row of this table." in comparison(store, published=True).notes
