"""What a table looks like in every format: nothing lost, nothing cut, nothing that a name could break."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from nsbench.results.tables.build import comparison
from nsbench.results.tables.cells import Caption, Cell, Column, Row, Table
from nsbench.results.tables.fields import FIELDS
from nsbench.results.tables.layouts import LAYOUTS
from nsbench.results.tables.metrics import Metric
from nsbench.results.writers import html, show, write
from nsbench.results.writers.terminal import to_rich
from nsbench.results.writers.words import at

NASTY = "a_b & 50% {x} \\y ~ ^ #1 $ [adv] p|q <i>"


@pytest.fixture
def every_store(store, run):
    """A store from which every layout can be made: five seeds, an ablated sampler, diagnostics."""
    measured = {"step": 0, "hardness": 0.5, "entropy": 0.9}
    result = {"diagnostics": {"sampler": {}, "start": measured, "end": measured}}
    for kge in ("transe", "rotate"):
        run("uniform", kge, seeds=range(5), result=result)
        run("dhns", kge, seeds=range(5), quality=2.5, result=result)
        run("dhns", kge, seeds=range(5), quality=2.0, options={"sampler": {"hard": False}}, result=result)
    return store


def made(every_store, layout):
    baseline = "dhns" if layout == "ablation" else "uniform"
    return comparison(every_store, layout=layout, baseline=baseline, published=layout in ("dhns4", "mmrns2"))


def wide(columns=20):
    """A table of one row whose cells all keep a zero, and names that formats trip over."""
    metric = Metric("x", "X", True, 1, 3, "")
    cells = tuple(Cell(metric.text(0.35), record={"status": "ok", "mean": 0.35}) for _ in range(columns))
    heads = tuple(Column(f"data{i // 5}", metric) for i in range(columns))
    rows = (Row("transe", "NS[adv]", cells), Row("transe", "a|b", cells), Row("rotate", NASTY, cells))
    return Table("T", heads, rows, Caption("Caption.", "Made so."), ("Note [x].",))


# All formats


class Cells(HTMLParser):
    """Of an HTML page: text of each <td>, the tags left open, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def grid_lines(text, form):
    """The lines of the bodies of a table, split into cells, without the columns of names."""
    if form == "md":
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
        return [line[2:] for line in lines]
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    lines = [line for body in bodies for line in body.splitlines() if "&" in line]
    return [re.split(r"(?<!\\)&", line)[1:] for line in lines]


@pytest.mark.fact(49)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_has_every_cell(every_store, layout):
    table = made(every_store, layout)
    size = len(table.rows) * len(table.columns)
    assert len(list(csv.DictReader(io.StringIO(write(table, "csv"))))) == size
    assert len(Cells(write(table, "html")).cells) == size
    lines = grid_lines(write(table, "md"), "md")
    assert len(lines) == len(table.rows)
    assert {len(line) for line in lines} == {len(table.columns)}
    assert sum(map(len, grid_lines(write(table, "latex"), "latex"))) == size  # which breaks what is too wide
    shown = [cell.value for row in table.rows for cell in row.cells]
    text = printed(table, 10_000)
    assert all(text.count(value) >= shown.count(value) for value in shown)


def parsed(text):
    """A long csv file as (group, label, published) -> [cells], in its order; the inverse of the writer."""
    rows = {}
    for line in csv.DictReader(io.StringIO(text)):
        published = line["source"] != ""
        name = line["model"], f"published: {line['source']}" if published else line["row"], line["row"], published
        style = "best" if line["best"] == "True" else "second" if line["second"] == "True" else ""
        record = {key: value for key, value in line.items() if value != "" and key not in ("shown", "best", "second")}
        rows.setdefault(name, []).append((line["dataset"], line["metric"], style, line["shown"], record))
    return rows


def says(text, value):
    """Is it this value, to the last bit of a float?"""
    return float(text) == value if isinstance(value, float) else text == str(value)


@pytest.mark.fact(49)
@pytest.mark.parametrize("layout", ["dhns4", "mmrns2", "cost", "diagnostics"])
def test_csv_gives_back_the_table(every_store, layout):
    """Every figure bit by bit, every word, every style."""
    table = made(every_store, layout)
    found = parsed(write(table, "csv"))
    assert [(group, label) for group, label, _, _ in found] == [(row.group, row.label) for row in table.rows]
    for row, cells in zip(table.rows, found.values()):
        for column, cell, (dataset, metric, style, shown, record) in zip(table.columns, row.cells, cells):
            assert (dataset, metric, style) == (column.dataset, column.metric.name, cell.style)
            marks = "".join(f"[{mark}]" if mark.isdigit() else mark for mark in cell.marks)
            assert shown == " ".join(filter(None, [cell.value + marks, cell.spread]))
            expected = {key: value for key, value in cell.record.items() if value not in ("", None)}
            assert set(record) == set(expected)
            assert all(says(record[key], value) for key, value in expected.items())


@pytest.mark.fact(49)
@pytest.mark.parametrize("layout", ["ablation", "claims"])
def test_csv_of_tests_keeps_every_figure(every_store, layout):
    """Of the layouts whose rows have names of their own."""
    table = made(every_store, layout)
    lines = list(csv.DictReader(io.StringIO(write(table, "csv"))))
    flat = [cell.record for row in table.rows for cell in row.cells]
    assert len(lines) == len(flat)
    for line, record in zip(lines, flat):
        assert all(says(line[key], value) for key, value in record.items())


def test_csv_has_a_field_for_all_that_cells_record(every_store):
    keys = {key for layout in LAYOUTS for row in made(every_store, layout).rows for cell in row.cells for key in cell.record}
    assert keys <= {field.name for field in FIELDS}


# Terminal and Markdown


def printed(table, width):
    """What a terminal of this width shows of the table."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(to_rich(table, width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_narrow_terminal_breaks_no_number_and_loses_none(every_store, run, layout, width):
    """Every figure of every row, its spread beside it, in lines that are not too long for the terminal."""
    run("kbgan", seeds=range(3))  # so that rows count their runs
    made_ = made(every_store, layout)
    text = printed(made_, width)
    assert "…" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for row in at(made_, range(len(made_.columns))):
        for cell in row.cells:
            if re.search("[0-9]", cell.value):
                shown = f"{cell.value}{''.join(f'[{m}]' if m.isdigit() else m for m in cell.marks)} {cell.spread}".strip()
                assert any(re.search(rf"(?<!\S){re.escape(shown)}(?!\S)", line) for line in lines), shown
    figures = re.findall(r"[0-9]+\.[0-9]+", "\n".join(cell.value for row in made_.rows for cell in row.cells))
    grids = text[: text.index("What: ")]
    assert all(grids.count(figure) >= figures.count(figure) for figure in figures)


@pytest.mark.parametrize("width", [1, 9, 23])
def test_a_terminal_of_hardly_any_width_gets_a_table_all_the_same(every_store, width):
    assert len(printed(made(every_store, "claims"), width).splitlines()) > 100


@pytest.mark.parametrize("layout", LAYOUTS)
def test_signs_are_explained_if_and_only_if_they_occur(every_store, run, layout):
    run("kbgan", seeds=range(3), result={"converged": False})
    run("bernoulli", seeds=range(5), quality=0.2)
    for table in (made(every_store, layout), comparison(every_store, where={"sampler": "uniform"})):
        cells = [cell for row in table.rows for cell in row.cells]
        said = table.caption.signs.replace("No ▲ ▼", "")
        for sign in "▲▼≈†‡§":
            assert (sign in said) == any(sign in cell.marks for cell in cells), sign
        assert ('"-"' in said) == any(cell.value == "-" for cell in cells)
        assert ("Best" in str(table.said.get("Signs"))) == any(cell.style for cell in cells)
        if layout == "claims" and len(table.rows) > 2:
            for word in ("better", "worse", "practically equal", "inconclusive", "not testable"):
                assert (f"{word.capitalize()}:" in said) == any(cell.value == word for cell in cells), word


def test_names_are_broken_between_words_and_behind_signs():
    cells = (Cell("0.350 ± 0.001"),)
    long = "dhns (released, features=captions:image+text, timesteps=1000)"
    rows = (Row("transe", long, cells), Row("transe", "uniform", cells))
    made = Table("T", (Column("mkg_y", Metric("x", "X", True, 1, 3, "")),), rows, Caption("C.", ""), ())
    names = [line[:16].strip() for line in printed(made, 31).splitlines()[6:]]  # below the name of the model
    assert names[: names.index("uniform")] == [
        "dhns",
        "(released,",
        "features=",
        "captions:",
        "image+",
        "text,",
        "timesteps=",
        "1000)",
    ]


@pytest.mark.fact(50)
def test_a_wide_table_goes_through_a_pipe_unbroken():
    text = write(wide(), "rich")
    assert "…" not in text
    (line,) = [line for line in text.splitlines() if "NS[adv]" in line]
    assert line.split()[-20:] == ["0.350"] * 20
    assert text.count("0.350") == 60


@pytest.mark.fact(50)
def test_markdown_keeps_zeros_and_columns():
    text = write(wide(), "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {23}
    assert "a\\|b" in text
    assert text.count("0.350") == 60


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
        heads[width] = len(re.findall("sampler  ", printed(table, width)))
    assert heads == {100: 2, 300: 1}


# HTML


def test_html_is_self_contained_and_well_formed(every_store):
    table = made(every_store, "dhns4")
    page = write(table, "html")
    found = Cells(page)
    assert found.open == []
    assert "http" not in page
    assert not {"link", "img", "iframe"} & {tag for tag, _ in found.tags}
    assert not any("src" in attributes for _, attributes in found.tags)
    assert all(attributes.get("scope") for tag, attributes in found.tags if tag == "th")
    titles = [attributes.get("title", "") for tag, attributes in found.tags if tag == "td"]
    assert all("seeds 5" in title and "sd over seeds" in title for title in titles[: len(table.columns)])
    values = [float(attributes["data-value"]) for _, attributes in found.tags if "data-value" in attributes]
    flat = [cell.record.get("mean", cell.record.get("published")) for row in table.rows for cell in row.cells]
    assert values == [value for value in flat if value is not None]
    assert html.fragment(table) in page
    assert html.STYLE in page
    assert page.count("<strong>") == sum(cell.style == "best" for row in table.rows for cell in row.cells) + 1  # the legend


def test_notebooks_show_the_fragment():
    assert html.fragment(wide()) in html.Shown(**vars(wide()))._repr_html_()


def test_html_escapes_names():
    page = write(wide(), "html")
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert Cells(page).open == []
    assert "NS[adv]" in page
