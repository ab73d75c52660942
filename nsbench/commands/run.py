"""Commands that make runs, run and demo, and how they and `sweep` show it."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nsbench
from nsbench.commands.options import cell_options, device_option, runs_option, set_option, set_threads, threads_option, words
from nsbench.errors import Busy, Misuse, RunFailed

if TYPE_CHECKING:
    from nsbench.campaign.engines import Ending, Engine, Job
    from nsbench.campaign.estimates import Costs
    from nsbench.config.run import Config

    MakeEngine = Callable[["Told"], Engine]


@click.command()
@cell_options
@click.option("--seed", type=click.IntRange(min=0), help="One seed.  [default: 0]")
@click.option("--seeds", help="How many (5 means 0 to 4), or which (0,3,7).")
@set_option
@runs_option
@device_option
@threads_option
@click.option("--save-model", is_flag=True, help="Keep model.safetensors beside the result.")
@click.option(
    "--diagnostics/--no-diagnostics",
    "diagnose",
    default=True,
    show_default=True,
    help="Measure what the sampler draws at start, middle and end; changes no other figure.",
)
@click.option("--checkpoint-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the runs and whether they are done; run nothing.")
def run(
    sampler: str,
    kge: str,
    dataset: str,
    protocol: str,
    seed: int | None,
    seeds: str | None,
    runs: Path | None,
    device: str,
    threads: int | None,
    save_model: bool,
    diagnose: bool,
    checkpoint_every: float,
    only_plan: bool,
    **shared: Any,
) -> None:
    """Train and test, only what is missing.

    \b
    nsbench run --sampler uniform,bernoulli --kge transe,distmult --dataset mkg_y --seeds 5
    nsbench run --protocol quick --dataset planted:small
    nsbench run --dataset path/to/my/graph --set protocol.margin=6
    """
    from nsbench.campaign import plan as campaign

    if threads is not None:
        set_threads(threads)
    if seed is not None and seeds is not None:
        raise Misuse("give --seed or --seeds, not both")
    chosen = parse_seeds(seeds) if seeds is not None else [seed or 0]
    configs = campaign.plan(
        words(sampler),
        words(kge),
        words(dataset),
        chosen,
        protocol=protocol,
        **{**shared, "settings": list(shared["settings"])},
    )
    store = campaign.store_folder(runs)
    if only_plan:
        show_plan(configs, store)
        return
    carry_out(
        configs,
        store,
        device,
        patient=len(configs) > 1,
        save_model=save_model,
        diagnose=diagnose,
        checkpoint_seconds=checkpoint_every,
    )
    if len(configs) == 1:
        folder = campaign.folder_of(configs[0], store)
        row = campaign.Result(folder.path, folder.result())
        shown = "  ".join(f"{name.upper()} {100 * row.test[name]:.2f}" for name in ("mrr", "hits@1", "hits@3", "hits@10"))
        click.echo(f"test  {shown}  MR {row.test['mr']:.0f}   ({row.folder})")
        if not row.record["converged"]:
            click.echo("not converged: the best validation lies in the last tenth of the steps")
    where = f" --runs {runs}" if runs else ""
    click.echo(f"next: nsbench table{where}")


@click.command()
@runs_option
@device_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads; the runs are too small for more.",
)
def demo(runs: Path | None, device: str, threads: int) -> None:
    """Every sampler on embedded data with a protocol of seconds, ending in a comparison table with its tests."""
    from nsbench.campaign import plan as campaign
    from nsbench.contracts import Need, Objective
    from nsbench.registry import SAMPLERS
    from nsbench.results import tables, writers

    set_threads(threads)
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    store = runs or Path(tempfile.gettempdir()) / f"nsbench-demo-{nsbench.__version__}-{user}"
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
    writers.show(tables.comparison(store, where={"protocol": "quick", "dataset": "planted:small"}))
    click.echo(f"The data are generated and the protocol takes seconds: no claim about real graphs. Runs are in {store}")
    click.echo("To make them anew, delete that folder and repeat the command")
    click.echo("next: nsbench run --sampler uniform,bernoulli --kge transe --dataset mkg_y --protocol cpu --seeds 5")


def show_plan(configs: list[Config], store: Path) -> None:
    """Where each run stands."""
    from nsbench.campaign import plan as campaign
    from nsbench.campaign import status

    folders = [campaign.folder_of(config, store) for config in configs]
    states = [status.state(folder) for folder in folders]
    for folder, state in zip(folders, states):
        click.echo(f"{state.kind:8} {folder.path}{f' ({state.text})' if state.text else ''}")
    click.echo(status.summary(states))


class Told:
    """Passes what happens to runs on to a display, and learns what they cost."""

    def __init__(self, jobs: list[Job], costs: Costs | None, where: str) -> None:
        from nsbench.commands.display import Display

        self.todo = {job.number: job for job in jobs}
        self.began: dict[int, float] = {}
        self.training: dict[int, float] = {}  # seconds that it goes on
        self.costs, self.where = costs, where
        self.slots, self.alone = 1, len(jobs) == 1
        self.display = Display(len(jobs), self.ahead if costs else None)
        self.introduced: set[int] = set()  # numbers of runs ...
        self.told: set[str] = set()  # ... and what was said of them, once for all that are alike

    def begin(self, job: Job) -> None:
        self.todo[job.number] = job  # again, where another process has given it up
        self.began[job.number] = time.monotonic()
        self.display.begin(job.config.cell, len(self.todo), job.number)

    def hear(self, job: Job, event: Mapping[str, Any]) -> None:
        if job.number not in self.introduced:  # here and not in `begin`: a run that is refused says why and nothing else
            self.introduced.add(job.number)
            line = f"{described(job.config)}; on {self.where}"
            if line not in self.told:
                self.told.add(line)
                self.display.say(line)
        self.training[job.number] = event.get("seconds_left", 0.0)
        self.display.hear(event, job.number)

    def end(self, job: Job, ending: Ending, again: bool) -> None:
        from nsbench.campaign.plan import Result
        from nsbench.commands.display import duration
        from nsbench.runs.runner import Interrupted

        del self.began[job.number]
        if not again:
            del self.todo[job.number]
        if isinstance(ending, Result):
            if self.costs:
                self.costs.learn(ending.record)
            text = f"test MRR {100 * ending.test['mrr']:.2f} after {duration(ending.record['cost']['seconds'])}"
        elif isinstance(ending, Busy):
            text = "another process is working on it"
        elif isinstance(ending, Interrupted):
            text = "stopped, with a checkpoint"
        else:
            text = f"{ending}; it will go on from its checkpoint" if again else f"failed: {ending}"
        if self.alone and isinstance(ending, Exception) and not again:
            return  # it is raised
        self.display.end(f"{job.config.cell}: {text}", job.number, again)

    def need(self, job: Job) -> int | None:
        """Bytes that the run will take, as far as known."""
        cost = self.costs.of(job.cell) if self.costs else None
        return None if cost is None else cost.memory

    def ahead(self) -> float | None:
        """Seconds left for all."""
        from nsbench.campaign.estimates import together

        assert self.costs is not None
        whole = self.costs.seconds([job.cell for job in self.todo.values()])
        now = time.monotonic()
        left = [
            max(seconds - (now - self.began.get(number, now)), self.training.get(number, 0.0))
            for number, seconds in zip(self.todo, whole)
        ]
        return together(left, self.slots) if left else None


def carry_out(
    configs: list[Config],
    store: Path,
    device: str,
    *,
    make: MakeEngine | None = None,
    retry: bool = True,
    patient: bool = True,
    **how: Any,
) -> None:
    """Run what is missing, with progress; Ctrl-C writes checkpoints and says how to go on.

    `make` an engine, or use this process; `retry` what failed earlier; be `patient` with runs that other processes have.
    """
    from nsbench.campaign import plan as campaign
    from nsbench.campaign.engines import Here, Job, Tally, conduct
    from nsbench.campaign.estimates import Costs
    from nsbench.runs.runner import environment, pick_device

    target = pick_device(device)
    where = "cuda" if target.type == "cuda" else f"cpu (threads: {get_threads()})"
    jobs = [Job.of(i, config, store) for i, config in enumerate(configs)]  # every pair is checked first
    done = [job for job in jobs if job.folder.complete]
    left_out = [] if retry else [job for job in jobs if not job.folder.complete and job.folder.failure() is not None]
    settled = {job.number for job in (*done, *left_out)}
    todo = [job for job in jobs if job.number not in settled]
    costs = Costs(store, environment(target)["device"], get_threads()) if len(todo) > 1 else None
    for job in done:  # Misuse for one that is damaged, or without the model that is asked for
        campaign.carry_out(job.config, store, device=device, **how)
    told = Told(todo, costs, where)
    say = told.display.say
    if len(jobs) == 1 and done:
        say(f"already done, nothing to do: {done[0].folder.path}")
    elif done:
        say(f"{len(done)} of {len(jobs)} runs were already done")
    for job in left_out:
        say(f"{job.config.cell} is left out: it failed ({job.folder.failure()})")
    if left_out:
        say(f"{len(left_out)} runs failed earlier and are left out; --retry-failed runs them again")
    with told.display, stop_signal() as stopping:
        tally = Tally()
        if todo:
            engine = make(told) if make else Here(store, told, device=device, stopping=stopping, retry=retry, **how)
            told.slots = engine.slots
            try:
                tally = conduct(todo, engine, told, stopping, patient, how.get("diagnose", True))
            finally:
                engine.close()
    if len(jobs) == 1 and tally.failed:
        raise tally.failed[0][1]
    if len(jobs) == 1 and tally.elsewhere:
        raise Busy(f"another process is working on {todo[0].folder.path}; wait for it or stop it")
    if tally.store:
        raise tally.store
    if tally.interrupted:
        say(f"stopped; the same command goes on from {todo[0].folder.path if len(jobs) == 1 else store}")
        raise click.exceptions.Exit(130)
    if tally.elsewhere:
        say(f"{len(tally.elsewhere)} runs are with other processes; repeat the command when those are done")
    if tally.failed:
        names = ", ".join(job.config.cell for job, _ in tally.failed)
        others = len(done) + len(tally.done)
        rest = "the others are done" if others and len(tally.failed) + others == len(jobs) else "see nsbench status"
        raise RunFailed(f"{len(tally.failed)} of {len(jobs)} runs failed ({names}); {rest}")


def described(config: Config) -> str:
    """Which data, features and protocol a run uses."""
    from nsbench.campaign.plan import dataset_of

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
    from nsbench.config.run import MOST_SEEDS

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise Misuse(f"--seeds takes a number (5) or a list (0,3,7), not '{text}'") from None
    if "," not in text:
        if numbers[0] < 1:
            raise Misuse(f"--seeds must be at least 1, not {text}; for one certain seed use --seed")
        if numbers[0] > MOST_SEEDS:
            raise Misuse(f"--seeds is how many, at most {MOST_SEEDS}, not {text}; for one certain seed use --seed {text}")
        return list(range(numbers[0]))
    return list(dict.fromkeys(numbers))


def get_threads() -> int:
    import torch

    return torch.get_num_threads()
