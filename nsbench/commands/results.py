"""Commands that read runs: table, compare, plot, report, runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from nsbench.commands.options import FILE, FOLDER, PATH, Commands, read_option, runs_option, where_option, words
from nsbench.errors import Busy, Misuse, RunFailed
from nsbench.files import store_folder, write_text


class Listing(click.Command):
    """Its help ends with entries, each with its own `help`, from where they are declared."""

    def __init__(self, *given: Any, title: str, entries: Callable[[], Mapping[str, Any]], **attributes: Any) -> None:
        super().__init__(*given, **attributes)
        self.title, self.entries = title, entries

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(self.title):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries().items()])


@click.command(cls=Listing, title="Layouts", entries=lambda: import_module("nsbench.results.tables.layouts").LAYOUTS)
@read_option
@click.option(
    "--baseline",
    default="uniform",
    show_default=True,
    help="The sampler, or row, that others are tested against; for an ablation the full method.",
)
@click.option("--published", is_flag=True, help="Set the papers' figures beside ours.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["rich", "md", "latex", "csv", "html"]),
    default="rich",
    show_default=True,
    help="rich is for the terminal.",
)
@where_option
@click.option("--layout", default="dhns4", show_default=True, help="What the columns are: one of those below.")
@click.option("-o", "--output", type=FILE, help="Write to a file; Markdown by default.")
def table(runs: Path | None, fmt: str, output: Path | None, **how: Any) -> None:
    """Compare the samplers of a run store: means over seeds, and from five seeds on a test against the baseline.

    \b
    nsbench table --where dataset=mkg_y
    nsbench table --published              the papers' figures beside ours, or alone
    nsbench table --layout ablation --baseline dhns --format latex
    """
    from nsbench.commands.display import counting
    from nsbench.results import tables, writers

    with counting("testing", "contrasts") as progress:
        made = tables.comparison(runs, **how, progress=progress)
    if output is not None:
        write_text(output, writers.write(made, "md" if fmt == "rich" else fmt))
    elif fmt == "rich":
        writers.show(made)
    else:
        click.echo(writers.write(made, fmt), nl=False)


@click.command()
@click.argument("first", metavar="RUNS_A")
@click.argument("second", metavar="RUNS_B")
@where_option
@read_option
def compare(first: str, second: str, where: dict[str, str], runs: Path | None) -> None:
    """Compare two groups of runs in one paragraph: what differs, by how much, how surely, and what may not be said.

    \b
    nsbench compare sampler=bernoulli sampler=uniform --where dataset=mkg_y
    nsbench compare sampler=dhns,kge=transe sampler=uniform,kge=transe
    nsbench compare mine/runs theirs/runs --where sampler=uniform

    A group is given by filters, by a run's name, or by a store.
    """
    from nsbench.results import compare as comparing

    click.echo(comparing.compare(first, second, runs, where))


@click.command(cls=Listing, title="Kinds", entries=lambda: import_module("nsbench.results.plots").kinds())
@read_option
@click.option("--kind", "kinds", help="Comma-separated: some of those below.  [default: what the runs allow]")
@where_option
@click.option("--posthoc", type=click.Choice(["wilcoxon", "nemenyi"]), default="wilcoxon", show_default=True, help="For cd.")
@click.option("--baseline", default="uniform", show_default=True, help="The sampler, or row, that others are tested with.")
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    default="plots",
    show_default=True,
    help="Their folder.",
)
def plot(runs: Path | None, kinds: str | None, output: Path, **how: Any) -> None:
    """Draw the runs of a store as pdf, svg and png, each with its data and caption (needs the extra `plots`).

    \b
    nsbench plot --where dataset=mkg_y
    nsbench plot --runs results/runs/classic.nsb           the runs that ship
    nsbench plot --kind forest,cost -o figures
    """
    from nsbench.results import plots

    made, refused = plots.plots(runs, words(kinds) if kinds is not None else (), **how, default=default_of)
    for each in made:
        files = plots.write(each, output)
        click.echo(f"{output / each.name}: {len(files)} files")
    for reason in dict.fromkeys(refused.values()):
        click.echo(f"no {', '.join(kind for kind in refused if refused[kind] == reason)}: {reason}", err=True)


@click.command()
@read_option
@where_option
@click.option("--baseline", default="uniform", show_default=True, help="The sampler, or row, that others are tested with.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    default="report.html",
    show_default=True,
    help="The page.",
)
def report(runs: Path | None, where: dict[str, str], baseline: str, output: Path) -> None:
    """Write a run store as one HTML page: pictures, tables, tests in words, and behind each figure its runs.

    \b
    nsbench report
    nsbench report --where dataset=mkg_y -o mkg_y.html
    """
    from nsbench.commands.display import counting
    from nsbench.results import report as reporting

    with counting("report", "tables and kinds of plots") as progress:
        page = reporting.report(runs, where, baseline=baseline, default=default_of, progress=progress)
    write_text(output, page)
    click.echo(f"{output}: {len(page.encode()) / 1e6:.1f} MB; open it in a browser")


def default_of(run: Any, option: str) -> Any:
    """The default of options.sampler.NAME, which a run does not record; None if the sampler is not at hand."""
    import dataclasses

    from nsbench.registry import SAMPLERS

    if not option.startswith("options.sampler."):
        return None
    try:
        fields = dataclasses.fields(SAMPLERS.get(run["sampler"]).Options)
    except Misuse:
        return None
    return next((field.default for field in fields if field.name == option.rpartition(".")[2]), None)


@click.group("runs", cls=Commands)
def runs_() -> None:
    """List, delete, export and carry the runs of a run store.

    \b
    nsbench runs list
    nsbench runs pack mine.nsb             here
    nsbench runs merge mine.nsb            on the other machine
    """


@runs_.command("list")
@where_option
@read_option
def runs_list(where: dict[str, str], runs: Path | None) -> None:
    """List the runs of the store, MRR x100; without --where also what is unfinished or damaged, and why.

    \b
    nsbench runs list
    nsbench runs list --where sampler=nscaching,uniform --where dataset=mkg_y
    nsbench runs list --runs results/runs/classic.nsb
    """
    from nsbench.results import store
    from nsbench.results.store import inventory

    found = store.read(runs)
    skipped = found.skipped if not where else {}
    shown = store.select(found.runs, where)
    click.echo(inventory.listing(shown, found.folder, skipped) or f"no run in {found.folder}; start with nsbench run")


@runs_.command("rm")
@click.argument("names", nargs=-1, metavar="[FOLDER]...")
@where_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
def runs_rm(names: tuple[str, ...], where: dict[str, str], yes: bool, runs: Path | None) -> None:
    """Delete runs: these FOLDERs of the store, or all complete runs that pass --where; given both, those that are both.

    \b
    nsbench runs rm uniform-transe-mkg_y-s0-3b0ee4dd
    nsbench runs rm --where protocol=quick
    """
    from nsbench.commands import removal
    from nsbench.results.store import inventory

    paths = removal.chosen(store_folder(runs), names, where)
    for path in paths:
        click.echo(f"{inventory.megabytes(inventory.size(path)):>12}  {path}")
    try:
        wanted = bool(paths) and (yes or click.confirm(f"delete these {len(paths)} runs?"))
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise Misuse("nothing was deleted, since there is no terminal to ask on; add --yes") from None
    if not wanted:
        click.echo("nothing was deleted")
        return
    kept = []
    for path in paths:
        try:
            removal.remove(path)
        except Busy:
            kept.append(path.name)
    click.echo(f"deleted {len(paths) - len(kept)} of {len(paths)} runs")
    if kept:
        raise RunFailed(f"other processes are working on {', '.join(kept)}; stop those first")


@runs_.command("export")
@click.argument("file", type=FILE)
@where_option
@read_option
def runs_export(file: Path, where: dict[str, str], runs: Path | None) -> None:
    """Write FILE.csv: a line per complete run with all of its figures, unrounded, and its configuration.

    \b
    nsbench runs export figures.csv
    nsbench runs export figures.csv --where protocol=cpu
    """
    from nsbench.results import store
    from nsbench.results.store import inventory

    found = store.read(runs)
    shown = store.select(found.runs, where)
    if not shown:
        raise Misuse(f"no complete run in {found.folder}; there is nothing to export")
    write_text(file, inventory.export(shown))
    left_out = len(found.skipped)
    click.echo(f"{len(shown)} runs in {file}" + (f"; {left_out} unfinished or damaged ones left out" if left_out else ""))


@runs_.command()
@click.argument("archive", type=FILE)
@read_option
def pack(archive: Path, runs: Path | None) -> None:
    """Write the complete runs of the store to one file, ARCHIVE (.nsb), which every --runs reads as it is.

    \b
    nsbench runs pack mine.nsb
    nsbench table --runs mine.nsb
    """
    from nsbench.results.store import archive as archives

    names = archives.pack(store_folder(runs), archive)
    merging = shlex.join(["nsbench", "runs", "merge", archive.name])
    click.echo(f"{len(names)} runs in {archive}; next, on the other machine: {merging}")


@runs_.command()
@click.argument("archives", nargs=-1, required=True, type=PATH)
@runs_option
def merge(archives: tuple[Path, ...], runs: Path | None) -> None:
    """Add the runs of packed stores, or of other stores' folders; what is there already stays as it is.

    \b
    nsbench runs merge results/runs/classic.nsb            the runs that ship
    nsbench runs merge mine.nsb other/runs --runs all
    """
    from nsbench.results.store import archive

    store = store_folder(runs)
    for one in archives:
        found = archive.merge(one, store)
        click.echo(f"{one}: {len(found.added)} runs added to {store}, {len(found.present)} were there already")
        for name, reason in found.refused.items():
            click.echo(f"  left out {name}: {reason}", err=True)
