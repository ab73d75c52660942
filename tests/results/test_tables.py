"""Golden files lie in golden/; after a deliberate change, set NSBENCH_WRITE_GOLDEN=1 once and read the diff."""

import csv
import io
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from nsbench.errors import Misuse
from nsbench.metrics import reciprocal
from nsbench.results import load
from nsbench.results.stats import statistics
from nsbench.results.stats.multiplicity import holm
from nsbench.results.store import ranks
from nsbench.results.tables import mixtures, papers
from nsbench.results.tables.build import comparison
from nsbench.results.tables.metrics import METRICS, Metric
from nsbench.results.writers import show, write
from nsbench.results.writers.terminal import to_rich

GOLDEN = Path(__file__).parent / "golden"
FORMS = {"md": "md", "latex": "tex", "csv": "csv"}


def cell(table, label, metric="mrr", dataset="mkg_y", group="transe"):
    (row,) = [row for row in table.rows if (row.group, row.label) == (group, label) and not row.published]
    (at,) = [i for i, c in enumerate(table.columns) if (c.dataset, c.metric.name) == (dataset, metric)]
    return row.cells[at]


def labels(table):
    return [row.label for row in table.rows if not row.published]


def records(table):
    return pd.read_csv(io.StringIO(write(table, "csv")))


def tokens(text):
    """Numbers as numbers, so that the last bit of a library's t distribution does not matter."""
    for line in csv.reader(io.StringIO(text)):
        for token in " ".join(f"{i}:{field}" for i, field in enumerate(line)).replace(":", " ").split():
            try:
                yield pytest.approx(float(token), rel=1e-9)
            except ValueError:
                yield token


# Golden files


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


# Numbers


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


def test_csv_has_every_cell_and_survives_pandas(small_store):
    table = comparison(small_store, published=True)
    found = records(table)
    assert len(found) == len(table.rows) * len(table.columns)
    flat = [cell.record for row in table.rows for cell in row.cells]
    for name in ("mean", "sd", "p", "p_holm", "difference", "published"):
        expected = np.array([record.get(name, np.nan) for record in flat], float)
        assert np.allclose(found[name].to_numpy(float), expected, rtol=1e-15, atol=0, equal_nan=True)
    values = found.loc[found["status"] == "ok", "values"].str.split(" ")
    assert (values.str.len() == 5).all()


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
            arms.append(np.stack([reciprocal(ranks(row).ranks) for _, row in chosen.iterrows()]))
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
    assert "Holm over all 5 of this table" in table.caption


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
    assert caption in table.caption


def test_unequal_numbers_of_seeds_stand_in_the_cells(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(2), quality=2.5)
    run("bernoulli", seeds=range(3))
    table = comparison(store)
    assert cell(table, "dhns").spread == "(n=2)"
    assert cell(table, "bernoulli").spread.endswith("(n=3)")
    assert cell(table, "uniform").spread.endswith("(n=5)")
    assert not any(c.marks for row in table.rows for c in row.cells)


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
    table = comparison(store, metrics=["mrr", "mr"])
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
    assert "only those of a column's largest n are ranked" in table.caption
    assert cell(table, "ns_kge (own loss)").record["own_loss"] is True


def test_styles_stay_within_a_model_and_need_a_competitor(store, run):
    run("uniform", "transe")
    run("uniform", "rotate", quality=3)
    run("dhns", "rotate", quality=2)
    table = comparison(store)
    assert cell(table, "uniform", group="transe").style == ""
    assert cell(table, "uniform", group="rotate").style == "best"
    assert cell(table, "dhns", group="rotate").style == "second"


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


@pytest.mark.fact(46)
def test_rounding_to_three_decimals():
    fraction = Metric("x", "x", True, 1, 3, "")
    assert [fraction.text(x) for x in (0.34549, 0.34551, 0.350)] == ["0.345", "0.346", "0.350"]
    assert Metric("x", "x", True, 1, 2, "").text(2.675) == "2.68"


def test_runs_that_did_not_converge_are_marked(store, run):
    run("uniform", seeds=range(2))
    run("dhns", seeds=[0])
    run("dhns", seeds=[1], result={"converged": False})
    table = comparison(store)
    assert all(cell(table, "dhns", metric).marks == ("†",) for metric in ("mrr", "hits@10"))
    assert cell(table, "uniform").marks == ()
    assert any("† Not converged, so at this budget" in note for note in table.notes)
    assert not any("†" in note for note in comparison(store, where={"sampler": "uniform"}).notes)
    costs = comparison(store, layout="cost")
    assert not any("†" in note for note in costs.notes)
    assert not any("†" in own.marks for row in costs.rows for own in row.cells)


# Names


def test_nothing_that_differs_between_rows_is_hidden(store, run):
    run("uniform")
    run("uniform", options={"sampler": {"k": 40}})
    run("dhns", features="names", modalities=["text"], feature_fingerprint="1" * 64)
    run("dhns", features="names", modalities=["image", "text"], feature_fingerprint="1" * 64, fusion="adamf")
    run(
        "dhns",
        variant="released",
        aux={"diffusion": 1.0},
        versions={"aux.diffusion": 1},
        options={"sampler": {"timesteps": 50, "scale": 2.0}, "aux": {"diffusion": {"steps": 3}}},
    )
    run("dhns", variant="released", options={"sampler": {"timesteps": 70, "scale": 2.0}})
    run("uniform", options={"kge": {"norm": 2}})
    table = comparison(store)
    assert table.groups == ("transe", "transe (norm=2)")
    assert sorted(labels(table)) == sorted(
        [
            "uniform",
            "uniform (k=40)",
            "uniform",
            "dhns (features=names:text)",
            "dhns (features=names:image+text, fusion=adamf)",
            "dhns (released, aux.diffusion=1.0, aux.diffusion.steps=3, timesteps=50)",
            "dhns (released, timesteps=70)",
        ]
    )
    assert any("scale=2.0" in note for note in table.notes)  # equal in both released rows, so below the table


def test_what_the_protocol_sets_is_no_choice_of_a_row(store, run):
    named = {"protocol": {"name": "cpu-mm"}}
    run("uniform", **named)
    run("dhns", options={"sampler": {"timesteps": 20}}, **named)
    run("dhns", options={"sampler": {"timesteps": 30}}, **named)
    run("dhns", **named)  # --set put the sampler's default back
    run("mmrns", options={"sampler": {"candidates": 300, "beta": 2.0}}, **named)
    table = comparison(store)
    assert labels(table) == ["uniform", "mmrns (beta=2.0)", "dhns", "dhns (timesteps=30)", "dhns (timesteps=default)"]
    assert "version 1. The protocol sets candidates=300 of mmrns, timesteps=20 of dhns. The model" in table.caption
    assert "The protocol sets" not in comparison(store, where={"sampler": "uniform"}).caption


@pytest.mark.parametrize("other", [{"name": "cpu-mm", "version": 2}, {"name": "mine"}])
def test_what_another_protocol_sets_is_not_known(store, run, other):
    run("dhns", options={"sampler": {"timesteps": 20}}, protocol=other)
    assert labels(comparison(store)) == ["dhns (timesteps=20)"]


def test_sizes_are_those_of_the_protocols_and_no_defaults():
    from nsbench.config.run import protocol_names, read_protocol  # loads torch
    from nsbench.registry import SAMPLERS

    sizes = {name: read_protocol(name).get("sampler", {}) for name in protocol_names()}
    assert sum(map(bool, sizes.values())) >= 2
    for name, samplers in sizes.items():
        version = read_protocol(name)["version"]
        for sampler in ["uniform", *samplers]:
            run = {"protocol": name, "protocol_version": version, "sampler": sampler}
            assert grid.proposed(run) == samplers.get(sampler, {})
            default = SAMPLERS.get(sampler).Options()
            assert all(getattr(default, option) != value for option, value in samplers.get(sampler, {}).items())


def test_features_of_one_name_must_be_the_same(store, run):
    run("uniform")
    run("dhns", features="names", modalities=["text"], feature_fingerprint="1" * 64)
    assert len(comparison(store).rows) == 2
    run("sans", features="names", modalities=["text"], feature_fingerprint="2" * 64)
    with pytest.raises(Misuse, match="differ in feature_fingerprint of mkg_y"):
        comparison(store)


def test_what_all_rows_share_stands_in_the_caption(store, run):
    for sampler in ("uniform", "dhns"):
        run(sampler, fusion="adamf", features="official", modalities=["text"], changed={"steps": 100})
    table = comparison(store)
    assert labels(table) == ["uniform", "dhns"]
    assert "All rows: features=official:text, fusion=adamf" in table.caption
    assert "Protocol nsbench, version 1, changed: steps=100" in table.caption
    assert "mkg_y (released split, mkg0y000)" in table.caption


def test_by_which_filters_the_runs_were_chosen_stands_in_the_caption(store, run):
    run("uniform", seeds=range(3))
    run("dhns", seeds=range(5), quality=2)
    run("dhns", "rotate", seeds=range(5), quality=2)
    assert "Runs chosen by" not in comparison(store).caption
    assert "Runs chosen by kge=transe. Protocol" in comparison(store, where={"kge": "transe"}).caption
    where = {"kge": ["transe"], "seed@dhns": [0, 1, 2]}
    for layout in ("dhns4", "claims", "cost"):
        said = comparison(store, layout=layout, where=where).caption
        assert "Runs chosen by kge=transe, seed@dhns=0,1,2 (left out: 2 that differ from those shown by their seed" in said


def test_missing_cells_are_a_dash(small_store):
    table = comparison(small_store)
    assert cell(table, "bernoulli", dataset="db15k").value == "-"
    assert cell(table, "bernoulli", dataset="db15k").record["status"] == "missing"


def test_rows_and_groups_keep_the_order_of_the_papers(store, run):
    for sampler in ("zebra", "dhns", "uniform", "ant", "bernoulli"):
        run(sampler, "rotate")
    run("uniform", "transe")
    table = comparison(store)
    assert table.groups == ("transe", "rotate")
    assert labels(table)[1:] == ["uniform", "bernoulli", "dhns", "ant", "zebra"]


# Baselines


def test_the_baseline_is_the_row_that_is_alike_in_all_else(store, run):
    for seed in range(5):
        run("uniform", seed=seed)
        run("uniform", seed=seed, options={"sampler": {"k": 40}}, quality=1.1)
        run("uniform", seed=seed, fusion="adamf", quality=1.2)
        run("dhns", seed=seed, fusion="adamf", quality=2)
        run("dhns", seed=seed, aux={"diffusion": 1.0}, quality=2)
    table = comparison(store)
    against = {label: cell(table, label).record.get("baseline") for label in labels(table)}
    assert against == {
        "uniform": None,
        "uniform (k=40)": "uniform",
        "uniform (fusion=adamf)": None,
        "dhns (fusion=adamf)": "uniform (fusion=adamf)",
        "dhns (aux.diffusion=1.0)": "uniform",
    }
    other = comparison(store, baseline="uniform (k=40)")
    assert cell(other, "uniform").record["baseline"] == "uniform (k=40)"


def test_a_baseline_that_is_not_there(store, run):
    run("dhns", seeds=range(5))
    run("sans", seeds=range(5))
    assert "No test" in comparison(store).caption  # the default may be absent
    with pytest.raises(Misuse, match="no row is the baseline 'bernoulli'; the rows are dhns, sans"):
        comparison(store, baseline="bernoulli")
    assert cell(comparison(store, baseline="sans"), "dhns").record["baseline"] == "sans"


def test_an_ambiguous_baseline_is_refused(store, run):
    for seed in range(5):
        run("uniform", seed=seed, options={"sampler": {"k": 40}})
        run("uniform", seed=seed, options={"sampler": {"k": 80}}, quality=1.1)
        run("dhns", seed=seed, quality=2)
    with pytest.raises(Misuse, match=r"fits several rows of transe, mkg_y; name one of 'uniform \(k=40\)', 'uniform"):
        comparison(store)
    assert cell(comparison(store, baseline="uniform (k=80)"), "dhns").record["baseline"] == "uniform (k=80)"


# Refusals


MIXTURES = {
    "protocol": {"protocol": {"name": "cpu"}},
    "protocol_version": {"protocol": {"version": 2}},
    "protocol.steps": {"protocol": {"steps": 2000}},
    "changed.steps": {"protocol": {"steps": 2000}, "changed": {"steps": 2000}},
    "protocol.margin": {"protocol": {"margin": 9.0}},
    "split": {"split": "clean"},
    "fingerprint": {"fingerprint": "f" * 64},
    "versions.sampler": {"versions": {"sampler": 2}},
    "versions.kge": {"versions": {"kge": 2}},
    "versions.fusion": {"versions": {"fusion": 2}},
    "sources.sampler": {"sources": {"sampler": "e" * 64}},
    "sources.kge": {"sources": {"kge": "e" * 64}},
    "sources.fusion": {"sources": {"fusion": "e" * 64}},
    "tuning.base": {"tuning": {"base": "cpu"}},
    "tuning.budget": {"tuning": {"budget": 30}},
    "tuning.backbone": {"tuning": {"backbone": "frozen"}},
    "tuning.search": {"tuning": {"search": "random"}},
    "tuning.seed": {"tuning": {"seed": 1}},
    "tuning.fusion": {"tuning": {"fusion": "adamf"}},
    "tuning.split": {"tuning": {"split": "clean"}},
    "tuning.features": {"tuning": {"features": "names"}},
}
ALL_ROWS = ("protocol", "protocol_version", "protocol.steps", "changed.steps", "versions.fusion", "sources.fusion")


@pytest.mark.fact(54)
@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_stores_are_refused_and_the_filter_that_is_named_helps(store, run, name):
    run("uniform", seeds=range(2))
    run("dhns", seeds=range(2))
    run("dhns", "rotate", "db15k", seeds=range(2))  # not concerned; its split or version may be another
    run("dhns", seeds=[7], quality=2, **MIXTURES[name])
    with pytest.raises(Misuse) as refusal:
        comparison(store)
    sentence = str(refusal.value)
    assert sentence.startswith(f"the runs differ in {name}")
    where = dict([sentence.rpartition("with the filter ")[2].split("=", 1)])
    table = comparison(store, where=where)
    assert set(labels(table)) == {"uniform", "dhns"}
    assert cell(table, "dhns").record["seeds"] == "0 1"
    if name not in ALL_ROWS and not name.startswith("tuning"):
        assert cell(table, "dhns", dataset="db15k", group="rotate").record["seeds"] == "0 1"


def test_mixed_versions_of_an_auxiliary_loss_are_refused(store, run):
    run("uniform")
    run("dhns", aux={"diffusion": 1.0}, versions={"aux.diffusion": 1})
    run("sans", aux={"diffusion": 1.0}, versions={"aux.diffusion": 1})
    assert len(comparison(store).rows) == 3
    run("kbgan", aux={"diffusion": 1.0}, versions={"aux.diffusion": 2})
    with pytest.raises(Misuse, match=r"differ in versions.aux.diffusion of diffusion \(1 in 2 runs, 2 in 1 runs\)"):
        comparison(store)


def test_trials_of_several_lengths_are_refused(store, run):
    tuning = {
        "base": "cpu",
        "budget": 4,
        "backbone": "frozen",
        "search": "random",
        "seed": 0,
        "fusion": "none",
        "trials": 4,
        "failed": 0,
        "chosen": {},
        "steps": 100,
    }
    run("uniform", tuning=tuning)
    run("dhns", tuning={**tuning, "trials": 0, "steps": 300})  # that had no trials
    assert len(comparison(store).rows) == 2
    run("sans", tuning={**tuning, "steps": 200})
    with pytest.raises(Misuse, match=r"differ in tuning.steps of mkg_y"):
        comparison(store)


def test_values_that_a_protocol_sets_per_cell_are_those_of_the_configuration():
    from nsbench.config.run import PER_CELL  # loads torch, which nsbench.results never does

    assert mixtures.PER_PAIR == PER_CELL


def test_margins_may_differ_between_datasets_and_models(store, run):
    run("uniform", "transe", "mkg_y")
    run("uniform", "transe", "db15k", protocol={"margin": 6.0})
    run("uniform", "rotate", "mkg_y", protocol={"margin": 9.0})
    assert len(comparison(store).rows) == 2


def test_unequal_seeds_cannot_be_tested(store, run):
    run("uniform", seeds=range(7))
    run("dhns", seeds=range(5), quality=2)
    with pytest.raises(Misuse, match=r"dhns has seeds 0,1,2,3,4 on transe, mkg_y .* seed=0,1,2,3,4$"):
        comparison(store)
    assert cell(comparison(store, where={"seed": "0,1,2,3,4"}), "dhns").record["n"] == 5
    with pytest.raises(Misuse, match="run the missing ones"):
        comparison(store, where={"seed@uniform": [1, 2, 3, 4, 5]})


def test_copies_under_another_seed_are_refused(store, run):
    one, two = run("uniform", seeds=range(5))[:2]
    run("dhns", seeds=range(5), quality=2)
    for name in ("ranks.npz", "result.json"):
        (two / name).write_bytes((one / name).read_bytes())
    result = json.loads((two / "result.json").read_text())
    result["config"]["seed"] = 1
    (two / "result.json").write_text(json.dumps(result))
    with pytest.raises(Misuse, match="different seeds and identical ranks"):
        comparison(store)


def test_ranks_that_do_not_belong_to_the_result_are_refused(store, run):
    one, two = run("uniform", seeds=range(5))[:2]
    run("dhns", seeds=range(5), quality=2)
    kept = (one / "ranks.npz").read_bytes()
    (one / "ranks.npz").write_bytes((two / "ranks.npz").read_bytes())
    with pytest.raises(Misuse, match="does not give its MRR"):
        comparison(store)
    (one / "ranks.npz").write_bytes(kept)
    arrays = dict(np.load(one / "ranks.npz"))
    np.savez(one / "ranks.npz", **{**arrays, "triples": arrays["triples"][::-1]})
    with pytest.raises(Misuse, match="rank different triples"):
        comparison(store)


def test_two_runs_of_one_seed_are_refused(store, run):
    run("uniform", seed=0)
    run("uniform", seed=0, source="another file")
    with pytest.raises(Misuse, match="two runs of one seed"):
        comparison(store)


def test_times_of_different_hardware_never_share_a_table(store, run):
    run("uniform")
    run("dhns", result={"env": {"kernels": "eager"}})
    assert len(comparison(store).rows) == 2  # ranks do not depend on it
    assert "eager kernels and cpu x86_64, 2 threads, native kernels" in comparison(store).caption
    with pytest.raises(Misuse, match="differ in kernels"):
        comparison(store, layout="cost")
    assert len(comparison(store, layout="cost", where={"kernels": "eager"}).rows) == 1


def test_cost_layout(store, run):
    run("uniform", seeds=range(3))
    table = comparison(store, layout="cost")
    assert [c.metric.name for c in table.columns] == [
        "seconds",
        "train_seconds",
        "sampler_seconds",
        "evaluation_seconds",
        "peak_memory",
    ]
    assert cell(table, "uniform", "seconds").value == "101.0"
    assert cell(table, "uniform", "sampler_seconds").value == "7.3"
    assert cell(table, "uniform", "peak_memory").value == "300"
    assert "MRR above" not in table.caption
    run("nscaching", seeds=range(3), result={"cost": {"sampler_state": 5 * 2**19}})
    table = comparison(store, layout="cost")
    assert [cell(table, label, "sampler_state").value for label in ("uniform", "nscaching")] == ["-", "2.5"]


def test_an_empty_store_says_what_to_run(store, run):
    command = "nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y"
    with pytest.raises(Misuse, match=rf"no complete run in {store}; start with `{command}`"):
        comparison(store)
    (run() / "result.json").unlink()
    with pytest.raises(Misuse, match=r"\(unfinished or damaged folders: 1\)"):
        comparison(store)


def test_damaged_runs_are_left_out_and_counted(store, run):
    run("uniform")
    (run("dhns") / "ranks.npz").unlink()
    table = comparison(store)
    assert labels(table) == ["uniform"]
    assert any(note == "Unfinished or damaged run folders, left out: 1." for note in table.notes)


def fail(path, reason="out of memory"):
    (path / "result.json").unlink()
    (path / "ranks.npz").unlink()
    (path / "failed.json").write_text(json.dumps({"reason": reason}))


def test_a_sampler_all_of_whose_runs_failed_has_a_row_that_says_so(store, run):
    run("uniform", seeds=range(2))
    run("uniform", "rotate", seeds=range(2))
    for path in run("dhns", seeds=range(2)):
        fail(path)
    for path in run("kbgan", "rotate", seeds=range(2)):
        fail(path, "scores are not finite (nan or infinity): lower the learning rate")
    for path in run("sans", seeds=range(2), protocol={"name": "other"}):
        fail(path)
    table = comparison(store)
    assert [cell(table, "dhns", metric).value for metric in ("mrr", "hits@10")] == ["failed", "failed"]
    diverged = cell(table, "kbgan", group="rotate")
    assert (diverged.value, diverged.record["status"], diverged.record["failed"]) == ("diverged", "diverged", 2)
    assert diverged.record["reason"].startswith("scores are not finite")
    assert labels(table) == ["uniform", "dhns", "uniform", "kbgan"]
    assert "0 of 2 runs of dhns (transe, mkg_y): 2 failed (out of memory)." in table.notes
    assert "Unfinished or damaged run folders, left out: 2." in table.notes  # of another protocol
    assert labels(comparison(store, where={"kge": "rotate", "kernels": "native"})) == ["uniform", "kbgan"]
    assert labels(comparison(store, where={"sampler": "uniform", "kernels": "native"})) == ["uniform", "uniform"]
    assert labels(comparison(store, where={"sampler": "uniform,dhns", "kge": "transe"})) == ["uniform", "dhns"]
    with pytest.raises(Misuse, match="no complete run passes"):
        comparison(store, where={"sampler": "dhns"})
    claims = comparison(store, layout="claims", where={"kge": "rotate"})
    assert [(row.label, row.cells[-2].value) for row in claims.rows] == [("kbgan", "diverged")]
    assert all(word in write(table, "csv") for word in ("failed,2,out of memory", "diverged,2,scores"))


def test_the_survivors_of_a_cell_are_neither_ranked_nor_tested(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2)
    for path in run("kbgan", seeds=range(8), quality=3)[5:]:
        fail(path)
    table = comparison(store)
    survivors = cell(table, "kbgan")
    assert (survivors.spread.rpartition(" ")[2], survivors.marks, survivors.style) == ("(n=5)", (), "")
    assert (survivors.record["status"], survivors.record["n"], survivors.record["failed"]) == ("partial", 5, 3)
    assert "p" not in survivors.record
    assert (cell(table, "dhns").style, cell(table, "dhns").marks) == ("best", ("▲",))
    assert any(note.startswith("5 of 8 runs of kbgan (transe, mkg_y): 3 failed (out of memory)") for note in table.notes)
    claims = {row.label: row.cells[-2].value for row in comparison(store, layout="claims").rows}
    assert claims == {"dhns against uniform": "better", "kbgan against uniform": "not testable"}


def test_a_failure_that_a_later_run_made_good_is_none(store, run):
    run("uniform", seeds=range(2))
    for path in run("uniform", seeds=range(2), versions={"sampler": 0}):
        fail(path)
    assert cell(comparison(store), "uniform").record["status"] == "ok"


def test_unknown_names_are_refused(store, run):
    run()
    with pytest.raises(Misuse, match="unknown layout 'wide'; there are dhns4"):
        comparison(store, layout="wide")
    with pytest.raises(Misuse, match="unknown metric 'auc'"):
        comparison(store, metrics=["auc"])
    with pytest.raises(Misuse, match="unknown format 'pdf'; there are rich, md, latex, csv, html"):
        write(comparison(store), "pdf")
    with pytest.raises(Misuse, match="at least one value"):
        comparison(store, where={"seed": []})


# Published figures


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
    values = [0.3000, 0.3010, 0.3005, 0.2995, 0.2990]
    for seed, value in enumerate(values):
        run("uniform", seed=seed, result={"test": {"mrr": value}})
    frame = load(store)
    factor = 3.041443  # fact 43, five seeds
    half = factor * np.std(values, ddof=1) + 0.00005  # printed to two decimals of a percentage

    def flagged(shift):
        moved = frame.copy()
        moved["mrr"] = moved["mrr"] + shift
        moved.attrs.update(frame.attrs)
        table = comparison(moved, published=True, metrics=["mrr"])
        (row,) = [row for row in table.rows if row.label == "published: mmrns2022 Table 2"]
        return row.cells[0]

    printed = 0.3073
    for off in (half * 0.98, half * 1.02, -half * 0.98, -half * 1.02):
        cell = flagged(printed - np.mean(values) + off)
        assert ("‡" in cell.marks) == (abs(off) > half) == cell.record["outside"]
        low, high = cell.record["prediction_low"], cell.record["prediction_high"]
        assert (high - low) / 2 == pytest.approx(half - 0.00005, rel=1e-5)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_predict_nothing(store, run, seeds):
    run("uniform", seeds=range(seeds))
    table = comparison(store, published=True)
    assert not any("outside" in c.record or "‡" in c.marks for row in table.rows for c in row.cells)
    assert not any("‡" in note for note in table.notes)


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
    assert {"transe", "distmult", "rotate"} <= set(table.groups)
    marked = {mark for cell in shown for mark in cell.marks}
    assert marked == {str(i + 1) for i in range(len(table.footnotes))}
    assert any("impossible" in note for note in table.footnotes)
    assert any("29 of those cells differ" in note for note in table.notes)
    assert "start with `nsbench run" in table.caption
    assert all("36.68" in write(table, form) for form in ("rich", "md", "latex", "csv", "html"))


def test_the_papers_alone_can_be_filtered(store):
    table = comparison(store, published=True, where={"dataset": "mkg_y", "kge": "rotate,transe", "sampler": ["dhns"]})
    assert table.groups == ("transe", "rotate")
    assert {row.label for row in table.rows if not row.published} == {"dhns"}
    assert {column.dataset for column in table.columns} == {"mkg_y"}
    with pytest.raises(Misuse, match="can be filtered by kge, sampler, dataset, not by 'seed'"):
        comparison(store, published=True, where={"seed": "0"})
    with pytest.raises(Misuse, match="no paper prints kge=nothing; there is "):
        comparison(store, published=True, where={"kge": "nothing"})
    with pytest.raises(Misuse, match="no paper prints these columns"):
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


# Writers


@pytest.mark.parametrize("published", [False, True])
def test_markdown_has_one_column_per_cell(small_store, run, published):
    run("p|q\nr", "transe", seed=0)
    table = comparison(small_store, published=published)
    text = write(table, "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3 + len(table.columns)


def test_terminal_form_shows_everything_unbroken(small_store, run, capsys):
    run("NS[adv]", "transe", seed=0)
    run("NS[bold]x[/bold]", "transe", seed=0)
    table = comparison(small_store, published=True)
    show(table)  # pytest's stdout is no terminal
    text = capsys.readouterr().out
    assert text == write(table, "rich")
    assert "…" not in text
    for row in table.rows:
        assert row.label in text
        for own in row.cells:
            assert own.value in text
    assert "*Best*" in text


def test_terminal_shows_one_grid_per_dataset_where_one_is_too_wide(small_store):
    table = comparison(small_store, where={"kge": "transe"})
    heads = {}
    for width in (100, 300):
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=True, color_system=None).print(to_rich(table, width))
        assert "…" not in out.getvalue()
        heads[width] = len(re.findall("sampler  ", out.getvalue()))
    assert heads == {100: 2, 300: 1}


def test_diagnostics_layout_says_what_was_measured_and_judges_nothing(run, store):
    measured = {
        "step": 0,
        "hardness": 0.5,
        "false_negatives_known": 0.0012,
        "entropy": 0.981,
        "distinct": 0.3425,
        "margin_gap": 1.235,
    }
    for seed, hardness in ((0, 0.71), (1, 0.73)):
        end = {**measured, "hardness": hardness}
        run("nscaching", seeds=(seed,), result={"diagnostics": {"sampler": {}, "start": measured, "end": end}})
    run("uniform", seeds=(0, 1), result={"converged": False, "diagnostics": {"start": measured, "end": measured}})
    run("ns_kge", seeds=(0, 1))
    made = comparison(store, layout="diagnostics")
    headers = [column.metric.header for column in made.columns]
    assert headers == [
        "FN known",
        "hardness, start",
        "hardness, end",
        "margin gap",
        "entropy",
        "distinct",
    ]  # no column that is empty everywhere
    rows = {row.label: [cell.value for cell in row.cells] for row in made.rows}
    assert rows["nscaching"] == ["0.12", "50.0", "72.0", "1.24", "98.1", "34.3"]
    assert rows["uniform"] == ["0.12", "50.0", "50.0", "1.24", "98.1", "34.3"]
    assert set(next(cells for label, cells in rows.items() if label.startswith("ns_kge"))) == {"-"}
    assert not any(cell.style or cell.marks for row in made.rows for cell in row.cells)
    for form in FORMS:
        text = write(made, form)
        assert "†" not in text
        assert "↑" not in text
        assert "dagger" not in text
    with pytest.raises(Misuse, match="none of these runs has diagnostics"):
        comparison(store, layout="diagnostics", where={"sampler": "ns_kge"})


def test_a_cell_names_the_seeds_that_its_figures_are_of(run, store):
    run("uniform", seeds=(0, 2))
    for seed, hardness in ((1, 0.7), (3, 0.8)):
        run("uniform", seed=seed, result={"diagnostics": {"end": {"hardness": hardness}}})
    (row,) = comparison(store, layout="diagnostics").rows
    assert row.cells[0].record["seeds"] == "1 3"
    assert row.cells[0].record["values"] == "0.7 0.8"
    assert (row.cells[0].value, row.cells[0].spread) == ("75.0", "(n=2)")
