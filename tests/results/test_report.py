"""The report page: its structure read with html.parser, and what it does in a headless browser where there is one."""

import json
import re
import shlex
import shutil
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nsbench import identity
from nsbench.cli import cli
from nsbench.errors import Misuse
from nsbench.results.report import report
from nsbench.results.tables import claims, comparison
from nsbench.results.tables.cells import Caption, Cell, Row, Table
from nsbench.results.writers import html
from tests.results.conftest import write_run

NASTY = "<i>a&b</i> \"q\" 'x'"
SEEN = {part: {"mrr": 0.3, "queries": 60} for part in ("seen", "unseen")}
BREAKDOWN = {"category": {part: {"mrr": 0.3, "queries": 30} for part in ("1-1", "1-n", "n-1", "n-n")}, "seen": SEEN}
RESULT = {"breakdown": BREAKDOWN, "diagnostics": {"sampler": {}, "end": {"hardness": 0.5, "entropy": 0.9}}}
VOID = {"meta", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, in order; text by the id of the box or section that it stands in; what is left open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.text[name] = self.text.get(name, "") + data

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def links(self):
        return [attributes["href"] for tag, attributes in self.tags if tag == "a"]


def fill(store):
    """Two protocols; five seeds, one of a sampler with an option; a run of a name with markup; an unfinished folder."""
    store.mkdir(exist_ok=True)
    for seed in range(5):
        for dataset in ("mkg_y", "mkg_w"):
            write_run(store, "uniform", "transe", dataset, seed, result=RESULT)
            write_run(store, "dhns", "transe", dataset, seed, quality=2.5, result=RESULT)
        write_run(store, "dhns", "transe", seed=seed, quality=2.0, result=RESULT, options={"sampler": {"hard": False}})
        write_run(store, "bernoulli", "transe", seed=seed, quality=1.01, result=RESULT)
    write_run(store, NASTY, "rotate", folder="nasty", result=RESULT)
    write_run(store, "uniform", "rotate", result=RESULT)
    write_run(store, "uniform", "rotate", result=RESULT, protocol={"name": "cpu", "steps": 2000}, folder="other")
    (store / "begun").mkdir()
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The store and its report, made once."""
    folder = tmp_path_factory.mktemp("report")
    store, said = fill(folder / "runs"), []
    text = report(store, progress=lambda done, total: said.append((done, total)))
    (folder / "report.html").write_text(text, encoding="utf-8")
    assert [done for done, _ in said] == list(range(1, said[-1][1] + 1))
    return store, folder / "report.html", text


@pytest.fixture(scope="module")
def page(made):
    return Page(made[2])


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without plots, which take most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


# Structure


def test_tags_are_closed_and_ids_unique(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_every_reference_has_its_target(page):
    references = [href for href in page.links() if href.startswith("#")]
    assert references == page.links()  # none leaves the page
    inside = [attributes.get("xlink:href", "") for tag, attributes in page.tags if tag == "use"]
    clips = re.findall(r"url\(([^)]*)\)", " ".join(str(attributes) for _, attributes in page.tags))
    assert inside
    assert clips
    assert {reference.removeprefix("#") for reference in [*references, *inside, *clips]} <= set(page.ids)


def test_nothing_is_loaded(made, page):
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "video", "audio")
        assert "src" not in attributes
        assert tag != "link" or attributes["href"].startswith("data:")
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", made[2])
    addresses = set(re.findall(r"https?://[\w./]*", made[2]))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of formats, never asked for


@pytest.mark.usefixtures("undrawn")
def test_no_place_on_this_machine_is_told(store, run, tmp_path):
    """Of the store, of files that runs name, and of errors, also in what a name is broken into; what is no path stays."""
    home = "/home/jane/atelier"
    run(f"{home}/mine.py:Mine", folder="mine", sources={"sampler": "0" * 64})
    run("uniform", protocol={"name": f"{home}/short.toml"}, changed={"margin": "6/2"})
    path = run("dhns")
    (path / "result.json").unlink()
    (path / "failed.json").write_text(json.dumps({"reason": f"cannot read {home}/data/train.tsv: and/or 1/2 of it"}))
    text = report(store)
    assert not re.search("jane|/home|atelier", text)
    assert str(tmp_path) not in text
    assert f"{len(list(store.glob('*/result.json')))} runs in runs:" in text
    assert "cannot read train.tsv: and/or 1/2 of it" in text
    assert "<span>--runs</span> runs" in text
    assert Page(text).open == []


def test_names_are_escaped(made, page):
    assert "<i>" not in made[2]
    assert NASTY in page.text["s1"]


def test_each_figure_leads_to_its_runs(made, page):
    """A row's cells lead to a box that names the folders of just the runs of that sampler, options and dataset."""
    store, _, text = made
    wanted = {}
    for path in sorted(store.glob("*/result.json")):
        config = json.loads(path.read_text())["config"]
        cell = config["protocol"]["name"], config["sampler"], config["kge"], config["dataset"], str(config["options"])
        wanted.setdefault(cell, set()).add(path.parent.name)
    boxes = [attributes["id"] for tag, attributes in page.tags if tag == "details"]
    found = [{name for runs in wanted.values() for name in runs if name in page.text[box]} for box in boxes]
    assert sorted(map(sorted, found)) == sorted(map(sorted, wanted.values()))
    for box, runs in zip(boxes, found):
        steps = json.loads((store / min(runs) / "config.json").read_text())["protocol"]["steps"]
        for setting in (f"protocol.steps = {steps}", "env.torch = 2.13.0", "code = unknown"):
            assert page.text[box].count(setting) == 1  # runs that share a setting share its line
    assert set(boxes) <= {href[1:] for href in page.links()}
    # The MRR that is printed in a cell is the mean of the runs in its box.
    cells = re.findall(r'data-value="([^"]*)"><a href="#(s1-r\d+)">(?:<\w+>)?([\d.]+)', text.split("<h3>Tests")[0])
    assert len(cells) > 20
    for value, box, shown in cells:
        runs = [store / name / "result.json" for name in found[boxes.index(box)]]
        metrics = [json.loads(run.read_text())["test"] for run in runs]
        means = {name: np.mean([metric[name] for metric in metrics]) for name in ("mrr", "hits@1", "hits@3", "hits@10")}
        assert any(float(value) == pytest.approx(mean) and f"{100 * mean:.2f}" == shown for mean in means.values())


def test_protocols_have_sections_of_their_own(page):
    headings = [name for name in page.ids if re.fullmatch(r"s\d+", name)]
    assert headings == ["s1", "s2"]
    assert "Protocol nsbench, version 1" in page.text["s1"]
    assert "Protocol cpu, version 1" in page.text["s2"]
    assert "other" not in page.text["s1-runs"]
    assert "other" in page.text["s2-runs"]


def test_pictures_stand_above_the_tables_and_show_what_is_tested_against_the_baseline(page, store, run):
    assert page.ids.index("s1-glance") < page.ids.index("s1-t0") < page.ids.index("s1-plots")
    assert [name for name in page.ids if re.fullmatch(r"s1-glance\d", name)] == [f"s1-glance{i}" for i in range(3)]
    assert "Verdicts on each row against uniform" in page.text["s1-glance0"]
    assert "mkg_w (released split" in page.text["s1-glance1"]
    assert "mkg_y (released split" in page.text["s1-glance2"]
    assert "s2-glance" not in page.ids  # one seed
    run("uniform", seeds=range(5), result=RESULT)
    run("dhns", seeds=range(5), result=RESULT)
    other = report(store, baseline="dhns")
    assert "Verdicts on each row against dhns" in other
    assert "--kind verdicts,forest --baseline dhns</code>" in re.sub("</?span>", "", other)


@pytest.mark.usefixtures("undrawn")
def test_splits_and_changes_have_sections_of_their_own(store, run, monkeypatch):
    monkeypatch.setitem(identity.PUBLIC, "1" * 64, "db15k")
    run("uniform", dataset="db15k", split="clean")
    run("uniform", dataset="db15k", split="released", fingerprint="1" * 64)
    run("uniform", dataset="mkg_y", split="released", changed={"negatives": 5})
    text = report(store)
    for title in ("version 1, clean split", "version 1, negatives=5", "version 1, released split"):
        assert f"<h2>Protocol nsbench, {title}</h2>" in text
    assert "differ in" not in text


@pytest.mark.usefixtures("undrawn")
def test_what_is_refused_stands_there_with_its_reason(store, run):
    run("uniform", folder="first")
    run("uniform", folder="second")
    page = Page(report(store))
    assert "first and second are two runs of one seed" in page.text["s1-refused"]
    assert "dhns4" in page.text["s1-refused"]


def test_folders_that_are_left_out_are_named(page):
    assert "begun: no run" in page.text["left-out"]


def test_claims_in_words(made, page):
    """The sentence's figures are those of the runs, its verdict that of the table below it."""
    store, _, text = made
    mrr = {}
    for path in store.glob("*/result.json"):
        result = json.loads(path.read_text())
        config = result["config"]
        if config["dataset"] == "mkg_y" and config["kge"] == "transe" and not config["options"]["sampler"]:
            mrr.setdefault(config["sampler"], []).append(result["test"]["mrr"])
    difference = 100 * (np.mean(mrr["dhns"]) - np.mean(mrr["uniform"]))
    words = re.sub(r"<[^>]*>", "", text)
    assert f"dhns is better than uniform with transe on mkg_y: {difference:+.2f} MRR x100, 95 % interval" in words
    assert "4 tested: 3 better, 0 worse" in words
    seen = re.findall(r"after Holm over 4; with 80 % power the test would have seen ([\d.]+)\.", words)
    records = [row.cells[0].record for row in comparison(store, layout="claims", where={"protocol": "nsbench"}).rows]
    assert sorted(seen) == sorted(f"{100 * record['detectable']:.2f}" for record in records if "detectable" in record)
    assert "Not testable: rotate on mkg_y: &lt;i&gt;" in words


def test_the_commands_below_tables_give_them_again(made, monkeypatch):
    """Each as it stands, beside the store, has the caption of the table above it."""
    store, _, text = made
    monkeypatch.chdir(store.parent)
    commands = re.findall(r"<code>(nsbench table[^<]*--layout dhns4[^<]*)</code>", re.sub("</?span>", "", text))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        again = CliRunner().invoke(cli, [*shlex.split(unescape(command))[1:], "--format", "html"])
        assert again.exit_code == 0
        assert re.findall(r"<figcaption>(.*?)</figcaption>", again.output, re.DOTALL)[0] in captions


@pytest.mark.usefixtures("undrawn")
def test_a_sampler_that_failed_is_no_empty_link(store, run):
    run("uniform", result=RESULT)
    path = run("dhns", result=RESULT)
    run("kbgan", result=RESULT)
    (path / "result.json").unlink()
    (path / "failed.json").write_text('{"reason": "out of memory"}')
    text = report(store)
    assert 'href=""' not in text
    assert "Not testable: transe on mkg_y: <a " in text
    assert "0 of 1 runs of dhns (transe, mkg_y): 1 failed (out of memory)" in text
    assert re.search(r"Not testable: [^\n]*, dhns|Not testable: [^\n]*dhns, ", text)


@pytest.mark.usefixtures("undrawn")
def test_only_a_sampler_with_several_variants_or_options_is_ablated(store, run):
    for kge in ("transe", "rotate"):
        run("uniform", kge, result=RESULT)
        run("uniform", kge, fusion="adamf", result=RESULT)
    run("dhns", result=RESULT)
    run("dhns", variant="forward", result=RESULT)
    run("sans", result=RESULT)
    run("sans", "rotate", variant="paper", result=RESULT)
    assert re.findall(r"<h3>(Ablation of \w+)</h3>", report(store)) == ["Ablation of dhns"]


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_one_sentence_says_what_brings_plots(store, run):
    run("uniform", result=RESULT)
    text = report(store)
    assert "<svg" not in text
    assert text.count("pip install &#x27;nsbench[plots]&#x27;") == 1


def test_an_empty_store_is_refused_with_what_to_run(store):
    with pytest.raises(Misuse, match="nsbench run --sampler"):
        report(store)


@pytest.mark.usefixtures("undrawn")
def test_filters(store, run):
    run("uniform", dataset="mkg_y")
    run("uniform", dataset="mkg_w")
    text = report(store, {"dataset": "mkg_w"})
    assert "mkg_y" not in text
    assert "<span>--where</span> dataset=mkg_w" in text
    with pytest.raises(Misuse, match="no run has dataset=db15k"):
        report(store, {"dataset": "db15k"})


@pytest.mark.usefixtures("undrawn")
def test_command(store, run, tmp_path, monkeypatch):
    run("uniform")
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli, ["report", "--runs", str(store)])
    assert (said.exit_code, said.output.startswith("report.html: ")) == (0, True)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# In a browser


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright (extra `browser`)")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium in PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def opened(request, chromium, made):
    """The page at a width; after the test nothing was complained of and nothing was asked for but the page."""
    context = chromium.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(made[1].as_uri())
    yield page
    assert said == []
    assert asked == [made[1].as_uri()]
    context.close()


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_nothing_overflows(opened):
    assert overflow(opened) <= 0
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert overflow(opened) <= 0
    wide = "[...document.querySelectorAll('figure.table > div')].filter(box => box.scrollWidth > box.clientWidth).length"
    if opened.viewport_size["width"] == 390:
        assert opened.evaluate(wide) > 0  # so the boxes do scroll
    for svg in opened.locator("svg").all():
        assert svg.bounding_box()["width"] > 250


@pytest.mark.parametrize("place", [0, 1])
def test_a_header_sorts(opened, place):
    """Both ways, by the unrounded values, each model's rows among themselves; what has no figure comes last."""
    table = opened.locator("figure.table table").nth(place)
    column = "table => [...table.tBodies[0].rows].slice(1).map(row => row.cells[2].dataset.value)"  # behind name and n
    before = table.evaluate(column)
    empty = [value for value in before if value is None]
    figures = sorted((value for value in before if value is not None), key=float)
    assert (len(figures), len(empty)) == ((2, 2), (4, 0))[place]
    assert before != figures + empty
    for ordered in (figures, figures[::-1]):
        table.get_by_role("button", name="MRR").click()
        assert table.evaluate(column) == ordered + empty


BROKEN_INSIDE = """() => [...document.querySelectorAll("tbody th[scope=row]")].flatMap(head => {
  const walk = document.createTreeWalker(head, NodeFilter.SHOW_TEXT), found = [], range = document.createRange();
  while (walk.nextNode())
    for (const part of walk.currentNode.data.matchAll(/[^ =:,+_/]+/g)) {
      range.setStart(walk.currentNode, part.index), range.setEnd(walk.currentNode, part.index + part[0].length);
      if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) found.push(part[0]);
    }
  return found;
})"""


@pytest.mark.parametrize(("width", "room"), [(1300, 0), (390, 0.5)])
def test_long_names_break_at_their_signs_and_leave_room_for_figures(chromium, tmp_path, width, room):
    """The columns of claims are all seen on a screen; on a phone their box scrolls below names of half its width."""
    long = "uniform (features=names:textual, fusion=adamf)"
    said = {"difference": "+0.27", "verdict": "practically equal", "seen_verdict": "not testable"}
    said |= {"untwinned_verdict": "better", "p_holm": "< 0.0001"} | dict.fromkeys(
        ("interval", "bootstrap"), "[-0.25, +0.79]"
    )
    texts = [said.get(column.metric.name, "+0.36") for column in claims.COLUMNS]
    cells = [Cell(text, "at this budget" if "equal" in text else "") for text in texts]
    rows = [Row("transe", f"mmrns ({each}, candidates=300) against {long}", tuple(cells)) for each in (long, "a_b/c+d")]
    path = tmp_path / "table.html"
    path.write_text(html.page(Table("T", claims.COLUMNS, tuple(rows), Caption("Caption.", ""), ())), encoding="utf-8")
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    assert page.evaluate(BROKEN_INSIDE) == []
    assert overflow(page) <= 0
    box = "document.querySelector('figure.table > div')"
    assert (page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") > 0) == bool(room)
    page.evaluate(f"{box}.scrollLeft = 1e4")
    name = page.locator("tbody th[scope=row]").first.bounding_box()
    assert name["x"] >= 0  # it stays while the figures scroll
    assert name["width"] <= width * (room or 0.3)
    page.close()


def test_a_figure_opens_its_runs(opened):
    link = opened.locator("td a").first
    box = opened.locator(f"details{link.get_attribute('href')}")
    here = f"document.querySelector('{link.get_attribute('href')}').getBoundingClientRect().top < 100"
    folder = box.get_by_text("-transe-mkg_").first
    assert not folder.is_visible()
    for _ in range(2):  # the second time the address is the same
        link.click()
        box.locator("table").wait_for(state="visible")
        opened.wait_for_function(here)
        assert folder.is_visible()
        box.locator("summary").click()
        assert not folder.is_visible()
    told = "getComputedStyle(document.querySelector('td a').closest('td'), '::after').content"
    assert opened.evaluate(told) == "none"
    opened.keyboard.press("Tab")  # a key, so that what has the focus shows it
    link.focus()
    assert "seeds 5; values 0." in opened.evaluate(told)
    opened.keyboard.press("Enter")
    box.locator("table").wait_for(state="visible")


def test_dark(chromium, made):
    shades = {}
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(made[1].as_uri())
        for what in ("color", "backgroundColor"):
            shade = page.evaluate(f"getComputedStyle(document.body).{what}")
            shades[scheme, what] = sum(map(int, re.findall(r"\d+", shade)[:3])) / 3
        page.close()
    assert shades["light", "backgroundColor"] - shades["light", "color"] > 150
    assert shades["dark", "color"] - shades["dark", "backgroundColor"] > 150


@pytest.mark.slow
def test_the_shipped_runs_make_a_page_of_reasonable_size():
    classic = Path(__file__).parents[2] / "results" / "runs" / "classic.nsb"
    if not classic.is_file():
        pytest.skip("the shipped runs are not here")
    assert len(report(classic).encode()) < 3e6
