"""The command line. Heavy imports wait until a command needs them: `nsbench --help` must answer at once."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nsbench
from nsbench.errors import Misuse, RunFailed

if TYPE_CHECKING:
    from nsbench.config import Config

FIRST_STEPS = """nsbench compares negative samplers for knowledge-graph embedding. Three commands to try:

  nsbench demo                                      embedded data, ends in a comparison table
  nsbench run --sampler bernoulli --kge transe --dataset mkg_y
  nsbench list                                      samplers, models, datasets, protocols

nsbench --help shows the rest."""


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsbench.__version__, prog_name="nsbench")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Compare negative samplers for (multimodal) knowledge-graph embedding under one trainer, loss and budget."""
    if context.invoked_subcommand is None:
        click.echo(FIRST_STEPS)


def main() -> None:
    """Entry point: every refusal is one sentence; exit code 2 for misuse, 1 for a failed run, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, Misuse):
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        if isinstance(error, RunFailed):
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        click.echo(f"Error: {type(error).__name__}: {error} (a defect of nsbench; `nsbench --debug ...` shows where)", err=True)
        sys.exit(1)


def options(*decorators: Callable) -> Callable:
    """Several click options as one decorator."""

    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


runs_option = click.option("--runs", type=click.Path(path_type=Path), help="Run store.  [default: NSBENCH_RUNS or ./runs]")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="GROUP.NAME=VALUE",
    help="Change an option: sampler.x=1, kge.x=1, fusion.x=1, protocol.steps=100, aux.NAME=0.1. Repeatable.",
)
machine_options = options(
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]"),
)


@cli.command()
@click.option("--sampler", default="uniform", show_default=True, help="One or several, comma-separated; or ./mine.py:Class.")
@click.option("--kge", default="transe", show_default=True, help="One or several models, comma-separated.")
@click.option("--dataset", default="mkg_y", show_default=True, help="One or several; a folder of your own works too.")
@click.option("--protocol", default="nsbench", show_default=True, help="A protocol by name, or a TOML file.")
@click.option("--fusion", default="none", show_default=True, help="How features enter entity vectors.")
@click.option("--seed", type=click.IntRange(min=0), help="One seed.  [default: 0]")
@click.option("--seeds", help="How many (5 means 0 to 4), or which (0,3,7).")
@click.option("--split", type=click.Choice(["clean", "released"]), help="DB15K only: its released validation file is defective.")
@click.option("--features", type=click.Choice(["auto", "official", "names", "none"]), default="auto", show_default=True)
@set_option
@runs_option
@machine_options
@click.option("--save-model", is_flag=True, help="Keep model.safetensors beside the result.")
@click.option("--checkpoint-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the runs and whether they are done; run nothing.")
def run(sampler: str, kge: str, dataset: str, protocol: str, seed: int | None, seeds: str | None, runs: Path | None,
        device: str, threads: int | None, save_model: bool, checkpoint_every: float, only_plan: bool,
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
        for config in configs:
            folder = campaign.folder_of(config, store)
            click.echo(f"{'done   ' if folder.complete else 'missing'}  {folder.path}")
        return
    finished = carry_out(configs, store, device=device, save_model=save_model, checkpoint_seconds=checkpoint_every)
    if len(finished) == 1:
        row = finished[0]
        shown = "  ".join(f"{name.upper()} {100 * row.test[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10"))
        click.echo(f"test  {shown}  MR {row.test['mr']:.0f}   ({row.folder})")
        if not row.record["converged"]:
            click.echo("not converged: the best validation lies in the last tenth of the steps")
    where = f" --runs {runs}" if runs else ""
    click.echo(f"next: nsbench table{where}")


def carry_out(configs: list[Config], store: Path, **how: Any) -> list[Any]:
    """Run what is missing, with progress; Ctrl-C writes a checkpoint and says how to go on."""
    from nsbench import campaign
    from nsbench.display import Display, duration
    from nsbench.runner import Interrupted

    missing = [not campaign.folder_of(config, store).complete for config in configs]
    results = []
    with Display(sum(missing)) as display, stop_signal() as stopping:
        announce(configs, display.say)
        for i, config in enumerate(configs):
            remaining = sum(missing[i:])
            if missing[i]:
                display.begin(config.cell, remaining)
            try:
                result = campaign.carry_out(config, store, notify=display.hear, stopping=stopping, **how)
            except Interrupted as stop:
                display.say(f"stopped; the same command goes on from the checkpoint in {stop}")
                raise click.exceptions.Exit(130) from None
            if missing[i]:
                display.end(carried_out=True)
                cost = duration(result.record["cost"]["seconds"])
                display.say(f"{config.cell}: test MRR {100 * result.test['mrr']:.2f} after {cost}")
            elif len(configs) == 1:
                display.say(f"already done, nothing to do: {result.folder}")
            results.append(result)
        if len(configs) > 1 and not all(missing):
            display.say(f"{len(configs) - sum(missing)} of {len(configs)} runs were already done")
    return results


def announce(configs: list[Config], say: Callable[[str], None]) -> None:
    """Which data, features and protocol the runs use."""
    from nsbench.campaign import dataset_of

    described = {}
    for config in configs:
        dataset = dataset_of(config)
        used = "+".join(sorted(dataset.features)) or "no"
        described[config.dataset, dataset.feature_source] = (
            f"{dataset.name} ({dataset.split} split): {dataset.num_entities} entities, {dataset.num_relations} relations, "
            f"{len(dataset.train)}/{len(dataset.valid)}/{len(dataset.test)} triples; {used} features"
            f"{'' if dataset.feature_source == 'none' else f' ({dataset.feature_source})'}; protocol {config.protocol.name}"
        )
    for line in described.values():
        say(line)


class stop_signal:
    """While active, the first Ctrl-C or SIGTERM sets a flag that the run reads between steps; the second one stops at once."""

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
@click.option("--baseline", default="uniform", show_default=True, help="The sampler that others are tested against.")
@click.option("--published", is_flag=True, help="Set the papers' figures beside ours.")
@click.option("--format", "fmt", type=click.Choice(["rich", "md", "latex", "csv"]), default="rich", show_default=True)
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only runs with this value: dataset=mkg_y. Repeatable.")
@click.option("--layout", type=click.Choice(["dhns4", "cost"]), default="dhns4", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead.")
def table(runs: Path | None, fmt: str, output: Path | None, **how: Any) -> None:
    """Compare the samplers of a run store: means, deviations, and from five seeds up tests against the baseline."""
    from nsbench.results import tables

    where = dict(pair(text, "--where") for text in how.pop("where"))
    made = tables.comparison(runs, where=where, **how)
    if output is not None:
        output.write_text(tables.write(made, "md" if fmt == "rich" else fmt))
    elif fmt == "rich":
        tables.show(made)
    else:
        click.echo(tables.write(made, fmt), nl=False)


@cli.command("list")
def list_() -> None:
    """Samplers, models, fusions, datasets and protocols at hand."""
    from nsbench import registry
    from nsbench.config import protocol_names, read_protocol

    kinds = (registry.SAMPLERS, registry.MODELS, registry.FUSIONS, registry.AUXILIARIES, registry.DATASETS)
    for kind in kinds:
        names = kind.names()
        if names:
            click.secho(f"{kind.kind}s", bold=True)
        for name in names:
            source = kind.source(name)
            note = "" if source == "built-in" else f"  [{source}]"
            click.echo(f"  {name:<16} {first_sentence(kind.get(name))}{note}")
    click.secho("protocols", bold=True)
    for name in protocol_names():
        click.echo(f"  {name:<16} {read_protocol(name)['description']}")


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
    kinds = (registry.SAMPLERS, registry.MODELS, registry.FUSIONS, registry.AUXILIARIES, registry.DATASETS)
    owners = [kind for kind in kinds if name in kind.names() or (kind is registry.SAMPLERS and ".py:" in name)]
    if not owners:
        everything = [n for kind in kinds for n in kind.names()] + protocol_names()
        raise Misuse(f"nothing is called '{name}'{registry.suggest(name, everything)} (nsbench list)")
    for kind in owners:
        component = kind.get(name)
        module = sys.modules[component.__module__]
        click.secho(f"{kind.kind} {name}", bold=True)
        click.echo(inspect.getdoc(module) or inspect.getdoc(component) or "")
        for line in option_lines(component, kind):
            click.echo(line)


def option_lines(component: Any, kind: Any) -> list[str]:
    """`--set sampler.x=1` lines of a component, generated from its options dataclass."""
    import dataclasses

    prefixes = {"sampler": "sampler", "model": "kge", "fusion": "fusion", "auxiliary loss": "aux.NAME"}
    fields = dataclasses.fields(component.Options) if hasattr(component, "Options") else ()
    lines = [
        f"  --set {prefixes[kind.kind]}.{field.name}={field.default}   {field.metadata.get('help', '')}"
        + (f" (one of {', '.join(map(str, field.metadata['choices']))})" if field.metadata.get("choices") else "")
        for field in fields
    ]
    variants = [name for name in getattr(component, "variants", {}) if name != "recommended"]
    if variants:
        lines.append(f"  --set sampler.variant=NAME   recommended (default), {', '.join(variants)}")
    return ["\noptions", *lines] if lines else ["\nno options"]


@cli.group()
def data() -> None:
    """List, fetch and audit datasets; bring features."""


@data.command("list")
def data_list() -> None:
    """Which datasets are here, and with which features."""
    from nsbench.datasets import public

    for line in public.describe():
        click.echo(line)


@cli.command()
@runs_option
@machine_options
def demo(runs: Path | None, device: str, threads: int | None) -> None:
    """Every sampler on embedded data with a protocol of seconds, ending in a comparison table with its tests."""
    from nsbench import campaign
    from nsbench.registry import SAMPLERS
    from nsbench.results import tables

    if threads is not None:
        set_threads(threads)
    store = runs or Path(tempfile.mkdtemp(prefix="nsbench-demo-"))
    configs = campaign.plan(
        SAMPLERS.names(), ["transe", "distmult", "rotate"], ["planted:small"], range(5), protocol="quick",
    )
    carry_out(configs, store, device=device)
    tables.show(tables.comparison(store))
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


def first_sentence(component: Any) -> str:
    """Of the docstring of the component's file, its card."""
    card = sys.modules[component.__module__].__doc__ or component.__doc__ or ""
    return " ".join(card.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
