"""The command line. Heavy imports wait until a command needs them: `nsbench --help` must answer at once."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click

import nsbench
from nsbench.commands import data, plugins, results, run, sweep, tune
from nsbench.commands.options import Commands
from nsbench.errors import Misuse, sentence, suggest

FIRST_STEPS = """nsbench compares negative samplers for knowledge-graph embedding. Three commands to try:

  nsbench demo                                      embedded data, ends in a comparison table
  nsbench run --sampler bernoulli --kge transe --dataset mkg_y
  nsbench list                                      samplers, models, datasets, protocols

nsbench --help shows the rest."""


class Cli(Commands):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            if not _unread():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None


def _unread() -> bool:
    """Whether the reader of our output has gone, as in `nsbench list | head -1`, and not that of some other pipe."""
    import select

    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


@click.group(cls=Cli, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsbench.__version__, prog_name="nsbench")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails; may stand anywhere.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Compare negative samplers for (multimodal) knowledge-graph embedding under one trainer, loss and budget.

    \b
    nsbench demo                           every sampler on embedded data, ends in a table
    nsbench run --sampler uniform,nscaching --kge transe --dataset mkg_y
    nsbench table
    """
    if context.invoked_subcommand is None:
        click.echo(FIRST_STEPS)


for command in (
    run.run,
    sweep.sweep,
    sweep.status,
    tune.tune,
    results.table,
    results.compare,
    results.plot,
    results.report,
    results.runs_,
    plugins.list_,
    plugins.show,
    plugins.check,
    plugins.inspect,
    plugins.new_sampler,
    data.data,
    plugins.bench,
    run.demo,
):
    cli.add_command(command)


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
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [name for option in error.ctx.command.params for name in option.opts]
        near = suggest(error.option_name, known)
        return f"unknown option {error.option_name}{near} ({error.ctx.command_path} --help)", 2
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "nsbench"
        return f"{error.format_message().rstrip('.')} ({where} --help)", 2
    if isinstance(error, click.ClickException):
        return error.format_message().rstrip("."), 2
    return sentence(error, "nsbench --debug ... shows where"), 1
