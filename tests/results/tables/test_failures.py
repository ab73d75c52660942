"""Stores with unfinished, damaged and failed runs, and without any."""

import json

import pytest

from nsbench.errors import Misuse
from nsbench.results.tables import comparison
from nsbench.results.writers import write
from nsbench.results.writers.words import at
from tests.results.tables.looking import cell, labels


def fail(path, reason="out of memory"):
    (path / "result.json").unlink()
    (path / "ranks.npz").unlink()
    (path / "failed.json").write_text(json.dumps({"reason": reason}))


def verdict(claims, row):
    (found,) = [cell.value for column, cell in zip(claims.columns, row.cells) if column.metric.name == "verdict"]
    return found


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
    assert [(row.label, verdict(claims, row)) for row in claims.rows] == [("kbgan", "diverged")]
    assert all(word in write(table, "csv") for word in ("failed,2,out of memory", "diverged,2,scores"))


def test_the_survivors_of_a_cell_are_neither_ranked_nor_tested(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2)
    for path in run("kbgan", seeds=range(8), quality=3)[5:]:
        fail(path)
    table = comparison(store)
    survivors = cell(table, "kbgan")
    assert (survivors.marks, survivors.style) == ((), "")
    assert [row.n for row in at(table, range(4))] == ["5", "5", "5"]
    assert (survivors.record["status"], survivors.record["n"], survivors.record["failed"]) == ("partial", 5, 3)
    assert "p" not in survivors.record
    assert (cell(table, "dhns").style, cell(table, "dhns").marks) == ("best", ("▲",))
    assert any(note.startswith("5 of 8 runs of kbgan (transe, mkg_y): 3 failed (out of memory)") for note in table.notes)
    claimed = comparison(store, layout="claims")
    claims = {row.label: verdict(claimed, row) for row in claimed.rows}
    assert claims == {"dhns against uniform": "better", "kbgan against uniform": "not testable"}


def test_a_failure_that_a_later_run_made_good_is_none(store, run):
    run("uniform", seeds=range(2))
    for path in run("uniform", seeds=range(2), versions={"sampler": 0}):
        fail(path)
    assert cell(comparison(store), "uniform").record["status"] == "ok"
