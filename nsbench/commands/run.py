"""Commands that make runs: run and demo; and what they share with `sweep`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nsbench
from nsbench.commands.options import (
    cell_options,
    checkpoint_option,
    command,
    device_option,
    diagnostics_option,
    runs_option,
    set_option,
    set_threads,
    threads_option,
    words,
    workers_option,
)
from nsbench.errors import Busy, Misuse, RunFailed
from nsbench.files import store_folder

if TYPE_CHECKING:
    from nsbench.campaign.conduct import Plan
    from nsbench.campaign.engines import Engine, Job
    from nsbench.campaign.local_engine import Slot
    from nsbench.commands.reporter import Reporter
    from nsbench.config.run import Config
    from nsbench.runs.runner import RunOptions

    MakeEngine = Callable[[Reporter], Engine]


@click.command()
@cell_options
@click.option("--seed", type=click.IntRange(min=0), help="One seed.  [default: 0]")
@click.option("--seeds", help="How many (5 means 0 to 4), or which (0,3,7).")
@set_option
@runs_option
@device_option
@workers_option
@threads_option
@click.option("--save-model", is_flag=True, help="Keep model.safetensors beside the result.")
@diagnostics_option
@checkpoint_option
@click.option(
    "--long",
    is_flag=True,
    help="Carry out what compares every entity (igan, one_vs_all) even above the minutes of its protocol (cpu: 10).",
)
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
    workers: int | None,
    threads: int | None,
    save_model: bool,
    diagnose: bool,
    checkpoint_every: float,
    long: bool,
    only_plan: bool,
    **shared: Any,
) -> None:
    """Train, select and test each combination of the samplers, models, datasets and seeds; what is done stays.

    \b
    nsbench run --protocol quick --dataset planted:small                seconds, on embedded data
    nsbench run --sampler uniform,bernoulli --kge transe,distmult --dataset mkg_y --seeds 5
    nsbench run --dataset path/to/my/graph --set protocol.margin=6      your own triples
    """
    from nsbench.campaign import plan as campaign
    from nsbench.commands.outcome import outcome
    from nsbench.runs.result import Result
    from nsbench.runs.runner import RunOptions

    if seed is not None and seeds is not None:
        raise Misuse("give --seed or --seeds, not both")
    asked = parse_seeds(seeds) if seeds is not None else [seed or 0]
    store = store_folder(runs)
    reasons: list[str] = []
    configs = campaign.plan(
        words(sampler),
        words(kge),
        words(dataset),
        asked,
        protocol=protocol,
        device=device,
        store=store,
        say=reasons.append,
        **{**shared, "settings": list(shared["settings"])},
    )
    if only_plan:
        show_plan(configs, store)
        return
    options = RunOptions(device, save_model, diagnose, checkpoint_every, long)
    run_missing(configs, store, options, workers=workers, threads=threads, patient=len(configs) > 1, reasons=reasons)
    if len(configs) == 1:
        given = {"protocol": protocol, "features": shared["features"], "split": shared["split"], "runs": runs}
        for line in outcome(configs[0], store, given, shared["settings"]):
            click.echo(line)
    for config in configs:
        folder = campaign.folder_of(config, store)
        if folder.complete and (reasons := Result(folder.path, folder.result()).dead):
            whose = "" if len(configs) == 1 else f" of {config.name}"
            click.echo(f"dead generator{whose}: {'; '.join(reasons)}")
    click.echo(f"next: {command('table', {'runs': runs})}")


@click.command()
@runs_option
@device_option
@workers_option
@threads_option
def demo(runs: Path | None, device: str, workers: int | None, threads: int | None) -> None:
    """Run every sampler on embedded data for seconds, and compare them in a table with its tests.

    \b
    nsbench demo
    nsbench demo --runs here     the same in a store of your own
    """
    from nsbench.campaign import plan as campaign
    from nsbench.campaign.estimates import duration
    from nsbench.contracts import Need, Objective
    from nsbench.registry import SAMPLERS
    from nsbench.results import tables, writers
    from nsbench.results.store import read
    from nsbench.runs.runner import RunOptions

    began = time.monotonic()
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    store = runs or Path(tempfile.gettempdir()) / f"nsbench-demo-{nsbench.__version__}-{user}"
    configs: list[Config] = []
    left_out: dict[str, None] = {}
    for model, sampler in itertools.product(["transe", "distmult"], SAMPLERS.names()):
        component = SAMPLERS.get(sampler)
        if component.needs_run or sampler == "dhns_released":  # a run to replay; what stands beside dhns for comparison
            continue
        views = Need.VIEWS in component.requires  # mans, which stands beside uniform on the same views
        slow = getattr(component, "reads_features", False) or Need.QUERY in component.requires or views  # mmrns, dhns
        if (slow and model == "distmult") or (issubclass(component, Objective) and model == "transe"):
            continue  # these take most of the time: one model each, objectives the one whose scores are products
        rows, fusion = (["uniform", sampler], component.fusion) if views else ([sampler], "none")
        try:
            configs += campaign.plan(rows, [model], ["planted:small"], range(5), protocol="quick", fusion=fusion)
        except Misuse as reason:
            left_out[f"left out: {reason}"] = None
    configs.sort(key=lambda config: config.seed)  # after the first seed it is known what the others take
    for line in left_out:
        click.echo(line, err=True)
    run_missing(configs, store, RunOptions(device=device, diagnose=False), workers=workers, threads=threads)
    found, mine = read(store), {campaign.folder_of(config, store).path.name for config in configs}
    found = dataclasses.replace(  # an older version may have left runs there
        found, runs=[run for run in found.runs if run.name in mine], begun=[run for run in found.begun if run.name in mine]
    )
    writers.show(tables.comparison(found))
    click.echo(f"All this took {duration(time.monotonic() - began)}")
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


def run_missing(
    configs: list[Config],
    store: Path,
    options: RunOptions,
    *,
    workers: int | None = None,
    threads: int | None = None,
    make: MakeEngine | None = None,
    patient: bool = True,
    reasons: Sequence[str] = (),
) -> None:
    """Run what is missing, with progress; Ctrl-C writes checkpoints and says how to go on.

    In this process or in `workers`, or with the engine that `make` gives; be `patient` with runs that other processes have.
    """
    from nsbench.campaign.conduct import Plan, conduct
    from nsbench.campaign.engines import Here, Job
    from nsbench.campaign.estimates import Costs
    from nsbench.campaign.local_engine import Local
    from nsbench.campaign.plan import carry_out
    from nsbench.commands.reporter import Reporter
    from nsbench.runs.device import environment, pick_device

    device = pick_device(options.device)
    jobs = [Job.of(i, config, store) for i, config in enumerate(configs)]  # every pair is checked first
    done = [job for job in jobs if job.folder.complete]
    failed = [] if options.retry else [job for job in jobs if not job.folder.complete and job.folder.failure() is not None]
    settled = {job.number for job in (*done, *failed)}
    todo = [job for job in jobs if job.number not in settled]
    for job in done:  # Misuse for one that is damaged, or without the model that is asked for
        carry_out(job.config, store, options)

    if threads is None and len(todo) == 1 and _is_small(todo[0].config) and "OMP_NUM_THREADS" not in os.environ:
        threads = 1
    slots = slots_for(len(todo), workers, threads, options.device)
    costs = Costs(store, environment(device)["device"], get_threads()) if len(todo) > 1 else None
    among = f"{len(slots)} workers, " if len(slots) > 1 else ""
    where = "cuda" if device.type == "cuda" else f"cpu ({among}threads: {get_threads()})"
    reporter = Reporter(todo, costs, where, reasons)
    say_what_stays(done, failed, len(jobs), reporter.display.say)
    plan = Plan([])
    with reporter.display, stop_signal() as stopping:
        if todo:
            engine: Engine
            if make:
                engine = make(reporter)
            elif len(slots) > 1:
                engine = Local(store, slots, reporter.memory, options)
            else:
                engine = Here(store, reporter, options, stopping)
            reporter.slots = engine.slots
            try:
                plan = conduct(todo, engine, reporter, stopping, patient, options.diagnose)
            finally:
                engine.close()
    if len(jobs) == 1:
        say_how_it_ended(plan)
    say_how_all_ended(plan, len(jobs), len(done), store, reporter.display.say)


SMALL = 2**17  # batch x width, below which two threads wait for each other longer than they work (measured on two cores)


def _is_small(config: Config) -> bool:
    return config.protocol.batch * config.protocol.width < SMALL


def slots_for(runs: int, workers: int | None, threads: int | None, device: str) -> list[Slot]:
    """How this machine is divided among so many runs. This process takes the threads of one of them."""
    from nsbench.campaign.local_engine import divide, gpus_of
    from nsbench.machine import cores, free_memory

    slots = divide(runs, workers, threads, cores(), gpus_of(device), free_memory())
    if len(slots) == 1 and threads is None:
        slots = [slots[0]._replace(threads=min(get_threads(), cores()))]  # torch goes by OMP_NUM_THREADS
    set_threads(slots[0].threads)
    return slots


def say_what_stays(done: list[Job], failed: list[Job], count: int, say: Callable[[str], None]) -> None:
    """Which runs there is nothing to do for."""
    if count == 1 and done:
        say(f"already done, nothing to do: {done[0].folder.path}")
    elif done:
        say(f"{len(done)} of {count} runs were already done")
    for job in failed:
        say(f"{job.config.name} is left out: it failed ({job.folder.failure()})")
    if failed:
        say(f"{len(failed)} runs failed earlier and are left out; --retry-failed runs them again")


def say_how_it_ended(plan: Plan) -> None:
    """Raise why an only run has no result."""
    from nsbench.campaign.conduct import State

    for _, reason in plan.failed:
        raise reason
    for job in plan.those(State.ELSEWHERE):
        raise Busy(f"another process is working on {job.folder.path}; wait for it or stop it")


def say_how_all_ended(plan: Plan, count: int, done_before: int, store: Path, say: Callable[[str], None]) -> None:
    """Say what is not done, and how to go on; exit code 1 for failed runs, 130 for a stop."""
    from nsbench.campaign.conduct import State

    if plan.store:
        raise plan.store
    if stopped := plan.those(State.INTERRUPTED):
        say(f"stopped; the same command goes on from {stopped[0].folder.path if count == 1 else store}")
        raise click.exceptions.Exit(130)
    if elsewhere := plan.those(State.ELSEWHERE):
        say(f"{len(elsewhere)} runs are with other processes; repeat the command when those are done")
    if failed := plan.failed:
        done = done_before + len(plan.those(State.DONE))
        rest = "the others are done" if done and done + len(failed) == count else "see nsbench status"
        names = ", ".join(job.config.name for job, _ in failed)
        raise RunFailed(f"{len(failed)} of {count} runs failed ({names}); {rest}")


HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # not on Windows


class stop_signal:
    """While active, the first Ctrl-C or SIGTERM, or a closed terminal, sets a flag that the run reads between steps; the
    second Ctrl-C or SIGTERM stops at once.
    """

    def __enter__(self) -> Callable[[], bool]:
        self.flag = threading.Event()
        self.before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *HANGUP):
                if number not in HANGUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
                    self.before[number] = signal.signal(number, self._heard)
        return self.flag.is_set

    def _heard(self, number: int, frame: Any) -> None:
        if self.flag.is_set():
            if number in HANGUP:  # shell and system may both tell
                return
            raise KeyboardInterrupt
        click.echo("stopping after this step, with a checkpoint (again: stop at once)", err=True)
        self.flag.set()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def parse_seeds(text: str) -> list[int]:
    """`5` is 0 to 4; `0,3,7` are those."""
    from nsbench.config.protocol import MOST_SEEDS

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
