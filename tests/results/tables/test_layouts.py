"""The layouts cost and diagnostics, and names that are unknown."""

import pytest

from nsbench.errors import Misuse
from nsbench.results.tables import comparison
from nsbench.results.writers import write
from tests.results.tables.looking import cell


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
    assert "MRR above" not in str(table.caption)
    run("nscaching", seeds=range(3), result={"cost": {"sampler_state": 5 * 2**19}})
    table = comparison(store, layout="cost")
    assert [cell(table, label, "sampler_state").value for label in ("uniform", "nscaching")] == ["-", "2.5"]


def test_unknown_names_are_refused(store, run):
    run()
    for how in ({"layout": "wide"}, {"where": {"seed": []}}):
        with pytest.raises(Misuse, match="|".join(("'wide'", "'seed'"))):
            comparison(store, **how)
    with pytest.raises(Misuse, match="'pdf'"):
        write(comparison(store), "pdf")


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
    for form in ("md", "latex", "csv"):
        text = write(made, form)
        assert "†" not in text
        assert "↑" not in text
        assert "dagger" not in text
    with pytest.raises(Misuse, match="none of these runs has diagnostics"):
        comparison(store, layout="diagnostics", where={"sampler": "ns_kge"})
