"""nsbench runs list, rm and export."""

import csv
import io
import json
import math
import os

import pytest
from click.testing import CliRunner

from nsbench.cli import cli
from nsbench.commands import removal
from nsbench.errors import Busy, Misuse, RunFailed
from nsbench.results.plots import plots
from nsbench.results.plots.plot import write as write_plot
from nsbench.results.tables import comparison
from nsbench.results.writers import write
from nsbench.runs.folder import RunFolder


@pytest.fixture
def runs(store, monkeypatch):
    """runs("list", "--where", "seed=0") -> output; refusals are raised."""
    monkeypatch.setenv("NSBENCH_RUNS", str(store))

    def call(*arguments, answer=None):
        said = CliRunner().invoke(cli, ["runs", *map(str, arguments)], input=answer)
        if said.exception and not isinstance(said.exception, SystemExit):
            raise said.exception
        return said.output

    return call


def names(store):
    return sorted(path.name for path in store.iterdir())


def test_the_list_has_a_line_per_run_and_the_reason_of_each_other_folder(store, run, runs):
    good = run("dhns", "rotate", "db15k", seed=3, result={"test": {"mrr": 0.34567}, "converged": False})
    (good / "model.safetensors").write_bytes(bytes(5_000_000))
    begun = run("uniform")
    (begun / "result.json").unlink()
    cut = run("bernoulli")
    (cut / "ranks.npz").write_bytes(b"PK")
    (store / "notes").mkdir()
    head, _, line, *rest = runs("list").splitlines()
    assert head.split() == ["sampler", "model", "dataset", "seed", "protocol", "MRR", "converged", "size", "folder"]
    expected = sum(file.stat().st_size for file in good.iterdir()) / 1e6
    assert 5.0 < expected < 5.1
    assert line.split() == ["dhns", "rotate", "db15k", "3", "nsbench", "34.57", "no", f"{expected:.2f}", "MB", good.name]
    told = {words[0]: (words[-1]) for words in (line.split("  ") for line in rest[3:])}
    assert {name: reason.strip() for name, reason in told.items()} == {
        "notes": "no run: no config.json and no result.json",
        begun.name: "not finished",
        cut.name: "ranks.npz is missing or cut off",
    }


def test_the_list_under_filters(store, run, runs):
    run("uniform", seeds=range(3))
    kept = run("bernoulli")
    (store / "begun").mkdir()
    lines = runs("list", "--where", "sampler=bernoulli", "--where", "seed=0").splitlines()
    assert len(lines) == 3
    assert kept.name in lines[2]
    with pytest.raises(Misuse, match="no run has sampler=dhns; there is bernoulli, uniform"):
        runs("list", "--where", "sampler=dhns")


def test_the_list_of_nothing(runs):
    assert "no run in" in runs("list")


def test_rm_shows_asks_and_deletes_what_passes(store, run, runs):
    doomed = run("uniform", seeds=range(2))
    kept = run("bernoulli")
    said = runs("rm", "--where", "sampler=uniform", answer="n\n")
    assert all(path.name in said for path in doomed)
    assert kept.name not in said
    assert "nothing was deleted" in said
    assert len(names(store)) == 3
    assert "deleted 2 of 2 runs" in runs("rm", "--where", "sampler=uniform", answer="y\n")
    assert names(store) == [kept.name]


def test_rm_takes_names_paths_and_what_is_unfinished(store, run, runs):
    first, second, third = run("uniform", seeds=range(3))
    (second / "result.json").unlink()
    (second / "checkpoint.pt").write_bytes(b"half-way")
    (second / "events.jsonl.tmp").write_bytes(b"")
    runs("rm", "--yes", first, second.name)
    assert names(store) == [third.name]


def test_rm_refuses_a_filter_given_twice_and_deletes_nothing(store, run, runs):
    run("uniform", seeds=range(3))
    before = names(store)
    with pytest.raises(Misuse, match="--where names seed twice; give it once: --where seed=0,1 passes both"):
        runs("rm", "--where", "seed=0", "--where", "seed=1", "--yes")
    assert names(store) == before
    runs("rm", "--where", "seed=0", "--where", "seed=0", "--yes")  # the same again contradicts nothing
    assert len(names(store)) == 2


def test_names_and_filters_together_are_the_narrower(store, run, runs):
    first, second, third = run("uniform", seeds=range(3))
    runs("rm", "--yes", "--where", "seed=1,2", first.name, second.name)
    assert names(store) == sorted([first.name, third.name])
    assert "nothing was deleted" in runs("rm", "--yes", "--where", "seed=2", first.name)
    assert names(store) == sorted([first.name, third.name])


def with_a_stranger(path):
    (path / "thesis.tex").write_text("years of work")


def with_a_folder(path):
    (path / "ranks.npz").unlink()
    (path / "ranks.npz").mkdir()


def with_a_link(path):
    (path / "model.safetensors").symlink_to(path / "result.json")


def moved_behind_a_link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def without_records(path):
    (path / "config.json").unlink()
    (path / "result.json").unlink()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_a_stranger, "holds thesis.tex, which no run writes"),
        (with_a_folder, "holds ranks.npz, which no run writes"),
        (with_a_link, "holds model.safetensors, which no run writes"),
        (moved_behind_a_link, "is a link to a folder elsewhere"),
        (without_records, "is no run folder"),
    ],
)
def test_what_is_not_all_a_run_is_never_deleted(store, run, runs, change, sentence):
    good, path = run("uniform", seeds=range(2))
    change(path)
    before = {str(file) for file in store.parent.rglob("*")}
    for how in ((good.name, path.name), (path,)):
        with pytest.raises(Misuse, match=sentence):
            runs("rm", "--yes", *how)
    with pytest.raises(Misuse, match=sentence):
        removal.remove(path)
    assert {str(file) for file in store.parent.rglob("*")} == before


@pytest.mark.parametrize("name", ["..", "../beside", ".", "", "/tmp", "nowhere", "README"])
def test_only_folders_of_the_store_are_deleted(store, run, runs, name):
    run("uniform")
    (store.parent / "beside").mkdir()
    (store.parent / "beside" / "config.json").write_text("{}")
    (store / "README").write_text("notes")
    before = {str(file) for file in store.parent.rglob("*")}
    with pytest.raises(Misuse, match="there is no folder"):
        runs("rm", "--yes", name)
    assert {str(file) for file in store.parent.rglob("*")} == before


def test_rm_without_a_terminal_names_the_option(store, run, runs):
    run("uniform")
    with pytest.raises(Misuse, match=r"^nothing was deleted, since there is no terminal to ask on; add --yes$"):
        runs("rm", "--where", "sampler=uniform")  # no answer
    assert len(names(store)) == 1


def test_rm_without_a_choice_is_refused(run, runs):
    run("uniform")
    with pytest.raises(Misuse, match="say which runs"):
        runs("rm", "--yes")
    with pytest.raises(Misuse, match="no run has sampler=dhns"):
        runs("rm", "--yes", "--where", "sampler=dhns")


def test_a_run_that_another_process_works_on_is_kept(store, run, runs):
    busy, idle = run("uniform", seeds=range(2))
    with RunFolder(busy).claimed():
        before = {file.name: file.read_bytes() for file in busy.iterdir()}
        with pytest.raises(Busy):
            removal.remove(busy)
        with pytest.raises(RunFailed, match=f"working on {busy.name}"):
            runs("rm", "--yes", busy.name, idle.name)
        assert {file.name: file.read_bytes() for file in busy.iterdir()} == before
    assert names(store) == [busy.name]
    for leftover in ("lock", "claim.a1b2", "ranks.npz.a1b2.tmp", ".ranks.npz.0123456789ab.tmp", "failed.json"):
        (busy / leftover).write_text("")
    (busy / "claim").write_text('{"token": "a1b2", "host": "", "machine": "", "pid": 1, "started": ""}\n{}\n')
    os.utime(busy / "claim", (0, 0))
    os.utime(busy / "claim.a1b2", (0, 0))
    runs("rm", "--yes", busy.name)  # what a dead process has left is no obstacle
    assert names(store) == []


def test_a_failed_run_is_listed_with_its_reason(run, runs):
    path = run("uniform")
    (path / "result.json").unlink()
    (path / "failed.json").write_text(json.dumps({"reason": "the scores are not finite", "when": "", "host": ""}))
    assert f"{path.name}" in runs("list")
    assert "failed: the scores are not finite" in runs("list")
    (path / "failed.json").write_text("{")
    assert "failed: failed.json is damaged" in runs("list")


def test_export_has_every_figure_unrounded(store, run, runs, tmp_path):
    diagnostics = {"end": {"hardness": 1 / 3}}
    config = {"options": {"sampler": {"k": 40}}, "aux": {"diffusion": 0.5}, "modalities": ["visual", "text"]}
    changes = {"diagnostics": diagnostics, "breakdown": {"side": {"head": {"mrr": 0.1 + 0.2}}}}
    path = run('NS[adv], "x"', seed=2, result=changes, **config)
    other = run("uniform", seed=3, result={"code": "abc"})
    (run("bernoulli") / "result.json").unlink()
    said = runs("export", tmp_path / "all.csv")
    assert "2 runs" in said
    assert "1 unfinished or damaged" in said
    assert b"\r\n" in (tmp_path / "all.csv").read_bytes()
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    result = json.loads((path / "result.json").read_text())
    row = rows[path.name]
    assert row["sampler"] == 'NS[adv], "x"'
    for name, value in result["test"].items():
        assert float(row[name]) == value
        assert float(row[f"valid_{name}"]) == result["valid"][name]
    assert float(row["sampler_seconds"]) == 7.25
    assert (row["seed"], row["protocol"], row["protocol.margin"], row["options.sampler.k"]) == ("2", "nsbench", "3.0", "40")
    assert (row["aux"], row["aux.diffusion"], json.loads(row["modalities"])) == ("diffusion", "0.5", ["visual", "text"])
    assert float(row["diagnostics.end.hardness"]) == 1 / 3
    assert float(row["breakdown.side.head.mrr"]) == 0.1 + 0.2
    assert (row["code"], rows[other.name]["code"], rows[other.name]["options.sampler.k"]) == ("", "abc", "")
    assert not {"env.device", "cost.seconds", "protocol.name", "config", "result", "path"} & row.keys()


def test_no_cell_is_a_formula(store, run, runs, tmp_path):
    names = ["=1+1", "+A1", "-2*3", "@SUM(A1)"]
    for quality, sampler in enumerate([*names, "uniform"], start=1):
        run(sampler, seeds=range(2), quality=quality)
    runs("export", tmp_path / "all.csv")
    exported = list(csv.DictReader((tmp_path / "all.csv").open(newline="", encoding="utf-8")))
    table = list(csv.DictReader(io.StringIO(write(comparison(store), "csv"))))
    drawn = list(csv.DictReader(write_plot(plots(store, ["cost"])[0][0], tmp_path)[-2].open(newline="", encoding="utf-8")))
    for rows, column in ((exported, "sampler"), (table, "row"), (drawn, "row")):
        assert {row[column] for row in rows} >= {f"'{name}" for name in names}
    cells = [cell for row in exported + table + drawn for cell in row.values() if cell[:1] in tuple("=+-@\t\r")]
    assert all(cell == "-" or math.isfinite(float(cell)) for cell in cells)


def test_export_of_nothing_is_refused(run, runs, tmp_path):
    with pytest.raises(Misuse, match="nothing to export"):
        runs("export", tmp_path / "all.csv")
    run("uniform", seeds=range(2))
    runs("export", tmp_path / "all.csv", "--where", "seed=1")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 2
