"""The command line. Heavy imports wait until a command needs them: `nsbench --help` must answer at once."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nsbench
from nsbench.errors import Busy, Misuse, RunFailed
from nsbench.registry import suggest

if TYPE_CHECKING:
    from nsbench.campaign import Result
    from nsbench.config import Config

FIRST_STEPS = """nsbench compares negative samplers for knowledge-graph embedding. Three commands to try:

  nsbench demo                                      embedded data, ends in a comparison table
  nsbench run --sampler bernoulli --kge transe --dataset mkg_y
  nsbench list                                      samplers, models, datasets, protocols

nsbench --help shows the rest."""


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one."""

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            path = context.command_path
            raise Misuse(f"unknown command '{args[0]}'{suggest(args[0], self.commands)} ({path} --help)")
        return super().resolve_command(context, args)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsbench.__version__, prog_name="nsbench")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails; may stand anywhere.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Compare negative samplers for (multimodal) knowledge-graph embedding under one trainer, loss and budget."""
    if context.invoked_subcommand is None:
        click.echo(FIRST_STEPS)


def main() -> None:
    """Entry point: every refusal is one sentence; exit code 2 for misuse, 1 for a failed run, 130 for Ctrl-C."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            sys.exit(cli.main(arguments, prog_name="nsbench", standalone_mode=False) or 0)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        sentence, code = refusal(error)
        click.echo(f"Error: {' '.join(sentence.split())}", err=True)
        sys.exit(code)


def refusal(error: Exception) -> tuple[str, int]:
    """What is said of an exception, and the exit code."""
    if isinstance(error, Misuse):
        return str(error), 2
    if isinstance(error, RunFailed):
        return str(error), 1
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [name for option in error.ctx.command.params for name in option.opts]
        near = suggest(error.option_name, known)
        return f"unknown option {error.option_name}{near} ({error.ctx.command_path} --help)", 2
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "nsbench"
        return f"{error.format_message().rstrip('.')} ({where} --help)", 2
    if isinstance(error, click.ClickException):
        return error.format_message().rstrip("."), 2
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions", 1
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; use a smaller protocol.batch, protocol.width or protocol.negatives", 1
    return f"{type(error).__name__}: {error} (nsbench --debug ... shows where)", 1


runs_option = click.option("--runs", type=click.Path(path_type=Path), help="Run store.  [default: NSBENCH_RUNS or ./runs]")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="GROUP.NAME=VALUE",
    help="Change an option: sampler.x=1, kge.x=1, fusion.x=1, protocol.steps=100, aux.NAME=0.1. Repeatable.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")


@cli.command()
@click.option("--sampler", default="uniform", show_default=True, help="One or several, comma-separated; or ./mine.py:Class.")
@click.option("--kge", default="transe", show_default=True, help="One or several models, comma-separated.")
@click.option("--dataset", default="mkg_y", show_default=True, help="One or several; a folder of your own works too.")
@click.option("--protocol", default="nsbench", show_default=True, help="A protocol by name, or a TOML file.")
@click.option("--fusion", default="none", show_default=True, help="How features enter entity vectors.")
@click.option("--seed", type=click.IntRange(min=0), help="One seed.  [default: 0]")
@click.option("--seeds", help="How many (5 means 0 to 4), or which (0,3,7).")
@click.option("--split", type=click.Choice(["clean", "released"]),
              help="For DB15K: its released validation file is defective.")
@click.option("--features", type=click.Choice(["auto", "official", "names", "none"]), default="auto", show_default=True)
@set_option
@runs_option
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--save-model", is_flag=True, help="Keep model.safetensors beside the result.")
@click.option("--diagnostics/--no-diagnostics", "diagnose", default=True, show_default=True,
              help="Measure what the sampler draws at start, middle and end; changes no other figure.")
@click.option("--checkpoint-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the runs and whether they are done; run nothing.")
def run(sampler: str, kge: str, dataset: str, protocol: str, seed: int | None, seeds: str | None, runs: Path | None,
        device: str, threads: int | None, save_model: bool, diagnose: bool, checkpoint_every: float, only_plan: bool,
        **shared: Any) -> None:
    """Train and test, only what is missing.

    \b
    nsbench run --sampler uniform,bernoulli --kge transe,distmult --dataset mkg_y --seeds 5
    nsbench run --protocol quick --dataset planted:small
    nsbench run --dataset path/to/my/graph --set protocol.margin=6
    """
    from nsbench import campaign

    if threads is not None:
        set_threads(threads)
    if seed is not None and seeds is not None:
        raise Misuse("give --seed or --seeds, not both")
    chosen = parse_seeds(seeds) if seeds is not None else [seed or 0]
    configs = campaign.plan(
        words(sampler), words(kge), words(dataset), chosen, protocol=protocol,
        **{**shared, "settings": list(shared["settings"])},
    )
    store = campaign.store_folder(runs)
    if only_plan:
        show_plan(configs, store)
        return
    finished = carry_out(configs, store, device, save_model=save_model, diagnose=diagnose,
                         checkpoint_seconds=checkpoint_every)
    if len(finished) == 1:
        row = finished[0]
        shown = "  ".join(f"{name.upper()} {100 * row.test[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10"))
        click.echo(f"test  {shown}  MR {row.test['mr']:.0f}   ({row.folder})")
        if not row.record["converged"]:
            click.echo("not converged: the best validation lies in the last tenth of the steps")
    where = f" --runs {runs}" if runs else ""
    click.echo(f"next: nsbench table{where}")


@cli.command()
@click.argument("grid")
@runs_option
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--diagnostics/--no-diagnostics", "diagnose", default=True, show_default=True)
@click.option("--plan", "only_plan", is_flag=True, help="Print the runs and whether they are done; run nothing.")
def sweep(grid: str, runs: Path | None, device: str, threads: int | None, diagnose: bool, only_plan: bool) -> None:
    """Run what is missing of a grid: a TOML file, or one of the package by name (nsbench list).

    \b
    nsbench sweep classic --plan
    nsbench sweep mine.toml --threads 1        start it twice for two processes on one store

    \b
    protocol = "cpu"
    seeds = 5
    [[grid]]                                   as many as needed; every list is a factor
    sampler = ["uniform", "nscaching"]
    kge = ["transe"]
    dataset = ["mkg_y"]                        further: fusion, aux, seeds, set = ["protocol.steps=500"]
    """
    from nsbench import campaign
    from nsbench import sweep as grids

    if threads is not None:
        set_threads(threads)
    configs = grids.read(grid)
    store = campaign.store_folder(runs)
    if only_plan:
        show_plan(configs, store)
        return
    carry_out(configs, store, device, diagnose=diagnose)
    click.echo(f"next: nsbench table{f' --runs {runs}' if runs else ''}")


def show_plan(configs: list[Config], store: Path) -> None:
    """Which runs are done and which are missing."""
    from nsbench import campaign

    folders = [campaign.folder_of(config, store) for config in configs]
    for folder in folders:
        click.echo(f"{'done   ' if folder.complete else 'missing'}  {folder.path}")
    click.echo(f"{sum(folder.complete for folder in folders)} of {len(folders)} runs are done")


def carry_out(configs: list[Config], store: Path, device: str, **how: Any) -> list[Result]:
    """Run what is missing, with progress; Ctrl-C writes a checkpoint and says how to go on."""
    from nsbench import campaign
    from nsbench.display import Display, duration
    from nsbench.runner import Interrupted, pick_device

    target = pick_device(device)
    where = "cuda" if target.type == "cuda" else f"cpu (threads: {get_threads()})"
    missing = [not campaign.folder_of(config, store).complete for config in configs]  # every pair is checked first
    results: list[Result] = []
    failed: list[str] = []
    busy: list[str] = []
    told: set[str] = set()
    with Display(sum(missing)) as display, stop_signal() as stopping:
        for i, config in enumerate(configs):

            def hear(event: dict[str, Any], line: str = f"{described(config)}; on {where}") -> None:
                if event["stage"] == "set-up" and line not in told:
                    told.add(line)
                    display.say(line)
                display.hear(event)

            if missing[i]:
                display.begin(config.cell, sum(missing[i:]))
            try:
                if missing[i] and i and stopping():  # heard while the run before this one was writing its result
                    raise Interrupted(str(store))
                result = campaign.carry_out(config, store, device=device, notify=hear, stopping=stopping, **how)
            except Interrupted as stop:
                display.say(f"stopped; the same command goes on from {stop}")
                raise click.exceptions.Exit(130) from None
            except Busy:
                if len(configs) == 1:
                    raise
                busy.append(config.cell)
                display.end(f"{config.cell}: another process is working on it")
                continue
            except RunFailed as failure:
                if len(configs) == 1:
                    raise
                failed.append(config.cell)
                display.end(f"{config.cell}: failed: {failure}")
                continue
            results.append(result)
            if missing[i]:
                cost = duration(result.record["cost"]["seconds"])
                display.end(f"{config.cell}: test MRR {100 * result.test['mrr']:.2f} after {cost}")
        already = len(configs) - sum(missing)
        if len(configs) == 1 and already:
            display.say(f"already done, nothing to do: {results[0].folder}")
        elif already:
            display.say(f"{already} of {len(configs)} runs were already done")
        if busy:
            display.say(f"{len(busy)} runs are with other processes; repeat the command when those are done")
    if failed:
        raise RunFailed(f"{len(failed)} of {len(configs)} runs failed ({', '.join(failed)}); the others are done")
    return results


def described(config: Config) -> str:
    """Which data, features and protocol a run uses."""
    from nsbench.campaign import dataset_of

    dataset = dataset_of(config)
    features = f"{' and '.join(sorted(dataset.features))} features ({dataset.feature_source})"
    return (
        f"{dataset.name} ({dataset.split} split): {dataset.num_entities} entities, {dataset.num_relations} relations, "
        f"{len(dataset.train)}/{len(dataset.valid)}/{len(dataset.test)} triples; "
        f"{features if dataset.features else 'no features'}; protocol {config.protocol.name}"
    )


class stop_signal:
    """While active, the first Ctrl-C or SIGTERM sets a flag that the run reads between steps; the second stops at once."""

    def __enter__(self) -> Callable[[], bool]:
        self.flag = threading.Event()
        self.before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._heard)
        return self.flag.is_set

    def _heard(self, number: int, frame: Any) -> None:
        if self.flag.is_set():
            raise KeyboardInterrupt
        click.echo("stopping after this step, with a checkpoint (again: stop at once)", err=True)
        self.flag.set()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@cli.command()
@runs_option
@click.option("--baseline", default="uniform", show_default=True,
              help="The sampler, or row, that others are tested against; for an ablation the full method.")
@click.option("--published", is_flag=True, help="Set the papers' figures beside ours.")
@click.option("--format", "fmt", type=click.Choice(["rich", "md", "latex", "csv", "html"]), default="rich",
              show_default=True)
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only runs with this value: dataset=mkg_y. Repeatable.")
@click.option("--layout", type=click.Choice(["dhns4", "mmrns2", "ablation", "cost", "diagnostics", "claims"]),
              default="dhns4", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file; Markdown by default.")
def table(runs: Path | None, fmt: str, output: Path | None, **how: Any) -> None:
    """Compare the samplers of a run store: means, deviations, and from five seeds up tests against the baseline.

    \b
    nsbench table --published                                    the papers' figures beside ours, or alone
    nsbench table --layout claims                                a verdict for each row
    nsbench table --layout ablation --baseline dhns --format latex
    """
    from nsbench.results import tables

    where = dict(pair(text, "--where") for text in how.pop("where"))
    made = tables.comparison(runs, where=where, **how)
    if output is not None:
        output.write_text(tables.write(made, "md" if fmt == "rich" else fmt), encoding="utf-8")
    elif fmt == "rich":
        tables.show(made)
    else:
        click.echo(tables.write(made, fmt), nl=False)


@cli.command()
@click.argument("first", metavar="RUNS_A")
@click.argument("second", metavar="RUNS_B")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only runs with this value, in both. Repeatable.")
@runs_option
def compare(first: str, second: str, where: tuple[str, ...], runs: Path | None) -> None:
    """One contrast in words: what differs, by how much, how surely, and what may not be said.

    A group of runs is given by filters, by a run's name, or by a folder of runs.

    \b
    nsbench compare sampler=bernoulli sampler=uniform --where dataset=mkg_y
    nsbench compare sampler=dhns,kge=transe sampler=uniform,kge=transe
    nsbench compare mine/runs theirs/runs --where sampler=uniform
    """
    from nsbench.results import compare as comparing

    click.echo(comparing.compare(first, second, runs, dict(pair(text, "--where") for text in where)))


@cli.command()
@runs_option
@click.option("--kind", "kinds", help="Comma-separated: cd, epochs, seconds, cost, sensitivity, relations, published.  "
              "[default: what the runs allow]")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only runs with this value: dataset=mkg_y. Repeatable.")
@click.option("--posthoc", type=click.Choice(["wilcoxon", "nemenyi"]), default="wilcoxon", show_default=True, help="For cd.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default="plots", show_default=True)
def plot(runs: Path | None, kinds: str | None, where: tuple[str, ...], posthoc: str, output: Path) -> None:
    """Figures of a run store as pdf, svg and png, one and two columns wide, each with its data and caption (extra `plots`).

    \b
    cd           average ranks over (model, dataset), with bars over what no test separates
    epochs       validation MRR against epochs; `seconds`: against seconds of training
    cost         test MRR against seconds of training
    sensitivity  test MRR against a number that --set changed: protocol.negatives, sampler.cache
    relations    test MRR by relation category, and for entities seen and unseen in train
    published    our test MRR against the papers'
    """
    from nsbench.results import plots

    filters = dict(pair(text, "--where") for text in where)
    made, refused = plots.plots(runs, words(kinds) if kinds is not None else (), where=filters, posthoc=posthoc,
                                default=default_of)  # fmt: skip
    for each in made:
        files = plots.write(each, output)
        click.echo(f"{output / each.name}: {len(files)} files")
    for reason in dict.fromkeys(refused.values()):
        click.echo(f"no {', '.join(kind for kind in refused if refused[kind] == reason)}: {reason}", err=True)


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


@cli.group("runs")
def runs_() -> None:
    """The run store: what is in it, and how to carry it from machine to machine."""


where_option = click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only runs with this value. Repeatable.")


@runs_.command("list")
@where_option
@runs_option
def runs_list(where: tuple[str, ...], runs: Path | None) -> None:
    """The runs of the store, MRR x100; without --where also what is unfinished or damaged, and why."""
    from nsbench.results import inventory, store

    frame = store.load(runs)
    skipped = frame.attrs["skipped"] if not where else {}
    shown = store.select(frame, dict(pair(text, "--where") for text in where))
    click.echo(inventory.listing(shown, skipped) or f"no run in {frame.attrs['folder']}; start with nsbench run")


@runs_.command("rm")
@click.argument("names", nargs=-1, metavar="[FOLDER]...")
@where_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
def runs_rm(names: tuple[str, ...], where: tuple[str, ...], yes: bool, runs: Path | None) -> None:
    """Delete runs: these FOLDERs of the store, or all complete runs that pass --where; given both, those that are both.

    \b
    nsbench runs rm uniform-transe-mkg_y-s0-3b0ee4dd
    nsbench runs rm --where protocol=quick
    """
    from nsbench.results import inventory
    from nsbench.results.store import default_folder

    paths = inventory.chosen(runs or default_folder(), names, dict(pair(text, "--where") for text in where))
    for path in paths:
        click.echo(f"{inventory.megabytes(inventory.size(path)):>12}  {path}")
    if not paths or not (yes or click.confirm(f"delete these {len(paths)} runs?")):
        click.echo("nothing was deleted")
        return
    kept = []
    for path in paths:
        try:
            inventory.remove(path)
        except Busy:
            kept.append(path.name)
    click.echo(f"deleted {len(paths) - len(kept)} of {len(paths)} runs")
    if kept:
        raise RunFailed(f"other processes are working on {', '.join(kept)}; stop those first")


@runs_.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@where_option
@runs_option
def runs_export(file: Path, where: tuple[str, ...], runs: Path | None) -> None:
    """Write FILE.csv: a line per complete run with all of its figures, unrounded, and its configuration."""
    from nsbench.results import inventory, store

    frame = store.load(runs)
    shown = store.select(frame, dict(pair(text, "--where") for text in where))
    if shown.empty:
        raise Misuse(f"no complete run in {frame.attrs['folder']}; there is nothing to export")
    file.write_text(inventory.export(shown), encoding="utf-8", newline="")
    left_out = len(frame.attrs["skipped"])
    click.echo(f"{len(shown)} runs in {file}" + (f"; {left_out} unfinished or damaged ones left out" if left_out else ""))


@runs_.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@runs_option
def pack(archive: Path, runs: Path | None) -> None:
    """Write the complete runs of the store to ARCHIVE (.tar.gz)."""
    from nsbench.results import archive as archives
    from nsbench.results.store import default_folder

    names = archives.pack(runs or default_folder(), archive)
    click.echo(f"{len(names)} runs in {archive}; next, on the other machine: nsbench runs merge {archive.name}")


@runs_.command()
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path))
@runs_option
def merge(archives: tuple[Path, ...], runs: Path | None) -> None:
    """Add the runs of packed stores, or of other stores' folders; what is there already stays as it is."""
    from nsbench.results import archive
    from nsbench.results.store import default_folder

    store = runs or default_folder()
    for one in archives:
        found = archive.merge(one, store)
        click.echo(f"{one}: {len(found.added)} runs added to {store}, {len(found.present)} were there already")
        for name, reason in found.refused.items():
            click.echo(f"  left out {name}: {reason}", err=True)


KINDS = ("SAMPLERS", "MODELS", "FUSIONS", "AUXILIARIES", "DATASETS")  # registries in nsbench.registry


@cli.command("list")
def list_() -> None:
    """Samplers, models, fusions, datasets and protocols at hand."""
    from nsbench import registry
    from nsbench.config import protocol_names, read_protocol
    from nsbench.sweep import content as sweep_content
    from nsbench.sweep import names as sweep_names

    for kind in (getattr(registry, name) for name in KINDS):
        cards: dict[str, list[str]] = {}  # components of one file may share its card
        for name in kind.names():
            source = kind.source(name)
            card = first_sentence(kind.get(name)).removeprefix(f"{name}: ")
            cards.setdefault(card + ("" if source == "built-in" else f"  [{source}]"), []).append(name)
        if cards:
            click.secho(f"{kind.kind}s" if kind.kind != "auxiliary loss" else "auxiliary losses", bold=True)
        for card, names in cards.items():
            click.echo(f"  {', '.join(names):<20} {card}")
    click.secho("protocols", bold=True)
    for name in protocol_names():
        click.echo(f"  {name:<20} {read_protocol(name)['description']}")
    click.secho("sweeps", bold=True)
    for name in sweep_names():
        click.echo(f"  {name:<20} {sweep_content(name)['description']}")
    broken = {name: reason for kind in KINDS for name, reason in getattr(registry, kind).broken.items()}
    if broken:
        click.secho("installed, but cannot be loaded", bold=True)
    for name, reason in broken.items():
        click.echo(f"  {name:<20} {reason}")


@cli.command()
@click.argument("name")
def show(name: str) -> None:
    """What NAME is, where it comes from, and its options with their defaults."""
    import inspect

    from nsbench import registry
    from nsbench.config import protocol_names, read_protocol

    if name in protocol_names():
        for key, value in read_protocol(name).items():
            click.echo(f"{key} = {value}")
        return
    kinds = [getattr(registry, kind) for kind in KINDS]
    owners = [kind for kind in kinds if name in kind.names() or name in kind.broken]
    if ".py:" in name:
        owners = [registry.SAMPLERS]
    if not owners:
        everything = [n for kind in kinds for n in kind.names()] + protocol_names()
        raise Misuse(f"nothing is called '{name}'{suggest(name, everything)} (nsbench list)")
    for kind in owners:
        component = kind.get(name)
        click.secho(f"{kind.kind} {name} ({kind.source(name)})", bold=True)
        click.echo(inspect.getdoc(sys.modules[component.__module__]) or inspect.getdoc(component) or "")
        for line in option_lines(component, kind.kind, name):
            click.echo(line)


def option_lines(component: Any, kind: str, name: str) -> list[str]:
    """`--set sampler.x=1` lines of a component, generated from its options dataclass."""
    import dataclasses

    prefix = {"sampler": "sampler", "model": "kge", "fusion": "fusion", "auxiliary loss": f"aux.{name}"}.get(kind)
    fields = dataclasses.fields(component.Options) if hasattr(component, "Options") else ()
    lines = [
        f"  --set {prefix}.{field.name}={field.default}   {field.metadata.get('help', '')}"
        + (f" (one of {', '.join(map(str, field.metadata['choices']))})" if field.metadata.get("choices") else "")
        for field in fields
    ]
    for variant, values in getattr(component, "variants", {}).items():
        changes = ", ".join(f"{key}={value}" for key, value in values.items()) or "nothing"
        lines.append(f"  --set sampler.variant={variant}   sets {changes}")
    return ["\noptions", *lines] if lines else ["\nno options"]


@cli.command()
@click.argument("sampler")
@click.option("--kge", default="transe,distmult,rotate", show_default=True, help="One or several models to check it with.")
@click.option("--fusion", default="none", show_default=True, help="For samplers that need one: two_view for mans.")
def check(sampler: str, kge: str, fusion: str) -> None:
    """Hold SAMPLER (a name, or ./mine.py:Class) to the rules that every built-in sampler keeps."""
    from nsbench.testing import check_sampler

    broken = 0
    for model in words(kge):
        click.secho(f"{sampler} with {model}", bold=True)
        for finding in check_sampler(sampler, model, fusion=fusion):
            mark = {True: "kept", False: "BROKEN", None: "-"}[finding.passed]
            click.echo(f"  {mark:<7} {finding.rule:<11} {finding.words}")
            broken += finding.passed is False
    if broken:
        raise RunFailed(f"{broken} rules are broken; mend the sampler and repeat the command")


@cli.command()
@click.option("--run", "name", required=True, help="A run made with --save-model: its folder, its name, or a part of that.")
@click.option("--head", help="Name of the head, or #ID; the sampler replaces the tail.")
@click.option("--relation", required=True, help="Name of the relation, or #ID.")
@click.option("--tail", help="Name of the tail, or #ID; the sampler replaces the head.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Entities to show.")
@click.option("--overlap", is_flag=True, help="The ten of the highest score, and which of them are among the ten likeliest.")
@click.option("--dataset", help="The data, where the run's own name for them does not find them.")
@runs_option
def inspect(name: str, head: str | None, relation: str, tail: str | None, top: int, overlap: bool, dataset: str | None,
            runs: Path | None) -> None:
    """What a trained run's sampler draws for one query: by name, with the model's scores, true answers marked.

    \b
    nsbench run --sampler nscaching --kge transe --dataset mkg_y --protocol cpu --save-model
    nsbench inspect --run nscaching --head "Taylor Swift" --relation plays --overlap
    """
    from nsbench import inspection
    from nsbench.campaign import store_folder

    folder = inspection.find_run(store_folder(runs), name)
    found = inspection.inspect(folder, head=head, relation=relation, tail=tail, dataset=dataset)
    click.echo(inspection.text(found, top, overlap))


@cli.command("new-sampler")
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), help="Folder of the new package.  [default: ./nsbench-NAME]")
def new_sampler(name: str, into: Path | None) -> None:
    """Write a small package with a working sampler NAME, its options and its test, to be changed into your own."""
    from nsbench import scaffold

    click.echo(scaffold.new_sampler(name, into))


@cli.group(cls=Commands, no_args_is_help=False)
def data() -> None:
    """List, fetch and audit datasets; bring features."""


@data.command("list")
def data_list() -> None:
    """Which datasets are here, and with which features."""
    from nsbench.datasets import places
    from nsbench.registry import DATASETS

    for name in DATASETS.names():
        if name not in places.FOLDERS:
            click.echo(f"{name:<10} {first_sentence(DATASETS.get(name)).removeprefix(f'{name}: ')}")
            continue
        home = places.place(name)
        folder = home.find(*places.TRIPLE_FILES)
        if folder is None:
            click.echo(f"{name:<10} not on this machine; nsbench data fetch {name}")
            continue
        files = [file.name for at in home.search for pattern in FEATURE_FILES for file in sorted(at.glob(pattern))]
        click.echo(f"{name:<10} {folder}; features: {', '.join(dict.fromkeys(files)) or 'none'}")


FEATURE_FILES = ("features/*.npy", "*-visual.pth", "*-textual.pth", "text_name_minilm.npy")


@data.command()
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET...")
@click.option("--parts", default="triples,names,features", show_default=True, help="What to fetch, comma-separated.")
@click.option("--mirror", help="Base URL of another copy.  [default: NSBENCH_MIRROR]")
def fetch(datasets: tuple[str, ...], parts: str, mirror: str | None) -> None:
    """Bring public datasets to this machine, verified; what is there stays."""
    from nsbench.datasets import fetch as fetching
    from nsbench.display import counting

    chosen = words(parts)
    unknown = [part for part in chosen if part not in fetching.PARTS]
    if unknown:
        near = suggest(unknown[0], fetching.PARTS) or f"; there are {', '.join(fetching.PARTS)}"
        raise Misuse(f"unknown part '{unknown[0]}'{near}")
    for dataset in datasets:
        with counting(f"fetching {dataset}", "bytes") as progress:
            folder = fetching.fetch(dataset, parts=chosen, mirror=mirror, progress=progress)
        click.echo(f"{dataset} is in {folder}")


@data.command()
@click.argument("dataset")
def audit(dataset: str) -> None:
    """Count what is wrong, or worth knowing, about a dataset's files."""
    from tabulate import tabulate

    from nsbench.datasets import audit as auditing

    click.echo(tabulate(auditing.printable(auditing.audit(dataset)), tablefmt="plain", disable_numparse=True))


@data.command("import-features")
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--modality", required=True, help="What they are: visual, textual, ...")
def import_features(dataset: str, file: Path, modality: str) -> None:
    """Check a .npy, .pth or .h5 FILE and keep it as features of DATASET: one row per entity, in the order of the ids."""
    from nsbench.datasets import features

    kept = features.import_features(dataset, file, modality)
    shape = " x ".join(map(str, kept.shape))
    empty = f"{kept.absent} of {kept.shape[0]} rows are empty"
    click.echo(f"{modality} features [{shape}] of {dataset} are in {kept.path}; {empty}")
    if kept.unknown:
        click.echo(f"{kept.unknown} entries of the file belong to no entity of {dataset} and were left out")


@data.command("encode-names")
@click.argument("dataset")
def encode_names(dataset: str) -> None:
    """Encode the entity names of DATASET as text features (extra `features`; no network)."""
    from nsbench.datasets import features
    from nsbench.display import counting

    with counting(f"encoding the names of {dataset}", "names") as progress:
        path = features.encode_names(dataset, progress=progress)
    click.echo(f"the encoded names of {dataset} are in {path}; use them with --features names")


@cli.command()
@click.option("--sampler", default="uniform", show_default=True, help="One or several, comma-separated.")
@click.option("--kge", default="transe,distmult,rotate", show_default=True, help="One or several models.")
@click.option("--dataset", default="mkg_y", show_default=True, help="One or several; planted:1k,planted:10k for growth.")
@click.option("--protocol", default="nsbench", show_default=True, help="Width, batch and negatives come from it.")
@click.option("--fusion", default="none", show_default=True, help="How features enter entity vectors.")
@click.option("--baseline", default="uniform", show_default=True, help="Other samplers are measured against this one.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Alternations.")
@click.option("--pairs", type=click.IntRange(min=2), default=20, show_default=True, help="Interleaved epochs of two.")
@click.option("--peers", is_flag=True, help="Measure PyKEEN in turns with nsbench (extra `peers`).")
@click.option("--profile", is_flag=True, help="Where the time of a step goes, too.")
@set_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
def bench(sampler: str, kge: str, dataset: str, protocol: str, fusion: str, baseline: str, rounds: int, pairs: int,
          peers: bool, profile: bool, settings: tuple[str, ...], threads: int | None) -> None:  # fmt: skip
    """Seconds per epoch, negatives per second, evaluation time and peak memory; ratios against uniform or PyKEEN.

    Against uniform, the ratio measured in turns stands beside the one predicted from counts of work, and the sampler's
    state beside its formula.

    \b
    nsbench bench --peers --threads 2
    nsbench bench --sampler bernoulli --kge transe
    nsbench bench --kge transe --dataset planted:1k,planted:10k,planted:100k
    """
    from nsbench import bench as benchmark
    from nsbench import campaign

    if threads is not None:
        set_threads(threads)
    configs = campaign.plan(words(sampler), words(kge), words(dataset), [0], protocol=protocol, fusion=fusion,
                            settings=list(settings))  # fmt: skip
    for row in benchmark.report(configs, baseline, rounds, pairs, peers, profile, lambda text: click.echo(text, err=True)):
        for name, value in row.items():
            click.echo(f"{name:<18} {value}")
        click.echo()


@cli.command()
@runs_option
@device_option
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="CPU threads; the runs are too small for more.")
def demo(runs: Path | None, device: str, threads: int) -> None:
    """Every sampler on embedded data with a protocol of seconds, ending in a comparison table with its tests."""
    from nsbench import campaign
    from nsbench.contracts import Need, Objective
    from nsbench.registry import SAMPLERS
    from nsbench.results import tables

    set_threads(threads)
    store = runs or Path(tempfile.mkdtemp(prefix="nsbench-demo-"))
    configs: list[Config] = []
    for model, sampler in itertools.product(["transe", "distmult"], SAMPLERS.names()):
        component = SAMPLERS.get(sampler)
        slow = getattr(component, "reads_features", False) or Need.QUERY in component.requires  # mmrns, dhns
        if (slow and model == "distmult") or (issubclass(component, Objective) and model == "transe"):
            continue  # these take most of the time: one model each, objectives the one whose scores are products
        try:
            configs += campaign.plan([sampler], [model], ["planted:small"], range(5), protocol="quick")
        except Misuse as reason:
            click.echo(f"left out: {reason}", err=True)
    carry_out(configs, store, device, diagnose=False)
    tables.show(tables.comparison(store, where={"protocol": "quick", "dataset": "planted:small"}))
    click.echo(f"The data are generated and the protocol takes seconds: no claim about real graphs. Runs are in {store}")
    click.echo("next: nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y --protocol cpu --seeds 5")


def words(text: str) -> list[str]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise Misuse("an empty list of names was given; see nsbench list")
    return list(dict.fromkeys(found))


def parse_seeds(text: str) -> list[int]:
    """`5` is 0 to 4; `0,3,7` are those."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise Misuse(f"--seeds takes a number (5) or a list (0,3,7), not '{text}'") from None
    if "," not in text:
        if numbers[0] < 1:
            raise Misuse(f"--seeds must be at least 1, not {text}; for one certain seed use --seed")
        return list(range(numbers[0]))
    return list(dict.fromkeys(numbers))


def pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Misuse(f"{option} takes NAME=VALUE, not '{text}'")
    return name, value


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def get_threads() -> int:
    import torch

    return torch.get_num_threads()


def first_sentence(component: Any) -> str:
    """Of the docstring of the component's file, its card."""
    card = sys.modules[component.__module__].__doc__ or component.__doc__ or ""
    return re.split(r"\.\s+(?=[A-Z])", card.split("\n\n")[0], maxsplit=1)[0].replace("\n", " ").strip().rstrip(".")
