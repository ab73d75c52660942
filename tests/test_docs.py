"""The documents are there, are cited by what they hold, and say what is true."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import nsbench
from nsbench.registry import AUXILIARIES, Registry
from nsbench.testing.rules import assert_contract

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("datasets", "samplers", "kge", "nsbench", "results", "tools", "tests")
KINDS = (".py", ".toml", ".cpp", ".txt")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("*.md")]
CITED = re.compile(r"\b((?:docs/|notes/)[\w/]+\.md)(?:,? (?:sections? )?(\d+(?:\.\d+)*)(?:,? (?:and|to) (\d+(?:\.\d+)*))?)?")
GONE = re.compile(r"\b(specs/\w+\.md|design\.md|house\.md|style\.md|data/README)")


def read(file: Path) -> str:
    """The text with line breaks inside comments and docstrings made spaces, so that a citation may be broken."""
    return re.sub(r"\n[ #/]*", " ", file.read_text(encoding="utf-8"))


def sections(page: Path) -> set[str]:
    """The numbers of the page's headings, and of the items of its numbered lists."""
    return set(re.findall(r"^(?:#+ )?(\d+(?:\.\d+)*)[. ]", page.read_text(encoding="utf-8"), flags=re.MULTILINE))


CITING = [file for top in SOURCES for file in (ROOT / top).rglob("*") if file.suffix in KINDS and file != Path(__file__)]


def citations() -> set[tuple[str, str]]:
    found = set()
    for file in (*CITING, *PAGES):
        for name, *numbers in CITED.findall(read(file)):
            found |= {(name, number) for number in (numbers if any(numbers) else [""]) if number or not any(numbers)}
    return found


@pytest.mark.parametrize(("name", "section"), sorted(citations()))
def test_what_is_cited_is_there(name: str, section: str) -> None:
    page = ROOT / (name if name.startswith("docs/") else f"docs/{name}")
    assert page.is_file()
    assert not section or section in sections(page)


def test_there_are_citations_and_none_of_what_is_not_shipped() -> None:
    assert len(citations()) > 40
    assert [file for file in CITING if GONE.search(read(file))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_list_of_files_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "architecture.py"))
    assert tool["PAGE"].read_text(encoding="utf-8") == tool["page"](), "run python tools/architecture.py"


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("kind", "name", "aux"),
    [
        ("sampler", "Hardest", {"sampler.candidates": 90}),
        ("kge", "Twice", {}),
        ("fusion", "Added", {}),
        ("kge", "", {"aux.short": 0.1}),
        ("dataset", "ring", {}),
    ],
)
def test_the_examples_run(kind: str, name: str, aux: dict, tmp_path: Path) -> None:
    (source,) = [text for text in EXAMPLES if (name or "class Short") in text]
    (tmp_path / "mine.py").write_text(source)
    part = {kind: f"{tmp_path / 'mine.py'}:{name}"} if name else {}
    if not name:
        exec(source, {})
    try:
        options = {"protocol.steps": 20, "protocol.validate_every": 10, **aux}
        result = nsbench.run(
            **{"dataset": "planted:small", **part}, protocol="quick", options=options, runs=tmp_path / "runs"
        )
    finally:
        AUXILIARIES._found.pop("short", None)
    assert 0 < result.test["mrr"] < 1
    assert len(EXAMPLES) == 6


def test_the_sampler_of_the_examples_keeps_the_contract(tmp_path: Path) -> None:
    (source,) = [text for text in EXAMPLES if "class Hardest" in text]
    (tmp_path / "mine.py").write_text(source)
    assert_contract(f"{tmp_path / 'mine.py'}:Hardest")


def test_the_fusion_of_the_examples_delivers_slots_to_samplers(tmp_path: Path) -> None:
    (source,) = [text for text in EXAMPLES if "class Added" in text]
    (tmp_path / "mine.py").write_text(source)
    assert_contract("dhns", fusion=f"{tmp_path / 'mine.py'}:Added")


SHOWN = re.compile(r"(?:^    |`)(nsbench [^`\n]*)|^```(text|python)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
TOLD = re.compile(r"nsbench (table|compare) .*results/runs|nsbench (show|data audit) |nsbench sweep \w+ --plan --no-cal")
RUN = re.compile(r"\S*/(\S+)-[0-9a-f]{8}\b")  # a run's folder: the page's store is another, and the id goes with versions


def outputs() -> Iterator[tuple[str, str, str]]:
    """(page, command, what the page shows of its output), of commands that need no runs but shipped ones."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        asked = ""
        for command, kind, block in SHOWN.findall(page.read_text(encoding="utf-8")):
            if kind == "text" and TOLD.match(asked):
                yield page.name, asked, RUN.sub(r"\1", block)
            asked = asked if kind == "text" else command


def part_of(words: Sequence[str], line: Sequence[str]) -> bool:
    """Are these words of the line, in its order? A page may leave some out."""
    rest = iter(line)
    return all(word in rest for word in words)


def test_output_is_shown_on_these_pages() -> None:
    assert {page for page, _, _ in outputs()} == {"datasets.md", "grids.md", "protocols.md", "statistics.md", "tables.md"}


SLOW = {True: [pytest.mark.slow], False: []}
OUTPUTS = [pytest.param(*each, id=" ".join(each[:2]), marks=SLOW["sweep" in each[1]]) for each in outputs()]


@pytest.mark.parametrize(("page", "asked", "block"), OUTPUTS)
def test_what_a_page_shows_is_what_the_command_prints(
    page: str, asked: str, block: str, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word by word where a text is one, else line by line, of which some may be missing."""
    monkeypatch.chdir(ROOT)
    said = command(*asked.split("  ")[0].split()[1:])
    printed = [line.split() for line in RUN.sub(r"\1", said.out + said.err).splitlines()]
    if " ".join(block.split()) in " ".join(word for line in printed for word in line):
        return
    for line in (line.split() for line in block.splitlines()):
        ruled = all(set(word) <= set("─") for word in line)
        assert ruled or line == ["..."] or any(part_of(line, other) for other in printed), " ".join(line)


def test_what_python_shows_is_what_the_page_has() -> None:
    pytest.importorskip("pandas")
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    ((source, shown),) = re.findall(r"```python\n(frame = .*?)```\s*```text\n(.*?)```", text, flags=re.DOTALL)
    (load, summary) = source.replace('"results/runs', f'"{ROOT}/results/runs').splitlines()
    names: dict = {"nsbench": nsbench}
    exec(load, names)
    printed = [line.split() for line in str(eval(summary, names)).splitlines()]
    for line in (line.split() for line in shown.splitlines() if line.strip() != "..."):
        assert any(line[-3:] == other[-3:] for other in printed), line


WEBSITE = runpy.run_path(str(ROOT / "tools" / "website.py"))


@pytest.mark.parametrize(("file", "kind"), [(file, about[0]) for file, about in WEBSITE["KINDS"].items()])
def test_every_component_has_its_card(file: str, kind: Registry) -> None:
    """Its docstring word by word, with what Markdown is made to read literally, and all of its options."""
    page = WEBSITE["cards"]()[f"cards/{file}"]
    for name in (name for name in kind.names() if kind.source(name) == "built-in"):
        card = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)[1]
        shown = (
            re.sub(r"\\(\W|_)", r"\1", card)
            .replace("&lt;", "<")
            .replace("&amp;", "&")
            .replace("```text", "")
            .replace("```", "")
        )
        said = inspect.getdoc(sys.modules[kind.get(name).__module__])
        assert " ".join(shown.split()).startswith(" ".join(said.split()))
        assert all(f".{field.name}` |" in card for field in dataclasses.fields(kind.get(name).Options))


@pytest.mark.parametrize(
    ("text", "page", "link"),
    [
        (
            "see notes/dhns.md 2.4.",
            "footguns.md",
            "see [notes/dhns.md 2.4](notes/dhns.md#24-what-the-gradient-leak-t2-really-is).",
        ),
        ("(docs/features.md 1)", "notes/mmrns.md", "([docs/features.md 1](../features.md#1-features))"),
        ("[notes](notes/dhns.md), `notes/dhns.md 2`", "footguns.md", "[notes](notes/dhns.md), `notes/dhns.md 2`"),
    ],
)
def test_what_the_site_cites_becomes_a_link(text: str, page: str, link: str) -> None:
    assert WEBSITE["linked"](text, page) == link


def test_the_figure_of_the_two_way_t_says_what_a_simulation_says() -> None:
    """To what 300 of its trials allow, and as the page says it."""
    tool = runpy.run_path(str(ROOT / "tools" / "two_way.py"))
    drawn = [int(rate) for rate in re.findall(r"wrong in (\d+) of 100", tool["PICTURE"].read_text(encoding="utf-8"))]
    said = re.findall(r"wrong in (\d+) of 100", (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"))
    assert [int(rate) for rate in said] == drawn
    assert 100 * tool["wrong"](tool["intervals"](300)).mean(axis=0) == pytest.approx(drawn, abs=5)
