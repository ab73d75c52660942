"""What a table says of where a row's negatives come from: what they read, what the method is called, a dead generator."""

import io
import itertools
import re

import pytest
from rich.console import Console

from nsbench.results.compare import compare
from nsbench.results.plots import plots
from nsbench.results.report import report
from nsbench.results.tables import comparison
from nsbench.results.tables.layouts import LAYOUTS
from nsbench.results.writers import write
from nsbench.results.writers.terminal import to_rich
from tests.results.tables.looking import cell, labels, records

DEAD = ["the true entity's own vectors score low (0.31)", "the gradient is 0.002 of the sampled ones'"]
MEASURED = {"step": 0, "hardness": 0.5}


def result(dead=None, **figures):
    found = {"diagnostics": {"sampler": {"noise_loss_quarter2": 0.75}, "end": {**MEASURED, **figures}}}
    return found | ({"dead": dead} if dead else {})


@pytest.fixture
def mixed(store, run):
    """uniform, a live mmrns, and a dhns that is dead in two of five seeds; and one dhns that is another row."""
    run("uniform", seeds=range(5), result={"diagnostics": {"sampler": {}, "end": MEASURED}})
    run("mmrns", seeds=range(5), quality=2, result=result(), reads=["structure", "names"], called="1 modality")
    dhns = {"reads": ["structure"], "called": "w/o MMC"}
    for seed in range(5):
        figures = {"generated_truth": 0.31, "generated_gradient": 0.002} if seed in (1, 3) else {"generated_truth": 0.9}
        run("dhns", seed=seed, quality=2.5, result=result(DEAD if seed in (1, 3) else None, **figures), **dhns)
    run("dhns", seeds=range(5), quality=2.4, result=result(), options={"sampler": {"hal": "off"}}, **dhns)
    return store


def said(table, form):
    """All text of the table in a format; of the terminal as it prints it, in one line."""
    if form != "rich":
        return write(table, form)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(to_rich(table, 200))
    return " ".join(console.export_text().split())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_table_names_the_rows_with_a_dead_generator_and_says_why(mixed, layout):
    table = comparison(mixed, layout=layout, baseline="dhns" if layout == "ablation" else "uniform")
    notes = [note for note in table.notes if "is dead" in note]
    assert notes == [
        "The generator of dhns (w/o MMC) (transe, mkg_y) is dead in 2 of 5 runs; in that of seed 1, "
        "the true entity's own vectors score low (0.31), and the gradient is 0.002 of the sampled ones'."
    ]
    for form in ("rich", "md", "latex", "html", "csv"):
        text = said(table, form)
        assert "0.31" in text
        assert "0.002 of the sampled ones" in text
        assert form == "csv" or re.search(r"is dead in 2\s+of 5 runs", text)
    found = records(table)
    dead = found[found["dead"].notna()]
    assert set(dead["row"]) == {"dhns (w/o MMC)"}
    assert len(dead) == sum((found["row"] == "dhns (w/o MMC)") & (found["status"] != "missing"))  # every cell of it
    assert set(dead["dead"]) == {"; ".join(f"seed {seed}: {'; '.join(DEAD)}" for seed in (1, 3))}


def test_a_live_generator_gets_no_note(store, run):
    run("uniform", seeds=range(2))
    run("dhns", seeds=range(2), result=result())
    for form in ("md", "html", "latex"):
        assert "dead" not in said(comparison(store), form)
    assert records(comparison(store))["dead"].isna().all()


def test_a_called_row_has_it_in_its_label_always(mixed, run):
    assert labels(comparison(mixed)) == ["uniform", "mmrns (1 modality)", "dhns (w/o MMC)", "dhns (w/o MMC, hal=off)"]
    alone = comparison(mixed, where={"sampler": "mmrns"})
    assert labels(alone) == ["mmrns (1 modality)"]
    ablated = comparison(mixed, layout="ablation", baseline="dhns (w/o MMC)")
    assert labels(ablated) == ["dhns (w/o MMC): full", "hal=off (w/o MMC)"]
    assert cell(comparison(mixed), "dhns (w/o MMC)").record["baseline"] == "uniform"


def test_runs_of_before_are_the_same_row_and_say_nothing_alone(store, run):
    run("dhns", seeds=(0, 1))
    assert labels(comparison(store)) == ["dhns"]
    assert "What negatives come from" not in str(comparison(store).caption)
    run("dhns", seeds=(2, 3), reads=["structure"], called="w/o MMC")
    assert labels(comparison(store)) == ["dhns (w/o MMC)"]
    assert cell(comparison(store), "dhns (w/o MMC)").record["n"] == 4


def test_what_negatives_read_is_a_column_of_the_diagnostics_and_stands_in_other_captions(mixed):
    table = comparison(mixed, layout="diagnostics")
    assert [cell(table, row, "reads").value for row in labels(table)] == ["-", "structure+names", "structure", "structure"]
    assert "What negatives come from" not in str(table.caption)
    sentence = (
        "What negatives come from: dhns (w/o MMC) reads structure; dhns (w/o MMC, hal=off) reads structure; "
        "mmrns (1 modality) reads structure+names."
    )
    for layout in ("dhns4", "claims", "mmrns2", "cost"):
        assert sentence in str(comparison(mixed, layout=layout).caption)
    found = records(comparison(mixed))
    assert dict(zip(found["sampler"], found["reads"].fillna("")))["mmrns"] == "structure+names"


def test_what_is_read_may_differ_between_data(store, run):
    for dataset, reads in (("mkg_y", ["structure", "image"]), ("db15k", ["structure"])):
        run("mmrns", dataset=dataset, seeds=(0, 1), reads=reads, split="released")
    table = comparison(store)
    parts = {"mkg_y": "structure+image on mkg_y", "db15k": "structure on db15k"}
    order = list(dict.fromkeys(column.dataset for column in table.columns))
    assert f"mmrns reads {' and '.join(parts[dataset] for dataset in order)}." in str(table.caption)


def test_columns_of_the_generator_are_there_where_there_is_one(mixed):
    table = comparison(mixed, layout="diagnostics")
    headers = [column.metric.header for column in table.columns]
    assert headers == ["reads", "hardness, end", "generated: truth", "generated: gradient", "noise loss, quarter 2"]
    shown = [cell(table, "dhns (w/o MMC)", name).value for name in ("end.generated_truth", "sampler.noise_loss_quarter2")]
    assert shown == [f"{100 * (3 * 0.9 + 2 * 0.31) / 5:.1f}", "0.750"]
    assert cell(table, "dhns (w/o MMC)", "end.generated_gradient").value == "0.002"
    assert cell(table, "uniform", "end.generated_truth").value == "-"
    plain = comparison(mixed, layout="diagnostics", where={"sampler": "uniform"})
    assert [column.metric.header for column in plain.columns] == ["hardness, end"]


def test_published_figures_stand_beside_the_whole_method(store, run):
    for sampler, less in (("dhns", "w/o MMC"), ("mmrns", "1 modality")):
        run(sampler, "rotate", seeds=(0, 1), called=less)
        run(sampler, "rotate", seeds=(0, 1), fusion="adamf", features="official", modalities=["image"])
    rows = comparison(store, layout="dhns4", published=True).rows
    over = [above.label for above, row in itertools.pairwise(rows) if row.published and not above.published]
    assert over
    assert all("fusion=adamf" in label for label in over)


def test_the_report_and_the_comparison_of_two_groups_and_plots_say_it_too(mixed):
    page = report(mixed)
    assert "The generator of seed 3 is dead: the true entity" in page  # in the box of the row's runs
    assert "is dead in 2 of 5 runs; in that of seed 1" in page
    assert "Its generator is dead (see the notes below the table)." in page
    text = compare("sampler=dhns,options.sampler.hal=none", "sampler=uniform", mixed)
    assert "the generators of 2 of 10 runs are dead" in text
    assert "reads" not in text
    made, _ = plots(mixed, ["cost"])
    assert any("2 with a dead generator" in plot.caption for plot in made)
