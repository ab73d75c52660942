"""LaTeX of every layout: escaped, well formed, and set by a real engine within the page where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nsbench.results.store import read
from nsbench.results.tables.build import comparison
from nsbench.results.tables.cells import Caption, Cell, Column, Row, Table
from nsbench.results.tables.layouts import LAYOUTS
from nsbench.results.tables.metrics import Metric
from nsbench.results.writers.latex import ROWS, escape_latex, latex

NASTY = "a_b & 50% {x} \\y ~ ^ #1 $ [adv] p|q <i>"
ENGINES = ("pdflatex", "lualatex", "xelatex", "tectonic")
RUNS = Path(__file__).parents[3] / "results" / "runs"
NOTHING = {"ablation", "diagnostics"}
OVERFULL = 1.0  # points by which a box may be too wide: a third of a millimetre, which no reader sees
METRIC = Metric("x", "X", True, 1, 3, "")


def table(rows=3, columns=20, published=0, label=NASTY):
    """`columns` in datasets of five; below each row as many rows of published figures as wanted."""
    cells = tuple(Cell("0.350", "± 0.001", record={"status": "ok"}) for _ in range(columns))
    heads = tuple(Column(f"data{i // 5}", METRIC) for i in range(columns))
    made = [Row(f"model{i // 7}", label, cells) for i in range(rows)]
    cited = [Row(row.group, "published: paper", cells, published=True) for row in made]
    below = [each for i, row in enumerate(made) for each in (row, *[cited[i]] * published)]
    return Table("T", heads, tuple(below), Caption("Caption.", "Made so."), ("Note [x].",))


def every_layout(run, store):
    """Tables of all layouts from five seeds, an ablated sampler, diagnostics and a name that LaTeX trips over."""
    measured = {"step": 0, "hardness": 0.5, "entropy": 0.9}
    result = {"diagnostics": {"sampler": {}, "start": measured, "end": measured}}
    for kge in ("transe", "rotate"):
        for dataset in ("mkg_y", "mkg_w", "db15k"):
            run("uniform", kge, dataset, seeds=range(5), result=result)
            run("dhns", kge, dataset, seeds=range(5), quality=2.5, result=result)
            run("dhns", kge, dataset, seeds=range(5), quality=2.0, options={"sampler": {"hard": False}}, result=result)
    run(NASTY, "transe", seed=0, options={"sampler": {"k_n": 40}})
    shown = {"dhns4": {"published": True}, "mmrns2": {"published": True}, "ablation": {"baseline": "dhns"}}
    return {layout: comparison(store, layout=layout, **shown.get(layout, {})) for layout in LAYOUTS}


def set_in(folder, engine, texts):
    """The engine's log of a document of two columns with these tables."""
    head = "\\documentclass[twocolumn]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\begin{document}\n"
    body = "\n\\clearpage\n".join(texts)
    (folder / "tables.tex").write_text(f"{head}{body}\n\\end{{document}}\n", encoding="utf-8")
    options = ["--keep-logs"] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    said = subprocess.run([engine, *options, "tables.tex"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stdout[-3000:]
    return (folder / "tables.log").read_text(encoding="utf-8", errors="replace")


def complaints(log):
    """Errors, boxes that are too wide by more than the tolerance, floats that leave the page, signs that are missing."""
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    found = [f"{points} pt too wide" for points in wide if points > OVERFULL]
    return found + re.findall(r"^! .*|.*Float too large.*|Missing character.*|Overfull \\vbox.*", log, re.MULTILINE)


engine = next((name for name in ENGINES if shutil.which(name)), "")
needs_engine = pytest.mark.skipif(not engine, reason="no LaTeX engine in PATH (Debian: texlive-latex-recommended)")


@needs_engine
def test_every_layout_is_set_within_the_page(run, store, tmp_path):
    made = [*every_layout(run, store).values(), table(), table(150, 2, label="a"), table(40, 5, 3, "a")]
    assert complaints(set_in(tmp_path, engine, map(latex, made))) == []
    assert (tmp_path / "tables.pdf").stat().st_size > 1000


SHIPPED = [  # filters as in README.md, layouts with nothing to show, the ablation's full method
    ("classic", {}, {"ablation"}, ""),
    ("variants", {}, set(), "sans"),
    ("pairs", {}, {"ablation"}, ""),
    ("baselines", {"protocol": "nsbench", "dataset": "mkg_y"}, NOTHING, ""),
    ("baselines", {"protocol": "nsbench", "split@db15k": "clean"}, NOTHING, ""),
    ("one_factor", {"changed.regularizer": "0.0"}, NOTHING, ""),
]


@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize(("store", "where", "nothing", "full"), SHIPPED)
def test_tables_of_the_shipped_runs_are_set_within_the_page(store, where, nothing, full, tmp_path):
    """With the papers' figures and without, in every layout."""
    if not (RUNS / f"{store}.nsb").is_file():
        pytest.skip("the shipped runs are not here")
    runs = read(RUNS / f"{store}.nsb")
    texts = []
    for layout in LAYOUTS.keys() - nothing:
        baseline = full if layout == "ablation" else "uniform"
        for published in (False, True) if LAYOUTS[layout].published else (False,):
            table = comparison(runs, layout=layout, baseline=baseline, published=published, where=where)
            texts.append(latex(table))
    assert complaints(set_in(tmp_path, engine, texts)) == []


@needs_engine
def test_what_does_not_fit_is_noticed(tmp_path):
    """The check itself: the same row unbroken is too wide, and the same rows in one float too high."""
    wide = " & ".join(["0.350 $\\pm$ 0.001"] * 20)
    high = " \\\\\n".join(["0"] * (3 * ROWS))
    texts = [
        f"\\begin{{table*}}\\begin{{tabular}}{{{'r' * 20}}}{wide}\\end{{tabular}}\\end{{table*}}",
        f"\\begin{{table*}}\\begin{{tabular}}{{r}}{high}\\end{{tabular}}\\end{{table*}}",
    ]
    for text in texts:
        assert complaints(set_in(tmp_path, engine, [text]))


# What needs no engine


def unescaped(text):
    """What is left of escaped text when every allowed escape is taken out."""
    return re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]|\$[<>]\$", "", text)


@pytest.mark.fact(48)
def test_every_special_character_is_escaped_once():
    """No special character is left, and escaping twice is not escaping once."""
    assert not set(unescaped(escape_latex(NASTY))) & set("\\&%$#_{}~^")
    assert escape_latex("\\&") == "\\textbackslash{}\\&"
    assert escape_latex(escape_latex("a_b")) == "a\\textbackslash{}\\_b" != escape_latex("a_b")
    assert escape_latex("100 ± 2, n < 5") == "100 $\\pm$ 2, n $<$ 5"
    assert escape_latex(NASTY) in latex(table())  # once, on its way through the writer


ALLOWED = re.compile(
    "begin|end|centering|caption|toprule|midrule|bottomrule|cmidrule|multicolumn|textbf|underline|pm|"
    "uparrow|downarrow|dagger|ddagger|bigtriangleup|bigtriangledown|hookrightarrow|par|textbackslash|"
    "textasciitilde|textasciicircum|approx|Delta|delta|scriptsize|setlength|tabcolsep|smallskip|medskip|"
    "textwidth|addtocounter|raggedright|emph|S"
)


def assert_structure(text):
    """Balanced braces, environments and math; rows of equal width that end; known macros only."""
    bare = re.sub(r"\\[{}]", "", text)
    depth = np.cumsum([{"{": 1, "}": -1}.get(c, 0) for c in bare])
    assert depth[-1] == 0
    assert depth.min() >= 0
    assert text.replace("\\$", "").count("$") % 2 == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    for columns, body in re.findall(r"\\begin\{tabular\}\{([^\n]+)\}\n\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL):
        columns = re.sub(r"p\{[^}]*\}", "p", columns)
        lines = [line for line in body.splitlines() if not line.startswith(("\\midrule", "\\cmidrule"))]
        assert len(lines) > 1
        for line in lines:
            assert line.endswith(" \\\\")
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(columns)
    assert all(ALLOWED.fullmatch(macro) for macro in re.findall(r"\\([a-zA-Z]+)", text))
    assert all(ord(character) < 256 for character in text)  # what a font without mathematics has


def test_structure(run, store):
    for made in [*every_layout(run, store).values(), table(), table(150, 2), table(40, 5, 3)]:
        assert_structure(latex(made))


def cells(text):
    """Of each line of figures: (label, how many figures)."""
    lines = [line for line in text.splitlines() if line.endswith("\\\\") and "0.350" in line]
    split = [re.split(r"(?<!\\)&", line) for line in lines]
    return [(line[0].strip(), len(line) - 1) for line in split]


def test_breaking_loses_nothing():
    """Every figure of every row once; published rows below their own; a model's name where its rows begin again."""
    for made in (table(), table(150, 2, label="a"), table(40, 5, 3, "a")):
        found = cells(latex(made))
        assert sum(n for _, n in found) == len(made.rows) * len(made.columns)
    broken = latex(table(40, 5, 3, "a"))
    tabulars = re.findall(r"\\toprule\n(.*?)\n\\bottomrule", broken, re.DOTALL)
    assert len(tabulars) > 1
    for tabular in tabulars:
        assert "\\emph{model" in tabular.split("\\midrule")[1]
        assert "hookrightarrow" not in cells(tabular)[0][0]
    assert broken.count("\\begin{table*}") == broken.count("\\addtocounter") + 1
    assert broken.count("Caption.") == broken.count("Note [x].") == 1


def test_minus_signs(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=0.1)
    text = latex(comparison(store, layout="claims")).split("\\midrule")[1].split("\\bottomrule")[0]
    assert "$-$" in text
    assert not re.search(r"(?<!\$)-\d", text)
