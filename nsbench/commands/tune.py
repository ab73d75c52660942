"""The command tune: options by trials, the same budget for every sampler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsbench.commands.options import (
    FILE,
    cell_options,
    checkpoint_option,
    command,
    device_option,
    runs_option,
    set_threads,
    threads_option,
    words,
)
from nsbench.files import store_folder, write_text

if TYPE_CHECKING:
    from nsbench.tuning.study import Study


@click.command()
@cell_options
@click.option("--trials", type=click.IntRange(min=1), default=8, show_default=True, help="For each sampler.")
@click.option("--steps", type=click.IntRange(min=1), help="Of a trial.  [default: the protocol's]")
@click.option(
    "--backbone",
    type=click.Choice(["frozen", "alike"]),
    default="frozen",
    show_default=True,
    help="Learning rate, margin and regulariser: tuned once with uniform, or by every sampler for itself.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the search.")
@click.option("--storage", type=FILE, help="Of the trials.  [default: tune.db beside the run store]")
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("tuned.toml"),
    show_default=True,
    help="The protocol file to write.",
)
@runs_option
@device_option
@threads_option
@checkpoint_option
@click.option("--plan", "only_plan", is_flag=True, help="Print the studies, their spaces and what is done; run nothing.")
def tune(
    sampler: str,
    kge: str,
    dataset: str,
    trials: int,
    steps: int | None,
    storage: Path | None,
    output: Path,
    runs: Path | None,
    device: str,
    threads: int | None,
    checkpoint_every: float,
    only_plan: bool,
    **shared: Any,
) -> None:
    """Choose every sampler's options on validation, with as many trials of as many steps for each.

    \b
    nsbench tune --sampler uniform,nscaching --kge transe --dataset mkg_y -o tuned.toml
    nsbench tune ... --plan                    the studies, their spaces, and what is done
    nsbench run --sampler uniform,nscaching --protocol tuned.toml --seeds 5

    Writes a protocol file for `run --protocol` and `sweep`; tables made with it state the budget. A tuning that was stopped
    goes on with the same command, and two processes share the work. No trial sees a test triple.
    """
    from nsbench.campaign.choices import choose_fusion, choose_protocol
    from nsbench.campaign.plan import has_features
    from nsbench.commands.display import Display
    from nsbench.commands.run import stop_signal
    from nsbench.runs.device import pick_device
    from nsbench.runs.runner import Interrupted, RunOptions
    from nsbench.tuning import trials as tuning
    from nsbench.tuning import tuned
    from nsbench.tuning.ledger import Ledger
    from nsbench.tuning.study import Tuning, studies

    if threads is not None:
        set_threads(threads)
    tuned.check_output(output)
    shared["protocol"] = choose_protocol(shared["protocol"], str(pick_device(device))).value
    shared["fusion"] = choose_fusion(
        shared["fusion"],
        words(sampler),
        lambda: all(has_features(name, shared["split"], shared["features"]) for name in words(dataset)),
    ).value
    ledger = Ledger(storage or store_folder(runs).parent / "tune.db")
    plan = studies(Tuning(trials=trials, steps=steps, **shared), ledger, words(sampler), words(kge), words(dataset))
    if only_plan:
        show_plan(plan)
        return
    since, left = 0.0, None

    def missing() -> int:
        return sum(study.trials - len(study.done()) for study in plan)

    def ahead() -> float | None:
        return None if left is None else left - (time.monotonic() - since)

    with Display(missing(), ahead) as display, stop_signal() as stopping:

        def begin(study: Study, number: int) -> None:
            nonlocal since, left
            since, left = time.monotonic(), tuning.expected(plan)
            display.begin(f"{study.title}: trial {number} of 0 to {study.trials - 1}", missing())

        def end(study: Study, number: int) -> None:
            trial = study.done()[number]
            values = ", ".join(f"{name}={value}" for name, value in trial.values.items()) or "defaults"
            outcome = f"failed: {trial.reason}" if trial.mrr is None else f"validation MRR {100 * trial.mrr:.2f}"
            display.end(f"{study.title}: trial {number} ({values}): {outcome}")

        whole = sum(study.trials for study in plan)
        display.say(f"{len(plan)} studies, {missing()} of {whole} trials are missing ({ledger.file})")
        options = RunOptions(device=device, checkpoint_seconds=checkpoint_every)
        try:
            tuning.tune(plan, options, begin=begin, end=end, notify=display.hear, stopping=stopping)
        except Interrupted:
            display.say("stopped; the same command goes on from here")
            raise click.exceptions.Exit(130) from None
    write_text(output, tuned.protocol_text(plan, output))
    for line in tuned.summary(plan):
        click.echo(line)
    cell = {"sampler": sampler, "kge": kge, "dataset": dataset, "fusion": shared["fusion"], "protocol": output, "seeds": 5}
    click.echo(f"next: {command('run', cell)}")


def show_plan(plan: list[Study]) -> None:
    """Every study with its space, and how many of its trials are done."""
    from nsbench.options import shown

    for study in plan:
        click.echo(f"{study.title}: {len(study.done())} of {study.trials} trials are done")
        for name, search in study.space.items():
            click.echo(f"  {name}: {shown(search)}")
