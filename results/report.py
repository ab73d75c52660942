"""A run store as one HTML page that opens from disk: verdicts, tables, plots, claims in words, behind each figure its runs.

Runs that cannot stand in one table go into sections of their own: one for each protocol, with its changes, and split. What
a section's runs do not allow stands there with the reason. The page loads nothing: plots are SVG within it. It can be given
away: of a place on this machine it says the last name alone.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import nsbench
from nsbench.errors import Misuse
from nsbench.results import plots, store
from nsbench.results.plots import drawing
from nsbench.results.store import Run, Store
from nsbench.results.store.run import flat
from nsbench.results.store.scores import PARTS
from nsbench.results.tables import ablation, papers
from nsbench.results.tables.build import FIRST_RUN, comparison
from nsbench.results.tables.captions import SURELY, count
from nsbench.results.tables.cells import Cell, Table
from nsbench.results.tables.contrasts import BASELINE
from nsbench.results.tables.fields import p_text
from nsbench.results.tables.grid import Grid
from nsbench.results.tables.layouts import LAYOUTS, Layout
from nsbench.results.tables.metrics import METRICS
from nsbench.results.tables.rows import about_row
from nsbench.results.writers import html

COUNTED = {"sampler": "sampler", "kge": "model", "dataset": "dataset", "protocol": "protocol"}
# Absolute paths, but for their last name.
PLACES = re.compile(r"(?<![\w.:</])/(?:<wbr/>)?(?:(?:[\w.@+~-]|<wbr/>)+/(?:<wbr/>)?)+(?=\w)")
WORDS = {  # of a verdict
    "better": "{a} is better than {b}",
    "worse": "{a} is worse than {b}",
    "practically equal": "{a} and {b} are practically equal",
    "inconclusive": "{a} is neither shown to differ from {b} nor to equal it",
}

STYLE = """
h1 { font-size: 1.6rem; }
h2 { font-size: 1.35rem; margin-top: 3rem; border-bottom: 2px solid; }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h1, h2, h3, p, li, summary { overflow-wrap: anywhere; }
p, li { max-width: 60rem; }
nav a, p a, li a { color: inherit; text-underline-offset: .15em; }
nav ul { padding-left: 1rem; margin: .2rem 0; }
nav li li { display: inline-block; margin-right: 1.2rem; }
nav > ul { list-style: none; padding: 0; }
code { font-size: .85em; overflow-wrap: anywhere; }
code span { white-space: nowrap; }
.plots { columns: 24rem; column-gap: 2rem; }
.plots figure { margin: 0 0 2rem; break-inside: avoid; }
.plots svg { display: block; width: 100%; max-width: 30rem; height: auto; background: #fff; }
.plots figcaption { font-size: .8rem; color: var(--faint); overflow-wrap: break-word; margin-top: .4rem; }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; scroll-margin-top: .5rem; }
details:target > summary { background: var(--touch); }
summary { cursor: pointer; }
details figure.table { margin: .5rem 0; }
pre { font: .75rem/1.5 ui-monospace, monospace; columns: 18rem; margin: .5rem 0 1rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
@media screen and (prefers-color-scheme: dark) { .plots svg { filter: invert(.9) hue-rotate(180deg); } }
@media print { figure, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; } .plots { columns: 2; } }
"""

SCRIPT = """
const reveal = () => {
  const behind = document.getElementById(location.hash.slice(1));
  if (behind?.tagName === "DETAILS") { behind.open = true; behind.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
addEventListener("click", event => event.target.closest(`a[href="${location.hash}"]`) && reveal());  // the same one again
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => each.open = true));
reveal();
"""


class Part(NamedTuple):
    """A heading, which the contents list, with what stands below it."""

    id: str
    title: str
    body: str
    inner: tuple[Part, ...] = ()


def report(
    runs: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
    *,
    baseline: str = BASELINE,
    default: plots.Default | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The page of the runs in a store that pass the filters.

    `baseline` is what rows are tested against, `default` gives options that runs do not record (results.plots), and
    `progress` hears how many of how many pieces are made. Misuse if no complete run passes the filters.
    """
    found, where = store.read(runs), dict(where or {})
    folder, skipped = found.folder, found.skipped
    if not found.runs:
        raise Misuse(f"no complete run in {folder}; start with `{FIRST_RUN}`, or name another store with --runs")
    chosen = store.select(found.runs, where)
    if not chosen:
        raise Misuse(f"no run passes the filters {where}; ask for at least one value of each")
    apart = sorted(_sections(chosen), key=lambda only: -len(store.select(chosen, only)))
    total = len(apart) * (sum(bool(layout.section) for layout in LAYOUTS.values()) + len(_plotted(apart=False)))
    parts = []
    for i, only in enumerate(apart):
        section = _Section(f"s{i + 1}", found, where | only, baseline)
        parts.append(section.part(progress, i * total // len(apart), total))
    parts += [*_plots_apart(found, where, default), *_left_out(skipped), _papers()]
    counts = ", ".join(count(len({run[name] for run in chosen}), word) for name, word in COUNTED.items())
    lead = f"{count(len(chosen), 'run')} in {_shared(folder)}: {counts}. A figure leads to the runs behind it."
    return PLACES.sub("", _page(lead, parts))


def _shared(folder: Path) -> str:
    """What the page calls a store: as it was given, but for where that is on this machine."""
    return folder.name if folder.is_absolute() else str(folder)


def _sections(runs: Sequence[Run]) -> list[dict[str, list[str]]]:
    """Filters that part the runs as tables need it; empty ones where all may stand together."""
    changes = sorted({f"changed.{name}" for run in runs for name in run.config.get("changed", {})})
    found: list[dict[str, list[str]]] = [{}]
    for name in ("protocol", "protocol_version", *changes, "split"):
        parted: list[dict[str, list[str]]] = []
        for only in found:
            part = store.select(runs, only)
            given = [run[name] if name in store.SETTINGS else store.config_value(run.config, name) for run in part]
            values = {store.comparable(name, value) for value in given}
            mixed = len(values) > 1 and (name != "split" or _splits(part) > 1)
            parted += [{**only, name: [value]} for value in sorted(values)] if mixed else [only]
        found = parted
    return found


def _splits(runs: Sequence[Run]) -> int:
    """How many splits of one dataset stand side by side, at most."""
    return max(Counter(dataset for dataset, _ in {(run["dataset"], run["split"]) for run in runs}).values())


class _Section:
    """Runs that share protocol and split: their tables, tests in words, plots, and for each cell a box of its runs."""

    def __init__(self, name: str, found: Store, where: Mapping[str, Any], baseline: str) -> None:
        self.name, self.store, self.where, self.baseline = name, found, where, baseline
        self.records = store.select(found.runs, where)
        self.refused: dict[str, list[str]] = {}  # reason -> what it keeps from being shown
        self.grid: Grid | None = self.attempt("runs", lambda: Grid(self.records))
        cells = _ordered(self.grid) if self.grid else []
        self.boxes = {_factors(about): f"{name}-r{i}" for i, (about, _) in enumerate(cells)}
        self.provenance = [_box(self.boxes[_factors(about)], about, cell) for about, cell in cells]

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` returns; None where it refuses, for a reason that the page will give."""
        try:
            return make()
        except Misuse as reason:
            self.refused.setdefault(str(reason).removeprefix(f"{what}: "), []).append(what)
            return None

    def part(self, progress: Callable[[int, int], None], before: int, total: int) -> Part:
        """The whole section, of whose page `before` of `total` pieces are made."""
        config = self.records[0].config
        changed = "".join(f", {name}={value}" for name, value in flat(config.get("changed", {})).items())
        split = f", {config['split']} split" if "split" in self.where else ""
        title = f"Protocol {self.records[0]['protocol']}, version {config['protocol']['version']}{changed}{split}"
        data = sorted({f"{run['dataset']} ({run['split']} split)" for run in self.records})
        lead = escape(f"{count(len(self.records), 'run')} on {', '.join(data)}.")
        made = iter(range(before + 1, total + 1))
        kinds = plots.kinds()
        first, others = ([kind for kind in _plotted(apart=False) if kinds[kind].first is above] for above in (True, False))
        inner = self.plots("At a glance", f"{self.name}-glance", first, lambda: progress(next(made), total))
        tables: list[Part] = []
        for layout in filter(lambda layout: layout.section, LAYOUTS.values()):
            for baseline in self.ablated() if layout.one_sampler else [self.baseline]:
                tables += self.table(layout, baseline, f"{self.name}-t{len(tables)}")
            progress(next(made), total)
        inner += tables + self.plots("Plots", f"{self.name}-plots", others, lambda: progress(next(made), total))
        if self.refused:
            reasons = (f"{', '.join(what)}: {reason}" for reason, what in self.refused.items())
            inner.append(Part(f"{self.name}-refused", "Not shown", _list(map(escape, reasons))))
        if self.provenance:
            inner.append(Part(f"{self.name}-runs", "Runs", "".join(self.provenance)))
        return Part(self.name, title, f"<p>{lead}</p>\n", tuple(inner))

    def plots(self, title: str, name: str, kinds: Sequence[str], progress: Callable[[], None]) -> list[Part]:
        """Those of these kinds that the runs allow, or none."""
        figures: list[str] = []
        shown = []
        for kind in kinds:
            make = partial(plots.plots, self.store, [kind], where=self.where, baseline=self.baseline)
            if made := self.attempt(kind, make):
                figures += [_figure(plot, f"{name}{len(figures) + n}") for n, plot in enumerate(made[0])]
                shown.append(kind)
            progress()
        again = _code(self.command("plot", "--kind", ",".join(shown), *_against(self.baseline)))
        return [Part(name, title, _plots(figures) + again)] if figures else []

    def table(self, layout: Layout, baseline: str, name: str) -> list[Part]:
        """One, or none where it is refused."""
        printed = layout.published() if layout.beside and layout.published else ()
        beside = any(figure.sampler == baseline for figure in printed) if layout.one_sampler else bool(printed)
        make = partial(comparison, self.store, layout=layout.name, baseline=baseline, published=beside, where=self.where)
        made = self.attempt(layout.name, make)
        if made is None:
            return []
        title = f"{layout.section} of {baseline}" if layout.one_sampler else layout.section
        words = _in_words(made, self.address) if layout.maker == "claims" else ""
        options = [*_against(baseline), *(["--published"] if beside else [])]
        again = _code(self.command("table", "--layout", layout.name, *options))
        return [Part(name, title, words + html.fragment(made, self.address) + again)]

    def ablated(self) -> list[str]:
        """Samplers that have rows of several variants or options with one model."""
        grid = self.grid
        if grid is None:
            return []
        rows = dict.fromkeys((group, dict(row)["sampler"], ablation.own_part(row)) for group, row, _ in grid.cells)
        kinds = Counter((group, sampler) for group, sampler, _ in rows)
        return sorted({sampler for (_, sampler), n in kinds.items() if n > 1})

    def address(self, cell: Cell) -> str:
        box = self.boxes.get(_factors(cell.record))
        return _paper(cell) or (f"#{box}" if box and cell.value != "-" else "")

    def command(self, name: str, *options: str) -> str:
        """What makes a part of this section again."""
        filters = (f"{key}={value if isinstance(value, str) else ','.join(value)}" for key, value in self.where.items())
        words = ["nsbench", name, "--runs", _shared(self.store.folder), *options]
        return shlex.join([*words, *(word for text in filters for word in ("--where", text))])


def _against(baseline: str) -> list[str]:
    return ["--baseline", baseline] if baseline != BASELINE else []


# Where figures come from


def _paper(cell: Cell) -> str:
    return "#papers" if cell.record.get("status") == "published" else ""


def _ordered(grid: Grid) -> list[tuple[dict[str, Any], list[Run]]]:
    """Each cell's runs with what its record says of them, in the order of tables."""
    rows = [(group, identity) for group in grid.groups for identity in grid.identities(group)]
    keys = [(group, identity, dataset) for group, identity in rows for dataset in grid.datasets]
    return [(about_row(grid, *key[:2]) | {"dataset": key[2]}, grid.cells[key]) for key in keys if key in grid.cells]


def _factors(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the cells of a grid apart: labels do not, for they depend on the other rows of a table."""
    names = ("model", "sampler", "variant", "fusion", "features", "options", "dataset")
    return tuple(record.get(name) for name in names)


def _box(name: str, about: Mapping[str, Any], cell: Sequence[Run]) -> str:
    """The runs of a cell: figures and folder of each, and what they were made with."""
    made: dict[str, list[Run]] = {}  # settings -> the runs that were made with them
    for run in cell:
        config = {key: value for key, value in run.config.items() if key not in ("seed", "id")}
        settings = flat({**config, "code": run["code"] or "unknown", "env": run.record["env"]})
        made.setdefault("\n".join(f"{key} = {value}" for key, value in settings.items()), []).append(run)
    summary = f"{about['row']}, {about['model']} on {about['dataset']}: {count(len(cell), 'run')}"
    boxed = "".join(_runs(runs) + f"<pre>{escape(settings)}</pre>\n" for settings, runs in made.items())
    lost = (f"The generator of seed {run['seed']} is dead: {'; '.join(run.dead)}." for run in cell if run.dead)
    boxed += "".join(f"<p>{escape(sentence)}</p>\n" for sentence in lost)
    return f'<details id="{name}"><summary>{escape(summary)}</summary>\n{boxed}</details>\n'


def _runs(runs: Sequence[Run]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in ("seed", *RUN, "run"))
    rows = []
    for run in runs:
        cells = "".join(f"<td>{escape(text(run))}</td>" for text in RUN.values())
        rows.append(f'<tr><th scope="row">{run["seed"]}</th>{cells}<td>{escape(run.name)}</td></tr>')
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    return f'<figure class="table"><div>{table}</div></figure>\n'


def _scaled(name: str, column: str) -> Callable[[Run], str]:
    return lambda run: METRICS[name].text(run[column])


RUN: dict[str, Callable[[Run], str]] = {  # columns of a run's line
    **{METRICS[name].header: _scaled(name, name) for name in store.METRICS},
    "valid MRR": _scaled("mrr", "valid_mrr"),
    "step chosen": lambda run: f"{run['selected_at']} of {run['steps']}" + ("" if run["converged"] else " †"),
    "training s": _scaled("train_seconds", "train_seconds"),
    "total s": _scaled("seconds", "seconds"),
}


# Claims in words


def _in_words(claims: Table, address: Callable[[Cell], str]) -> str:
    """A sentence for each test, the decided ones first, and one for all that could not be tested."""
    said: dict[str, list[str]] = {verdict: [] for verdict in WORDS}
    untested: dict[str, list[str]] = {}
    for row in claims.rows:
        record = row.cells[0].record
        behind, name = address(row.cells[0]), escape(record["row"])
        link = f'<a href="{behind}">{name}</a>' if behind else name
        if record["verdict"] in said:
            said[record["verdict"]].append(_sentence(record, link))
        else:
            untested.setdefault(f"{record['model']} on {record['dataset']}", []).append(link)
    counts = ", ".join(f"{len(sentences)} {verdict}" for verdict, sentences in said.items())
    lines = [sentence for sentences in said.values() for sentence in sentences]
    summary = f"<p>{len(lines)} tested: {counts}.</p>\n" if lines else ""
    if untested:
        cells = "; ".join(f"{escape(cell)}: {', '.join(links)}" for cell, links in untested.items())
        lines.append(f"Not testable: {cells}.")
    return summary + _list(lines)


def _sentence(record: Mapping[str, Any], link: str) -> str:
    def text(name: str) -> str:
        return METRICS["mrr"].text(record[name], sign=True)

    said = WORDS[record["verdict"]].format(a=link, b=escape(record["baseline"]))
    said += f" with {escape(record['model'])} on {escape(record['dataset'])}"
    said += "" if record["converged"] else ", at this budget"
    said += f": {text('difference')} MRR x100, 95 % interval {text('difference_low')} to {text('difference_high')}, "
    p = escape(f"p {p_text(record['p_holm'])}".replace(" ", "\u00a0"))  # in one line
    said += f"{p} after Holm over {record['family']}; with {SURELY} the test would have seen "
    said += f"{METRICS['mrr'].text(record['detectable'])}."
    for name, part in PARTS.items():
        again = record.get(f"{name}_verdict", record["verdict"])
        said += (
            ""
            if again == record["verdict"]
            else f" On the test triples {part.words}: {again} ({text(f'{name}_difference')})."
        )
    said += " Its generator is dead (see the notes below the table)." if record.get("dead") else ""
    return said


# Plots


def _plotted(apart: bool) -> list[str]:
    """Kinds of plots that stand in each section, or apart from them."""
    return [name for name, kind in plots.kinds().items() if kind.apart == apart]


def _plots(figures: Sequence[str]) -> str:
    return f'<div class="plots">\n{"".join(figures)}</div>\n'


def _figure(plot: plots.Plot, name: str) -> str:
    svg = _svg(drawing.save(plot.draw(drawing.ONE_COLUMN), "svg").decode(), name)
    return f'<figure id="{name}">{svg}<figcaption>{escape(plot.caption)}</figcaption></figure>\n'


def _svg(text: str, name: str) -> str:
    """To stand within a page: no head, the ids that are referred to made its own, and paths to a hundredth of a point."""
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<0>{name}-", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


# The page


def _plots_apart(found: Store, where: Mapping[str, Any], default: plots.Default | None) -> Iterator[Part]:
    """Over all sections, for these are of runs between which a protocol's number may differ."""
    for name in _plotted(apart=True):
        with suppress(Misuse):
            made, _ = plots.plots(found, [name], where=where, default=default)
            yield Part(name, name.capitalize(), _plots([_figure(plot, f"{name}-p{i}") for i, plot in enumerate(made)]))


def _left_out(skipped: Mapping[str, str]) -> list[Part]:
    folders = (f"{escape(name)}: {escape(reason)}" for name, reason in skipped.items())
    return [Part("left-out", "Folders left out", _list(folders))] if skipped else []


def _papers() -> Part:
    titles = _list(escape(f"{paper}: {title}") for paper, title in papers.PAPERS.items())
    return Part("papers", "Sources of published figures", titles)


def _page(lead: str, parts: Sequence[Part]) -> str:
    written = f"Written on {date.today().isoformat()} by nsbench {nsbench.__version__}."
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>nsbench report</title>\n<style>{html.STYLE}{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>nsbench report</h1>\n<p>{escape(lead)} {written}</p>\n<nav aria-label="Contents">{_contents(parts)}</nav>\n'
        f"<main>\n{''.join(_written(part, 2) for part in parts)}</main>\n"
        f"<script>{html.SCRIPT}{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _contents(parts: Sequence[Part]) -> str:
    inner = {part.id: _contents(part.inner) if part.inner else "" for part in parts}
    return _list(f'<a href="#{part.id}">{escape(part.title)}</a>{inner[part.id]}' for part in parts)


def _written(part: Part, level: int) -> str:
    inner = "".join(_written(each, level + 1) for each in part.inner)
    heading = f"<h{level}>{escape(part.title)}</h{level}>"
    return f'<section id="{part.id}">\n{heading}\n{part.body}\n{inner}</section>\n'


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f"<ul>\n{lines}</ul>\n"


def _code(command: str) -> str:
    words = re.sub(r"--[\w-]+", r"<span>\g<0></span>", escape(command))  # a line may end before an option, not within
    return f"<p><code>{words}</code></p>\n"
