"""What the README and docs/findings.md show works as printed."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

import nsbench
from nsbench.results import tables, writers
from nsbench.results.tables import papers
from nsbench.testing.rules import assert_contract

README = Path(__file__).parent.parent / "README.md"
FINDINGS = README.parent / "docs" / "findings.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (source,) = blocks("python")
    (tmp_path / "mine.py").write_text(source)
    (name,) = re.findall(r"class (\w+)", source)
    return f"{tmp_path / 'mine.py'}:{name}"


def test_the_sampler_runs_and_keeps_the_contract(plugin, tmp_path):
    assert len(blocks("python")[0].splitlines()) < 40
    assert_contract(plugin)
    options = {"protocol.steps": 20, "protocol.validate_every": 10}
    result = nsbench.run(plugin, "transe", "planted:small", protocol="quick", options=options, runs=tmp_path / "runs")
    assert 0 < result.test["mrr"] < 1


def test_both_set_up_commands_stand_there_once():
    text = README.read_text()
    assert text.count("pip install . && nsbench demo") == 1
    assert len(re.findall(r"^pip install -e .* && pytest$", text, flags=re.MULTILINE)) == 1


def cells(text: str) -> list[list[str]]:
    """The body of a Markdown table: cells of each row, without alignment."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


RUNS = README.parent / "results" / "runs"


def figures(store: str, **where: str) -> dict[str, str]:
    """Row -> MRR of a shipped store with one model and one dataset in it, as its table prints them."""
    made = tables.comparison(RUNS / f"{store}.nsb", where=where)
    return {row.label: row.cells[0].value for row in made.rows}


def test_the_table_is_the_one_of_the_shipped_runs():
    made = tables.comparison(RUNS / "classic.nsb")
    assert cells(README.read_text()) == cells(writers.write(made, "md"))


def texts(svg: str) -> list[str]:
    """What matplotlib writes beside the paths of its letters."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_the_picture_is_what_its_command_draws(tmp_path, command, monkeypatch):
    pytest.importorskip("matplotlib")
    text = README.read_text()
    (made,) = re.findall(r"`(nsbench plot [^`]*)`", text)
    (picture,) = re.findall(r"\((docs/figures/[^)]*\.svg)\)", text)
    monkeypatch.chdir(README.parent)
    words = made.split()[1:]
    assert words[words.index("-o") + 1] == str(Path(picture).parent)
    words[words.index("-o") + 1] = str(tmp_path)
    assert command(*words).code == 0
    committed, drawn = (
        (folder / Path(picture).name).read_text() for folder in (README.parent / Path(picture).parent, tmp_path)
    )
    assert "+1.33 [+1.01, +1.65]" in texts(committed)
    assert texts(committed) == texts(drawn)
    (version, again) = (re.search(r"Matplotlib v[\d.]+", svg)[0] for svg in (committed, drawn))
    assert version != again or committed == drawn


def test_the_figures_taken_apart_are_those_of_the_shipped_runs():
    plain = figures("baselines", dataset="mkg_y", kge="distmult")
    bare = figures("one_factor", **{"changed.regularizer": "0.0"})
    looked = {
        "sans": "11.64",
        "sans (hops=3)": "26.63",
        "sans (hops=4)": "29.10",
        "sans (mode=rw)": "26.08",
        "sans (paper)": "9.98",
        "sans (released)": "32.79",
        "uniform": "33.79",
    }
    found = [plain["bernoulli"], plain["uniform"], bare["bernoulli"], bare["uniform"]]
    assert found == ["27.98", "28.34", "33.27", "32.74"]
    assert figures("variants") == looked
    drawn = tables.comparison(RUNS / "classic.nsb", layout="diagnostics", where={"sampler": "sans", "kge": "transe"})
    hardness = {column.metric.name: cell.value for column, cell in zip(drawn.columns, drawn.rows[0].cells)}
    assert (hardness["end.hardness"], hardness["end.hardness_now"]) == ("92.4", "21.6")
    assert all(figure in FINDINGS.read_text() for figure in [*found, *looked.values()])


NAMES = {"nscaching": "NSCaching", "kbgan": "KBGAN", "bernoulli": "Bernoulli", "pseudo_typed": "pseudo-typed"}
MODELS = {"transe": "TransE", "distmult": "DistMult", "rotate": "RotatE"}


def test_the_gains_and_what_is_left_of_them_without_twins_are_those_of_the_shipped_runs(command):
    classic = str(RUNS / "classic.nsb")
    claims = list(
        csv.DictReader(io.StringIO(command("table", "--layout", "claims", "--format", "csv", "--runs", classic).out))
    )
    better = {(one["sampler"], one["kge"]) for one in claims if one["verdict"].startswith("better")}
    rows = [line for line in FINDINGS.read_text().splitlines() if re.match(r"\| \S+, \S+ \| [+-]", line)]
    assert len(rows) == len(better) == 6
    for sampler, kge in better:
        where = ("--where", f"kge={kge}", "--runs", classic)
        said = command("compare", f"sampler={sampler}", "sampler=uniform", *where).out
        (whole,) = re.findall(r"A is better: ([+-][\d.]+),", said)
        (left,) = re.findall(r"no other relation the verdict .*?\(([+-][\d.]+),", said)
        assert any(row.startswith(f"| {NAMES[sampler]}, {MODELS[kge]} | {whole} | {left} |") for row in rows), said


def test_the_published_pairs_are_in_the_papers_table():
    printed = {
        (one.sampler, one.kge): one.printed
        for one in papers.figures()
        if (one.source, one.dataset, one.metric) == ("mmrns2022 Table 2", "mkg_y", "mrr")
    }
    for better, worse, kge in (("bernoulli", "uniform", "distmult"), ("sans", "uniform", "transe")):
        assert f"{printed[better, kge]} against {printed[worse, kge]}" in FINDINGS.read_text()
