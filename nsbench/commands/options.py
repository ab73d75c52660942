"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from nsbench.errors import Misuse, suggest
from nsbench.files import expanded, store_folder


class Place(click.Path):
    """A path, with ~ as the shell has it; the shell itself leaves --output=~/x and quoted words alone."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(path_type=Path, **rules)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value), param, ctx)


PATH, FILE, FOLDER = Place(), Place(dir_okay=False), Place(file_okay=False)


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one."""

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            path = context.command_path
            raise Misuse(f"unknown command '{args[0]}'{suggest(args[0], self.commands)} ({path} --help)")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of each command's help, whole."""
        commands = ((name, self.get_command(context, name)) for name in self.list_commands(context))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=500)) for name, command in commands if command])


def words(text: str) -> list[str]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise Misuse("an empty list of names was given; see nsbench list")
    return list(dict.fromkeys(found))


def filters(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """The values of --where by name. Misuse for a name with two values: the second would silently undo the first."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Misuse(f"--where takes NAME=VALUE, not '{text}'")
        if found.setdefault(name, value) != value:
            raise Misuse(f"--where names {name} twice; give it once: --where {name}={found[name]},{value} passes both")
    return found


def command(name: str, options: Mapping[str, object], settings: Iterable[str] = ()) -> str:
    """A command that can be pasted into a shell, with its options but those that are None or "auto", and --set."""
    given = [(option, str(value)) for option, value in options.items() if value not in (None, "auto")]
    pairs = [*given, *(("set", text) for text in settings)]
    return shlex.join(["nsbench", *name.split(), *(word for option, value in pairs for word in (f"--{option}", value))])


MOST_THREADS = 1024  # with a hundred times as many the process dies


def set_threads(threads: int) -> None:
    """Misuse for more than any machine has use for."""
    import torch

    from nsbench.machine import cores

    if threads > MOST_THREADS:
        raise Misuse(f"--threads must be at most {MOST_THREADS}, not {threads}; this machine has {cores()} cores")
    torch.set_num_threads(threads)


def one_fusion(context: click.Context, parameter: click.Parameter, given: str) -> str:
    """Samplers, models and datasets may be several; the fusion is one."""
    if "," in given:
        raise Misuse(f"--fusion takes one fusion a command, not '{given}'; a sweep takes several (nsbench sweep --help)")
    return given


def _folder(context: click.Context, parameter: click.Parameter, runs: Path | None) -> Path | None:
    """Refuse a packed store."""
    if (store := store_folder(runs)).is_file():
        merge = shlex.join(["nsbench", "runs", "merge", str(store)])
        raise Misuse(f"{store} is one file, which is only read; `{merge}` copies its runs into a folder")
    return runs


def _workers(context: click.Context, parameter: click.Parameter, given: str) -> int | None:
    """A number, None for auto."""
    if given == "auto":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise Misuse(f"--workers takes auto or a number from 1, not '{given}'")
    return int(given)


RUNS: dict[str, Any] = {"type": PATH, "help": "Run store.  [default: NSBENCH_RUNS or ./runs]"}
runs_option = click.option("--runs", callback=_folder, **RUNS)
read_option = click.option("--runs", **RUNS)  # of commands that write nothing into it
where_option = click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE",
    callback=filters,
    help="Only runs with this value, or one of several: dataset=mkg_y,mkg_w. Repeatable.",
)
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="GROUP.NAME=VALUE",
    help="Change an option: sampler.x=1, kge.x=1, fusion.x=1, protocol.steps=100, aux.NAME=0.1. Repeatable.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda (never tried on a real GPU yet)."
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of a run.  [default: OMP_NUM_THREADS, or all cores, divided among workers; 1 for small runs]",
)
workers_option = click.option(
    "--workers",
    default="auto",
    show_default=True,
    callback=_workers,
    help="Runs at a time, each in a process; 1: in this one; auto: one a core, on a GPU as many as fit, at most 4.",
)

diagnostics_option = click.option(
    "--diagnostics/--no-diagnostics",
    "diagnose",
    default=True,
    show_default=True,
    help="Measure what the samplers draw at start, middle and end; changes no other figure.",
)


def _number(context: click.Context, parameter: click.Parameter, given: float) -> float:
    """Not nan, which is neither below nor above any bound."""
    if given != given:
        raise Misuse(f"{parameter.opts[0]} takes a number, not nan")
    return given


checkpoint_option = click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    callback=_number,
    help="Seconds.",
)


def cell_options(command: Any) -> Any:
    """Which samplers, models and data, and under what: the options of commands that train."""
    for option in reversed(
        (
            click.option(
                "--sampler",
                default="uniform",
                show_default=True,
                help="One or several, comma-separated; ./mine.py:Class; or replay:RUN, the negatives of a finished run.",
            ),
            click.option("--kge", default="transe", show_default=True, help="One or several models, comma-separated."),
            click.option(
                "--dataset", default="mkg_y", show_default=True, help="One or several; a folder of your own works too."
            ),
            click.option(
                "--protocol",
                default="auto",
                show_default=True,
                help="A protocol by name, or a TOML file; auto: nsbench on a GPU, cpu where there is none.",
            ),
            click.option(
                "--fusion",
                default="auto",
                show_default=True,
                callback=one_fusion,
                help="How features enter entity vectors, one way for all; auto: as the samplers' papers have it.",
            ),
            click.option(
                "--split",
                type=click.Choice(["clean", "released"]),
                help="For DB15K: its released validation file is defective.",
            ),
            click.option(
                "--features",
                default="auto",
                show_default=True,
                help="Modalities, comma-separated (nsbench data list); mm: captions and the best text; auto: what the "
                "dataset brings; or none.",
            ),
        )
    ):
        command = option(command)
    return command
