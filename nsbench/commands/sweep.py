"""Commands for grids of runs: sweep and status."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nsbench.commands.options import (
    checkpoint_option,
    command,
    device_option,
    diagnostics_option,
    runs_option,
    threads_option,
    workers_option,
)
from nsbench.commands.run import get_threads, run_missing, slots_for
from nsbench.errors import Misuse
from nsbench.files import store_folder

if TYPE_CHECKING:
    from nsbench.campaign.engines import Engine, Job
    from nsbench.commands.reporter import Reporter
    from nsbench.runs.runner import RunOptions


@click.command()
@click.argument("grid")
@runs_option
@device_option
@workers_option
@threads_option
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes on this machine, or tasks of a Ray cluster (extra `ray`).",
)
@click.option("--address", help="Address of a running Ray cluster.  [default: one of this machine]")
@click.option("--retry-failed", is_flag=True, help="Run again what failed earlier.")
@click.option("--only", help="Runs by their number in the grid: 3, or 0-4,7.")
@diagnostics_option
@checkpoint_option
@click.option("--plan", "only_plan", is_flag=True, help="Print the runs, where each stands, and what the rest will cost.")
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="With --plan: try a few steps of each cell that the store says nothing of.",
)
@click.option("--slurm", is_flag=True, help="Print an array job of what is missing; run nothing.")
def sweep(
    grid: str,
    runs: Path | None,
    device: str,
    workers: int | None,
    threads: int | None,
    engine: str,
    address: str | None,
    retry_failed: bool,
    only: str | None,
    diagnose: bool,
    checkpoint_every: float,
    only_plan: bool,
    calibrate: bool,
    slurm: bool,
) -> None:
    """Run what is missing of a grid of runs: a TOML file, or one of the package by name (nsbench list).

    \b
    nsbench sweep classic --plan               where it stands, and what the rest will cost
    nsbench sweep mine.toml                    one process for each core; what is done stays
    nsbench sweep mine.toml --slurm > job.sh && sbatch job.sh

    The same command elsewhere on the same store helps. A grid:

    \b
    protocol = "cpu"
    seeds = 5
    [[grid]]                                   as many as needed; every list is a factor
    sampler = ["uniform", "nscaching"]
    kge = ["transe"]
    dataset = ["mkg_y"]                        further: fusion, aux, change, seeds, set
    """
    from nsbench.runs.runner import RunOptions

    if engine == "local" and address is not None:
        raise Misuse("--address is of a Ray cluster; add --engine ray")
    store = store_folder(runs)
    picked = jobs_of(grid, store, only)
    options = RunOptions(device, diagnose=diagnose, checkpoint_seconds=checkpoint_every, retry=retry_failed)
    each = threads or get_threads()
    if slurm:
        click.echo(array_job(grid, picked, store, each, options))
        return
    if only_plan:
        plan(picked, store, options, workers, threads, calibrate)
        return
    configs = [job.config for job in picked]
    if engine == "ray":
        options = dataclasses.replace(options, device="auto")  # the driver of a cluster may have no GPU
        make = functools.partial(ray_engine, store, address, workers, each, device, options)
        run_missing(configs, store, options, workers=1, threads=each, make=make)
    else:
        run_missing(configs, store, options, workers=workers, threads=threads)
    click.echo(f"next: {command('table', {'runs': runs})}")


@click.command()
@click.argument("grid", required=False)
@runs_option
def status(grid: str | None, runs: Path | None) -> None:
    """Show where runs stand: done, running (where, and how far), failed (and why), or missing.

    \b
    nsbench status                 all runs that the store has a folder of
    nsbench status classic         the runs of a grid, and the time left
    """
    from nsbench.campaign import status as standing

    store = store_folder(runs)
    if grid is None:
        folders = standing.of_store(store)
    else:
        jobs = jobs_of(grid, store)
        folders = [job.folder for job in jobs]
    states = [standing.state(folder) for folder in folders]
    for line in standing.lines(list(zip(folders, states))):
        click.echo(line)
    click.echo(standing.summary(states))
    running = sum(found.kind == "running" for found in states)
    if grid is not None and running:
        from nsbench.campaign.estimates import Costs, duration, together

        ahead = [(job, found) for job, found in zip(jobs, states) if found.kind in ("running", "begun", "missing")]
        whole = Costs(store).seconds([job.group for job, _ in ahead])
        left = [seconds if found.left is None else found.left for seconds, (_, found) in zip(whole, ahead)]
        if left:
            click.echo(f"about {duration(together(left, running))} left, {running} at a time")


def jobs_of(grid: str, store: Path, only: str | None = None) -> list[Job]:
    """The runs of a grid in its order, or `only` some by their numbers."""
    from nsbench.campaign import sweep as grids
    from nsbench.campaign.engines import Job

    configs = grids.read(grid, store)
    return [Job.of(i, configs[i], store) for i in numbered(only, len(configs))]


def plan(
    jobs: list[Job], store: Path, options: RunOptions, workers: int | None, threads: int | None, calibrated: bool
) -> None:
    """Print the runs with their states; then, by cell, what the rest will cost."""
    from tabulate import tabulate

    from nsbench.campaign import status
    from nsbench.campaign.estimates import Costs, calibrate, duration, together
    from nsbench.campaign.plan import dataset_of
    from nsbench.commands.display import counting
    from nsbench.runs.device import environment, pick_device

    target = pick_device(options.device)
    states = {job.number: status.state(job.folder) for job in jobs}
    for job in jobs:
        found = states[job.number]
        click.echo(f"{job.number:4}  {found.kind:8} {job.folder.path}{f' ({found.text})' if found.text else ''}")
    left = [job for job in jobs if states[job.number].kind in open_kinds(options.retry)]
    slots = slots_for(len(left), workers, threads, options.device)
    costs = Costs(store, environment(target)["device"], get_threads())
    groups = {job.group: job for job in left}
    unknown = [job for group, job in groups.items() if costs.of(group) is None]
    if unknown and calibrated:
        click.echo(f"trying {len(unknown)} cells, some seconds each (--no-calibrate leaves that out)", err=True)
        with counting("calibration", "cells") as progress:
            for i, job in enumerate(unknown):
                progress(i, len(unknown))
                costs.measured(job.group, calibrate(job.config, dataset_of(job.config), target, options.diagnose))
    rows = []
    for group, job in groups.items():
        runs = sum(other.group == group for other in left)
        cost = costs.of(group)
        shown = ("?", "?", "?") if cost is None else (duration(cost.seconds), f"{cost.memory / 1e9:.2f} GB", cost.source)
        rows.append([job.config.name.removesuffix(f"-s{job.config.seed}"), runs, *shown])
    if rows:
        header = ["cell", "runs", "time of a run", "peak memory", "from"]
        click.echo(tabulate(rows, header, disable_numparse=True, colalign=("left", "right", "right", "right", "left")))
    if seconds := costs.seconds([job.group for job in left]):
        known = sum(costs.of(job.group) is not None for job in left)
        part = "" if known == len(left) else f" ({known} of {len(left)} runs are known, the others taken as their mean)"
        click.echo(f"about {duration(sum(seconds))} for the rest, one run after another{part}")
        if len(slots) > 1:
            whole = duration(together(seconds, len(slots)))
            click.echo(f"about {whole} with {len(slots)} workers, if none slows another down")
    click.echo(status.summary(states.values()))


SLURM = """#!/bin/bash
#SBATCH --job-name=nsbench
#SBATCH --array={array}
#SBATCH --cpus-per-task={threads}
#SBATCH --signal=B:TERM@60
{further}# A task for each run that is missing ({missing} of {whole}). The store must be on a file system that all nodes see.
# What a task leaves behind, killed or out of time, the next submission goes on from: print this again and submit it.
{first}cd {here}
exec nsbench sweep {grid} --runs {store} --threads {threads} --device {device} {options} --only "$SLURM_ARRAY_TASK_ID"

{runs}"""


def open_kinds(retry: bool) -> tuple[str, ...]:
    """States of runs that are to be run."""
    return ("begun", "missing", "failed") if retry else ("begun", "missing")


def array_job(grid: str, jobs: list[Job], store: Path, threads: int, options: RunOptions) -> str:
    """A SLURM script: an array job with a task for each run that is missing. Misuse where none is."""
    from shlex import quote

    from nsbench.campaign import status
    from nsbench.campaign.estimates import Costs

    left = [job for job in jobs if status.state(job.folder).kind in open_kinds(options.retry)]
    if not left:
        raise Misuse("no run of the grid is missing; there is nothing to submit (nsbench status)")
    costs = Costs(store)
    known = [cost.memory for job in left if (cost := costs.of(job.group))]
    further = ""
    if options.device.startswith("cuda"):
        further = "#SBATCH --gres=gpu:1\n"
    elif len(known) == len(left):
        further = f"#SBATCH --mem={max(known) * 5 // 4 // 2**20 + 256}M\n"
    words = [f"--checkpoint-every {options.checkpoint_seconds:g}"]
    words += [] if options.diagnose else ["--no-diagnostics"]
    words += ["--retry-failed"] if options.retry else []
    references = {job.reference for job in left} if options.diagnose else set()
    first = ranges([job.number for job in left if job.folder.path in references])
    return SLURM.format(
        first=f"# The hardness of the others refers to runs {first}: give sbatch --array={first} first.\n" if first else "",
        array=ranges([job.number for job in left]),
        threads=threads,
        further=further,
        missing=len(left),
        whole=len(jobs),
        here=quote(str(Path.cwd())),
        grid=quote(grid),
        store=quote(str(store.resolve())),
        device=options.device,
        options=" ".join(words),
        runs="\n".join(f"# {job.number} {job.folder.path.name}" for job in left),
    )


def ray_engine(
    store: Path, address: str | None, workers: int | None, threads: int, device: str, options: RunOptions, reporter: Reporter
) -> Engine:
    from nsbench.campaign.ray_engine import Cluster

    cluster = Cluster(store, address, workers, threads, device, reporter.memory, options)
    reporter.where = f"a Ray cluster ({cluster.device}, {threads} threads each)"
    return cluster


def numbered(only: str | None, count: int) -> list[int]:
    """`0-2,7` is 0, 1, 2, 7; None is all. Misuse for what is not in the grid."""
    if only is None:
        return list(range(count))
    numbers: list[int] = []
    for part in only.split(","):
        first, dash, last = part.partition("-")
        try:
            asked = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise Misuse(f"--only takes numbers and ranges (3, or 0-4,7), not '{only}'") from None
        if not asked or asked[-1] >= count:
            raise Misuse(f"--only {only}: the grid has runs 0 to {count - 1}")
        numbers += asked
    return list(dict.fromkeys(numbers))


def ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 7 as `0-2,7`."""
    groups = [list(group) for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ",".join(str(g[0][1]) if len(g) == 1 else f"{g[0][1]}-{g[-1][1]}" for g in groups)
