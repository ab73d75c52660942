"""Commands that make runs: run, sweep, demo."""

from __future__ import annotations

import itertools
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsbench.commands.options import device_option, runs_option, set_option, set_threads, threads_option, words
from nsbench.errors import Busy, Misuse, RunFailed

if TYPE_CHECKING:
    from nsbench.campaign import Result
    from nsbench.config import Config


@click.command()
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
@threads_option
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


@click.command()
@click.argument("grid")
@runs_option
@device_option
@threads_option
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
    dataset = ["mkg_y"]                        further: fusion, aux, change, seeds, set
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


@click.command()
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


def get_threads() -> int:
    import torch

    return torch.get_num_threads()
