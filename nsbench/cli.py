"""The command line. Heavy imports wait until a command needs them: `nsbench --help` must answer at once."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

import nsbench
from nsbench import bugs, streams
from nsbench.commands import data, plugins, results, run, sweep, tune
from nsbench.commands.options import Commands
from nsbench.errors import Misuse, foreseen, suggest

FIRST_STEPS = """nsbench compares negative samplers for knowledge-graph embedding. Three commands to try:

  nsbench demo                                      embedded data, ends in a comparison table
  nsbench run --sampler bernoulli --kge transe --dataset mkg_y
  nsbench list                                      samplers, models, datasets, protocols

nsbench --help shows the rest."""


class Cli(Commands):
    def invoke(self, context: click.Context) -> Any:
        """What click would end the process for without a word is an error like others here."""
        try:
            return super().invoke(context)
        except SystemExit as error:
            raise RuntimeError(f"something that was loaded ends the process, exit code {error.code}") from error
        except (EOFError, BrokenPipeError) as error:  # of a file or another process: streams raise neither (nsbench.streams)
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


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
    with streams.lasting():
        code = carried_out(sys.argv[1:])
        if (trouble := streams.lost()) is not None:
            say_error(f"the output could not be written ({trouble.strerror}); free some space, or send it elsewhere")
            code = code or 1
    sys.exit(code)


def carried_out(words: list[str]) -> int:
    """The exit code of a command line."""
    arguments = [word for word in words if word != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            return cli.main(arguments, prog_name="nsbench", standalone_mode=False) or 0
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except Exception as error:
        if len(arguments) < len(words):
            raise
        sentence, code = refusal(error)
        say_error(sentence)
        return code


def say_error(sentence: str) -> None:
    click.echo(f"Error: {' '.join(sentence.split())}", err=True)


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
    if (sentence := foreseen(error)) is not None:
        return sentence, 1
    file = bugs.report(error)
    remedy = f"please report it with {file}, which says where" if file else "nsbench --debug ... shows where"
    return f"a bug in nsbench, {type(error).__name__}: {error}; {remedy}", 1
